"""`plan`, `deploy`, `promote`, `rollback`: what the whole scope should be."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from configsvc.cli import exits
from configsvc.cli.options import (
    ApprovedBy,
    ExitCode,
    GitCommit,
    Overrides,
    Say,
    Version,
    Where,
    policy,
    says,
    writes,
)

File = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="All values, as YAML or (FILE.json, or beginning with {) JSON; - is stdin."),
]


@says("reason", "force")
def plan(
    where: Where,
    say: Say,
    file: File,
    version: Version = None,
    overrides: Overrides = "refuse",
    git_commit: GitCommit = None,
    approved_by: ApprovedBy = None,
    exit_code: ExitCode = False,
) -> None:
    """Show what a deploy would do, and what stands in its way.

    Deletes come first. The last line is the command that applies exactly this plan, and refuses if anything moved.

    Example: configsvc plan values.yaml --version v42

    Exit codes: 0, 1 with --exit-code if anything changes, 65 invalid values or guards, 76 a conflict.
    """
    named = {"version": version, "overrides": policy(overrides), "git_commit": git_commit, "approved_by": approved_by}
    _deploy(where, say._replace(dry_run=True), file, named, difference=exit_code)


@writes
def deploy(
    where: Where,
    say: Say,
    file: File,
    version: Version = None,
    overrides: Overrides = "refuse",
    git_commit: GitCommit = None,
    approved_by: ApprovedBy = None,
) -> None:
    """Make the scope what a file says; what is not in it is deleted.

    Example: configsvc deploy values.yaml --version v42 --reason "larger pool"

    Exit codes: 0, 65 invalid values or guards, 75 try again, 76 a conflict, 77 not allowed.
    """
    named = {"version": version, "overrides": policy(overrides), "git_commit": git_commit, "approved_by": approved_by}
    _deploy(where, say, file, named)


def _deploy(where: Where, say: Say, file: Path, named: dict[str, Any], *, difference: bool = False) -> None:
    values = _read(file)
    named["media"] = "application/json" if file.suffix == ".json" else "application/yaml" if file.suffix else None
    from configsvc.cli.remote import call
    from configsvc.cli.writing import write

    what = f"deploy of {named['version']}" if named["version"] else "deploy"
    call(
        write(
            where, say, lambda remote, options: remote.deploy(values, **named, **options), what, difference=difference
        ),
        "stdin" if str(file) == "-" else str(file),
    )


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        exits.fail(exits.USAGE, f"{file}: {error.strerror}")


@writes
def promote(
    where: Where,
    say: Say,
    source: Annotated[str, typer.Option("--from", metavar="ENVIRONMENT", help="Where it was deployed to before.")],
    version: Version = None,
    overrides: Overrides = "refuse",
    approved_by: ApprovedBy = None,
) -> None:
    """Make the scope what was deployed to another environment, but for the keys of its own.

    Example: configsvc promote --from staging --environment production --dry-run

    Exit codes: as those of deploy; 1 nothing was released to the other environment.
    """
    taken = policy(overrides)
    from configsvc.cli.remote import call
    from configsvc.cli.writing import promoting, write

    call(
        write(
            where,
            say,
            promoting(source, version=version, overrides=taken, approved_by=approved_by),
            f"promotion of {source}",
        )
    )


@writes
def rollback(
    where: Where,
    say: Say,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The release to go back to: a label, @17 or 17.")],
    overrides: Overrides = "refuse",
) -> None:
    """Make the scope what a release left, byte for byte, as a new release.

    Example: configsvc rollback v41 --reason "pool too large"

    Exit codes: as those of deploy; 1 there is no such release, or it is not kept any more.
    """
    taken = policy(overrides)
    from configsvc.cli.remote import call
    from configsvc.cli.writing import write

    call(
        write(
            where,
            say,
            lambda remote, options: remote.rollback(version, overrides=taken, **options),
            f"rollback to {version}",
        )
    )
