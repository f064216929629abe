"""Pieces of transactions: guards, puts of what is stored, and whether they fit. Pure, but for random content ids.

A content's records name an entry by its key and anything else by its whole etcd key, which begins with `/`.
"""

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence

from configsvc.core.commands import View
from configsvc.core.model import (
    RECEIPTS,
    Scope,
    content_prefix,
    encode_head,
    entry_path,
    epoch_path,
    head_path,
    labels_prefix,
    manifests_prefix,
    releases_prefix,
    schema_path,
)
from configsvc.core.plan import Plan
from configsvc.core.release import Receipt, Written, encode_content, encode_record, manifest_name
from configsvc.etcd import limits
from configsvc.etcd.ops import Ambiguous, Compare, Delete, EtcdError, Invalid, Put, Txn, Unavailable, Unreachable

OVERHEAD_BYTES = 128
"""What a record costs in a transaction beside its key, twice, and its value."""
HEAD_BYTES = 4096
"""Room for the fence."""
FIRST_CHUNK = b"/000000"
"""How the etcd key of a content's first chunk ends."""


def at(key: bytes, mod_revision: int) -> Compare:
    """Holds while a key is at a revision; 0: while it is absent."""
    return Compare(key=key, target="MOD", value=mod_revision)


def absent(key: bytes) -> Compare:
    """Holds while there is no such key."""
    return Compare(key=key, target="CREATE", value=0)


def staged(puts: Iterable[Put]) -> tuple[Compare, ...]:
    """Hold while contents are there that were staged: whoever stood still for an hour may find them removed."""
    return tuple(
        Compare(key=put.key, target="CREATE", value=0, result="GREATER")
        for put in puts
        if put.key.endswith(FIRST_CHUNK)
    )


def write(scope: Scope, record: Written) -> Put | Delete:
    """What makes one record of a content true."""
    path = path_of(scope, record)
    return Delete(key=path) if record.new is None else Put(key=path, value=record.new)


def path_of(scope: Scope, record: Written) -> bytes:
    """The etcd key that a record is about."""
    return record.key.encode() if record.key.startswith("/") else entry_path(scope, record.key)


def fits(txn: Txn) -> bool:
    """Whether etcd takes a transaction."""
    try:
        limits.check_txn(txn)
    except Invalid:
        return False
    return True


def passes(error: EtcdError) -> bool:
    """Whether the same request, sent again later, may work."""
    return isinstance(error, Unavailable | Unreachable | Ambiguous)


def manifest_path(scope: Scope, number: int) -> bytes:
    """The etcd key of a release's manifest."""
    return manifests_prefix(scope) + manifest_name(number)


def label_path(scope: Scope, label: str) -> bytes:
    """The etcd key of what a version label means."""
    return labels_prefix(scope) + label.encode()


def alive_path(scope: Scope, id: str) -> bytes:
    """The etcd key that is there while the writer of an apply window lives."""
    return releases_prefix(scope) + b"w/" + id.encode()


def guards(plan: Plan, view: View) -> tuple[Compare, ...]:
    """The guards on everything that a plan was made from, but for the keys that it changes."""
    epoch = epoch_path(plan.scope.namespace)
    found = [
        at(head_path(plan.scope), view.head_mod),
        at(schema_path(plan.scope.namespace), view.schema_mod),
        # Its value: after a rebuild by a script revisions may repeat, values do not.
        Compare(key=epoch, target="VALUE", value=view.epoch) if view.epoch is not None else absent(epoch),
    ]
    if plan.manifest.version:
        found.append(at(label_path(plan.scope, plan.manifest.version), view.label_mod))
    return tuple(found)


def label_put(plan: Plan) -> tuple[Put, ...]:
    """What the plan's label means from now on, where that is new."""
    if plan.label is None or plan.manifest.version is None:
        return ()
    return (Put(key=label_path(plan.scope, plan.manifest.version), value=encode_record(plan.label)),)


def receipt_for(plan: Plan, request: str) -> bytes:
    """The stored receipt of a request that makes a release."""
    return encode_record(Receipt(request=request, release=plan.number, id=plan.manifest.id))


def closing(scope: Scope, record: Written) -> bool:
    """Whether a record of a window is written when it closes: the head, labels, receipts."""
    return record.key.startswith((head_path(scope).decode(), labels_prefix(scope).decode(), RECEIPTS))


def window_content(plan: Plan, view: View, receipt: tuple[bytes, bytes] | None) -> list[Written]:
    """Everything that a window writes: entries, records beside them, and what its close puts, the head last."""
    content = plan.content()
    content += [Written(put.key.decode(), None, put.value) for put in label_put(plan)]
    if receipt:
        content.append(Written(receipt[0].decode(), None, receipt[1]))
    content.append(Written(head_path(plan.scope).decode(), view.head_raw, encode_head(plan.head, view.head_raw)))
    return content


def batches(scope: Scope, content: Iterable[Written], *, max_records: int) -> Iterator[list[Written]]:
    """What a window writes before it closes, in chunks that one transaction holds with a compare for each key."""
    batch: list[Written] = []
    size = 0
    for record in content:
        if record.old == record.new or closing(scope, record):
            continue
        cost = 2 * len(path_of(scope, record)) + len(record.new or b"") + OVERHEAD_BYTES
        if batch and (len(batch) == max_records or size + cost > limits.MAX_TXN_BYTES - HEAD_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += cost
    if batch:
        yield batch


def digest(content: Iterable[Written]) -> str:
    """The hash of a content's bytes, by which a window knows its own."""
    found = hashlib.sha256()
    for chunk in encode_content(content):
        found.update(chunk)
    return found.hexdigest()


def new_id() -> str:
    """A random name for a content or a release."""
    return secrets.token_hex(16)


def content_puts(scope: Scope, id: str, content: Sequence[Written]) -> list[Put]:
    """The chunks of a content; none for an empty one."""
    prefix = content_prefix(scope, id)
    return [Put(key=prefix + b"%06d" % i, value=chunk) for i, chunk in enumerate(encode_content(content))]
