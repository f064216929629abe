"""What the commands of `backups.py` do. Imported only when one runs."""

from pathlib import Path

import msgspec
import typer

from configsvc.cli import exits, misspelt, output
from configsvc.cli.options import Say, Where
from configsvc.cli.remote import Remote, Scope
from configsvc.cli.writing import ask, interruptible, is_production, must_ask, show_json, tell, waiting
from configsvc_client.admin_types import AdminError, Backup, Restored


async def save(where: Where, file: str, namespace: str | None, *, overwrite: bool) -> None:
    """Save a backup."""
    async with Remote(where) as remote:
        try:
            with waiting("backup", total=0) as progress:
                found = await remote.backup(
                    file,
                    namespace=namespace,
                    overwrite=overwrite,
                    timeout_s=max(60.0, where.timeout_s),
                    on_progress=progress,
                )
        except AdminError as error:
            if error.code != "scope_not_found" or not namespace:
                raise
            exits.fail(exits.FAILED, f"{error.detail}{misspelt.did_you_mean(await _near(remote, namespace))}")
    if where.as_json:
        output.line(output.json_text(msgspec.to_builtins(found), indent=2))
    else:
        output.line(f"{output.printable(found.path)}: {_described(found)}, {found.size:,} bytes, checksum right")


async def _near(remote: Remote, namespace: str) -> list[str]:
    """Namespaces that are called nearly so: those that have an environment which is looked at here, or production."""
    found = await misspelt.near(remote, Scope(namespace, remote.environment or "production"))
    return list(dict.fromkeys(one.namespace for one in found))


def _described(found: Backup) -> str:
    return f"{found.keys:,} keys of {found.head.namespace or 'all namespaces'} at revision {found.head.revision}"


async def restore_file(where: Where, say: Say, file: Path, namespace: str | None) -> None:
    """Restore a backup, or show what would come of it."""
    async with Remote(where) as remote:
        planned = await _send(remote, say, file, namespace, dry_run=True)
        named = [one.environment for one in planned.scopes]
        named.sort(key=is_production, reverse=True)
        asks = not say.dry_run and bool(named) and must_ask(named[0], say)
        if asks or say.dry_run:
            if say.dry_run and where.as_json:
                show_json(remote)
            else:
                _table(planned, planned=True)
        if any(one.blocked for one in planned.scopes):
            for one in planned.scopes:
                for problem in one.blocked:
                    exits.warn(f"{one.namespace}/{one.environment}: {output.printable(problem)}")
            raise typer.Exit(exits.DATA)
        if say.dry_run:
            return
        if asks:
            ask(f"Restore {len(planned.scopes)} scopes?")
        with interruptible():
            done = await _send(remote, say, file, namespace, dry_run=False)
        if where.as_json:
            show_json(remote)
        else:
            _table(done, planned=False)


async def _send(remote: Remote, say: Say, file: Path, namespace: str | None, *, dry_run: bool) -> Restored:
    with waiting("looking at the backup" if dry_run else "restoring", total=_size(file)) as progress:
        return await remote.restore(
            file, namespace=namespace, dry_run=dry_run, reason=say.reason, force=say.force, on_progress=progress
        )


def _size(file: Path) -> int:
    return file.stat().st_size


def _table(found: Restored, *, planned: bool) -> None:
    rows = [
        (
            f"{one.namespace}/{one.environment}",
            "nothing to change" if one.unchanged else f"{'would be ' if planned else ''}release {one.release}",
            str(one.changed),
            "; ".join([*one.blocked, *one.warnings]),
        )
        for one in found.scopes
    ]
    output.table(("scope", "what", "keys", "to know"), rows)


async def repair_scope(where: Where, say: Say) -> None:
    """Make a release of what is there."""
    async with Remote(where) as remote:
        scope = Scope(*await remote.scope())
        asks = must_ask(scope.environment, say)
        await misspelt.refuse(remote, scope)
        if asks:
            ask(f"Make a release of what is in {scope} now, whatever it is?")
        with waiting(f"repairing {scope}"), interruptible():
            done = await remote.repair(reason=say.reason)
        tell(remote, scope, done, as_json=where.as_json)
