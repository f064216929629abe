"""The command `configsvc`, also as `python -m configsvc`.

`configsvc serve` as production starts it is not parsed: see `cli/process.py`. The base install has this entry point,
but not the packages that the commands need: then it says what to install. Knows no other command; those are in `cli/`.
"""

import os
import sys
from pathlib import Path

from configsvc import __version__

EXIT_USAGE = 2
EXIT_CONFIG = 78
COMPLETION = "_CONFIGSVC_COMPLETE"
"""Set by a shell that asks how a line may go on."""
SERVER_EXTRA = ("prometheus_client", "rich", "ruamel", "structlog", "typer")


def main() -> None:
    """Run the command line; exits 78 with one line where the extra `server` is not installed."""
    try:
        _run(sys.argv[1:])
    except UnicodeEncodeError:
        bad = [one for one in sys.argv[1:] if any("\udc80" <= char <= "\udcff" for char in one)]
        if not bad:
            raise
        print(f"configsvc: {bad[0]!a} is not UTF-8", file=sys.stderr)  # noqa: T201
        raise SystemExit(EXIT_USAGE) from None
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in SERVER_EXTRA:
            raise
        if sys.argv[1:] in (["--version"], ["version"]):
            print(f"configsvc {__version__}")  # noqa: T201
            return
        if COMPLETION in os.environ:
            # A key was pressed in a shell: an error would land in the middle of what is being typed.
            raise SystemExit(EXIT_CONFIG) from None
        print(  # noqa: T201 - rich may be what is missing
            f"configsvc: the service is not installed here, only the client (no module {missing}): "
            f"pip install 'configsvc[{'server,local' if sys.argv[1:2] == ['dev'] else 'server'}]'",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_CONFIG) from None


def _run(arguments: list[str]) -> None:
    if COMPLETION not in os.environ and (arguments == ["serve"] or arguments[:-1] == ["serve", "--config"]):
        from configsvc import signals

        signals.begin()
        from configsvc.cli.process import serve

        serve(Path(arguments[2]) if arguments[1:] else None)
    from configsvc.cli import app

    app(prog_name="configsvc")


if __name__ == "__main__":
    main()
