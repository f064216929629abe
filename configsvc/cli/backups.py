"""`backup`, `restore`, `repair`: a store as a whole, and a scope whose history cannot be used."""

from pathlib import Path
from typing import Annotated

import typer

from configsvc.cli import exits
from configsvc.cli.options import Say, Where, of_all, says

OnlyNamespace = Annotated[
    str | None, typer.Option("--only", "--namespace", metavar="NAME", help="Only this namespace; without: all.")
]


@of_all()
def backup(
    where: Where,
    # A Path would forget the separator at its end.
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="The file to write, or a folder to write one into; FOLDER/ is made where it is not there.",
        ),
    ],
    only: OnlyNamespace = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also where there is such a file already.")] = False,
) -> None:
    """Save everything, values and history, as of one moment to a file.

    The file is checked to its last byte before it gets its name; only its owner may read it.

    Example: configsvc backup /var/backups/configsvc/

    Exit codes: 0, 1 the file is there already or cannot be written, or there is no such namespace, 69 no service
    answers, 77 not allowed.
    """
    from configsvc.cli.remote import call
    from configsvc.cli.saving import save

    try:
        call(save(where, file, only, overwrite=overwrite))
    except FileExistsError as error:
        exits.fail(exits.FAILED, f"{error}; --overwrite replaces it")
    except OSError as error:
        exits.fail(exits.FAILED, f"{file}: {error.strerror}")


@of_all("reason", "force", "dry_run", "yes", "confirm")
def restore(
    where: Where,
    say: Say,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that backup made.")],
    only: OnlyNamespace = None,
) -> None:
    """Make each scope what a backup has, as a new release.

    Scopes that the backup does not have are left alone. The file is checked before anything is sent.

    Example: configsvc restore all-2026-03-01T093000000Z.configsvc.gz --dry-run

    Exit codes: 0, 1 the file cannot be read, 65 it is no whole backup or a guard stops it, 75 try again, 76 a conflict.
    """
    from configsvc.cli.remote import call
    from configsvc.cli.saving import restore_file

    try:
        call(restore_file(where, say, file, only), str(file))
    except OSError as error:
        exits.fail(exits.FAILED, f"{file}: {error.strerror}")


@says("reason", "yes", "confirm")
def repair(where: Where, say: Say) -> None:
    """Make a release of what is there, where a scope's history cannot be used any more.

    Example: configsvc repair --reason "history lost with the disk"

    Exit codes: 0, 1 nothing is stored there, 69 no service answers, 75 try again, 77 not allowed.
    """
    from configsvc.cli.remote import call
    from configsvc.cli.saving import repair_scope

    call(repair_scope(where, say))
