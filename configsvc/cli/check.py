"""`configsvc check`: whether the service would run well here, and what to do where it would not."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from configsvc.cli import exits
from configsvc.cli.options import Timeout
from configsvc.cli.process import load_settings
from configsvc.cli.serve import ConfigFile

if TYPE_CHECKING:
    from configsvc.checks_etcd import Finding


def check(
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
    timeout_s: Timeout = 5.0,
    progress_s: Annotated[
        float,
        typer.Option(
            "--progress-s",
            metavar="SECONDS",
            min=0,
            max=3600,
            help="How long to listen for a progress notice of etcd; 0: not at all.",
        ),
    ] = 6.0,
) -> None:
    """Check etcd, its users, the scope and the port.

    All as the settings name them; nothing is changed.

    Example: SERVICE_NAME=payments ETCD_ENDPOINTS=http://etcd-1:2379 configsvc check

    Exit codes: 0 all is well (there may be warnings), 1 something would not work, 78 wrong settings.
    """
    settings = load_settings(config)
    from configsvc.checks import judge, verdict
    from configsvc.cli.gathering import gather
    from configsvc.etcd.ops import Refused

    if not as_json:
        for warning in settings.warnings:
            exits.warn(f"warning: {warning}")
    try:
        found = judge(asyncio.run(gather(settings, timeout_s=timeout_s, progress_s=progress_s)))
    except Refused as error:
        exits.fail(exits.CONFIG, error.detail)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    status = verdict(found)
    _print(found, status, settings.warnings, as_json=as_json)
    raise typer.Exit(exits.FAILED if status == "failure" else 0)


def _print(found: "list[Finding]", status: str, warnings: tuple[str, ...], *, as_json: bool) -> None:
    from configsvc.cli import output

    if as_json:
        output.line(output.json_text({"status": status, "settings": warnings, "findings": found}, indent=2))
    elif output.is_terminal():
        _print_for_people(found)
    else:
        for one in found:
            output.line("\t".join(map(output.printable, (one.level, one.check, one.subject, one.text, one.todo))))


def _print_for_people(found: "list[Finding]") -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from configsvc.cli.output import printable

    styles = {"ok": "green", "unknown": "yellow", "warning": "yellow", "failure": "bold red"}
    out, last = Console(highlight=False), None
    for one in found:
        if (one.subject or one.check) != last:
            last = one.subject or one.check
            out.print(Text(printable(last), "bold"))
        grid = Table.grid()
        grid.add_column(width=9)
        grid.add_column(overflow="fold")
        grid.add_row(Text(one.level, styles[one.level]), Text(printable(one.text)))
        if one.todo:
            grid.add_row("", Text(f"-> {printable(one.todo)}", "cyan"))
        out.print(Padding(grid, (0, 0, 0, 2)))
    counts = [(sum(one.level == level for one in found), level) for level in styles]
    plural = {"warning": "warnings", "failure": "failures"}
    said = [f"{count} {plural.get(level, level) if count > 1 else level}" for count, level in counts if count]
    out.print(Text("\n" + ", ".join(said)))
