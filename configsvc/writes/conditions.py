"""`If-Match` on a write: whether a scope is still as its sender has read it."""

from collections.abc import Iterable

from configsvc.core.commands import View
from configsvc.core.model import Head, epoch_of, locate, scope_prefix
from configsvc.errors import PreconditionFailed
from configsvc.etcd.ops import Compacted, Etcd, FutureRevision, KeyValue
from configsvc.writes.reading import decoded
from configsvc.writes.threads import off_loop
from configsvc_client.protocol import EventId


async def changed_since(etcd: Etcd, view: View, known: EventId) -> PreconditionFailed | None:
    """Why a scope is not as it was at a revision, by etcd's own past; None where it is. Raises `EtcdError` kinds."""
    epoch = epoch_of(view.cluster_id, view.epoch or b"", "")
    why = None
    if epoch != known.epoch:
        why = f"its history is {epoch} now"
    else:
        try:
            # Asked for revision 0, before which nothing was, etcd answers with what is there now.
            past = (await etcd.list(scope_prefix(view.scope), revision=known.revision)).kvs if known.revision else []
            why = await off_loop(len(past), _difference, past, view)
            if view.schema_mod > known.revision:
                why = why or "its schema has changed since"
        except Compacted:
            why = "that is too long ago to tell"
        except FutureRevision:
            why = "etcd has not been there yet"
    if why is None:
        return None
    return PreconditionFailed(
        f"{view.scope} is not as it was at revision {known.revision}: {why}; read it again",
        revision=view.revision,
        epoch=epoch,
    )


def _difference(past: Iterable[KeyValue], view: View) -> str | None:
    """What is not as it was, for its readers: a freeze is no change, nor is the touch of a head."""
    then: dict[str, int] = {}
    head = None
    for kv in past:
        place = locate(kv.key)
        if place.kind == "entry":
            then[place.name] = kv.mod_revision
        elif place.kind == "head":
            head = decoded(kv)
    if then != {key: stored.mod_revision for key, stored in view.entries.items()}:
        return "its values have changed since"
    was, now = head or Head(), view.head or Head()
    return None if (was.release, was.id) == (now.release, now.id) else "it has another release"
