"""All commands, as one application of typer."""

from typing import Annotated

import typer

from configsvc import __version__
from configsvc.cli.backups import backup, repair, restore
from configsvc.cli.changing import emergency, freeze, own_keys, set_, unfreeze, unset
from configsvc.cli.check import check
from configsvc.cli.deploying import deploy, plan, promote, rollback
from configsvc.cli.dev import dev
from configsvc.cli.get import get
from configsvc.cli.looking import diff, drift, history, show, status
from configsvc.cli.options import Paired, Valued
from configsvc.cli.serve import serve
from configsvc.cli.settings import settings
from configsvc.cli.watch import watch

app = typer.Typer(
    help="Configuration service on etcd: live configuration for applications.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(serve)
app.command()(dev)
app.command()(check)
app.command()(settings)
app.command()(get)
app.command()(watch)
app.command()(status)
app.command(name="set", cls=Paired)(set_)
app.command()(unset)
app.command()(plan)
app.command()(deploy)
app.command()(promote)
app.command()(rollback)
app.command(cls=Valued)(emergency)
app.command()(freeze)
app.command()(unfreeze)
app.command()(own_keys)
app.command()(history)
app.command()(show)
app.command()(diff)
app.command()(drift)
app.command()(backup)
app.command()(restore)
app.command()(repair)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"configsvc {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Configuration service on etcd: live configuration for applications."""


@app.command()
def version() -> None:
    """Print the version."""
    _print_version(True)
