"""The options that commands share which talk to a running service, each written down once.

A command of `asks` gets a `Where`, one of `writes` a `Say` too; what they are made of is added to its own parameters.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The service; several: comma separated. Default: CONFIGSVC_URL, else http://127.0.0.1:8080, "
        "else http://config-service:8080.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", metavar="NAME", help="Default: SERVICE_NAME, else what the service says is its own."),
]
Environment = Annotated[
    str | None,
    typer.Option(
        "--environment", metavar="NAME", help="Default: CONFIG_ENVIRONMENT, else what the service says is its own."
    ),
]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help="Holds the token. Default: CONFIG_TOKEN_FILE.")
]
Timeout = Annotated[
    float, typer.Option("--timeout-s", metavar="SECONDS", min=0.1, max=3600, help="How long to wait for an answer.")
]
Json = Annotated[bool, typer.Option("--json", help="The service's whole answer.")]

Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; kept in the history.")]
Force = Annotated[
    str | None,
    typer.Option("--force", metavar="WHY", help="Why the guards against accidents do not apply this time."),
]
Digest = Annotated[
    str | None, typer.Option("--digest", metavar="DIGEST", help="Apply this plan, as a dry run named it, and no other.")
]
BaseRelease = Annotated[
    int | None,
    typer.Option("--base-release", metavar="NUMBER", min=0, help="Refuse unless the scope is at this release."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would happen, and what stands in the way.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask, also where it is production.")]
Confirm = Annotated[bool, typer.Option("--confirm", help="Show the plan and ask, as for production.")]

Overrides = Annotated[
    str,
    typer.Option(
        "--overrides",
        metavar="refuse|keep|discard",
        help="Pending overrides that would change: refuse the write, keep them, or discard them.",
    ),
]
Version = Annotated[
    str | None, typer.Option("--version", metavar="LABEL", help="The release's label, such as a tag or a commit.")
]
ApprovedBy = Annotated[
    str | None, typer.Option("--approved-by", metavar="NAME", help="Who approved it; kept with the values.")
]
GitCommit = Annotated[str | None, typer.Option("--git-commit", metavar="COMMIT", help="The commit that it comes from.")]
ExitCode = Annotated[bool, typer.Option("--exit-code", help="Exit with 1 where there is any difference.")]
Ttl = Annotated[
    str | None,
    typer.Option("--ttl", metavar="TIME", help="After this time it ends by itself: 90 (seconds), 15m, 2h, 1d, 1h30m."),
]


class Where(NamedTuple):
    """Which service and scope are meant, and how the answer is shown."""

    url: str | None = None
    namespace: str | None = None
    environment: str | None = None
    token_file: Path | None = None
    timeout_s: float = 30.0
    as_json: bool = False


class Say(NamedTuple):
    """What is said about a write; what a command does not offer has its default."""

    reason: str | None = None
    force: str | None = None
    digest: str | None = None
    base_release: int | None = None
    dry_run: bool = False
    yes: bool = False
    confirm: bool = False


_WHERE = {
    "url": (Url, None),
    "namespace": (Namespace, None),
    "environment": (Environment, None),
    "token_file": (TokenFile, None),
    "as_json": (Json, False),
    "timeout_s": (Timeout, 30.0),
}
_SAY = {
    "reason": (Reason, None),
    "force": (Force, None),
    "digest": (Digest, None),
    "base_release": (BaseRelease, None),
    "dry_run": (DryRun, False),
    "yes": (Yes, False),
    "confirm": (Confirm, False),
}

Command = Callable[..., None]


def asks(command: Command) -> Command:
    """Make a command of one that takes a `Where` first."""
    return _with_options(command, {})


def writes(command: Command) -> Command:
    """Make a command of one that takes a `Where` and a `Say` first, and all that may be said."""
    return _with_options(command, _SAY)


def says(*names: str) -> Callable[[Command], Command]:
    """The same, where only some of it may be said."""
    return lambda command: _with_options(command, {name: _SAY[name] for name in names})


def of_all(*names: str) -> Callable[[Command], Command]:
    """The same for a command about all scopes: it takes neither namespace nor environment for the one that is meant."""
    where = {name: option for name, option in _WHERE.items() if name not in ("namespace", "environment")}
    return lambda command: _with_options(command, {name: _SAY[name] for name in names}, where)


def _with_options(command: Command, say: dict[str, Any], named: dict[str, Any] = _WHERE) -> Command:
    signature = inspect.signature(command)
    first = 2 if say else 1
    own = [one.replace(kind=one.KEYWORD_ONLY) for one in list(signature.parameters.values())[first:]]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in (say | named).items()
    ]

    def run(**values: Any) -> None:
        where = Where(**{name: values.pop(name) for name in named})
        told = (Say(**{name: values.pop(name) for name in say}),) if say else ()
        command(where, *told, **values)

    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    run.__module__ = command.__module__
    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in (*own, *added)}
    return run


class Valued(TyperCommand):
    """A command that takes a value, which may begin with a dash; `way` is how such a one can be written."""

    way = "comes after --"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # By its attributes: typer has brought this error from one place and another.
            name = getattr(error, "option_name", None) or ""
            if type(error).__name__ == "NoSuchOption" and not name.startswith("--"):
                error.message += f"; a value that begins with - {self.way}"  # type: ignore[attr-defined]
            raise


class Paired(Valued):
    """The same where a key and its value may be one word."""

    way = "is written as KEY=-5, or comes after --"


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_MAX_DAYS = 366


def seconds(text: str, option: str) -> float:
    """A time as people write it, in seconds: `90`, `90s`, `15m`, `2h`, `1d`, `1h30m`; from a second to 366 days."""
    parts = re.findall(r"([0-9]{1,9})([smhd]?)", text)
    if not parts or "".join(map("".join, parts)) != text or (len(parts) > 1 and not all(unit for _, unit in parts)):
        raise typer.BadParameter(f"{option} {text!r} is no time; 90 (seconds), 15m, 2h, 1d and 1h30m are")
    found = float(sum(int(count) * _UNITS[unit] for count, unit in parts))
    if not 1 <= found <= _MAX_DAYS * _UNITS["d"]:
        raise typer.BadParameter(f"{option} {text!r} is out of bounds: from 1 second to {_MAX_DAYS} days")
    return found


def policy(overrides: str) -> Any:
    """What is to become of pending overrides."""
    if overrides not in ("refuse", "keep", "discard"):
        raise typer.BadParameter(f"--overrides takes refuse, keep or discard, not {overrides!r}")
    return overrides
