"""What a writer's transaction is, in words: for transcripts, and to count what happened."""

from configsvc.core.model import (
    Head,
    Scope,
    Unreadable,
    content_prefix,
    decode_head,
    entry_path,
    head_path,
    labels_prefix,
    manifests_prefix,
    overrides_prefix,
    releases_prefix,
)
from configsvc.core.release import decode_manifest
from configsvc.etcd.ops import Compare, Delete, Put, Txn


def describe(scope: Scope, txn: Txn, head_raw: bytes | None) -> str:
    """The step of the protocol that a transaction is; what it is about comes after the word "of".

    `head_raw` is the head as it is now: putting the same again is a touch.
    """
    puts = {one.key: one.value for one in txn.success if isinstance(one, Put)}
    gone = [one.key for one in txn.success if isinstance(one, Delete)]
    raw = puts.get(head_path(scope))
    if raw is not None:
        return _head_step(scope, raw, head_raw, puts, gone)
    if any(key.startswith(content_prefix(scope, "")[:-1]) for key in puts):
        return "stage content"
    if any(key.startswith(releases_prefix(scope)) for key in gone):
        return "sweep"
    names = [key.rpartition(b"/")[2].decode() for key in (*puts, *gone)]
    if any(key.startswith((entry_path(scope, ""), overrides_prefix(scope))) for key in (*puts, *gone)):
        return f"chunk of {', '.join(names)}"
    if any(key.startswith(labels_prefix(scope)) for key in puts):
        return "note"
    return "note" if any(b"/idempotency/" in key for key in puts) else "turn"


def _head_step(scope: Scope, raw: bytes, before: bytes | None, puts: dict[bytes, bytes], gone: list[bytes]) -> str:
    head, was = decode_head(raw), head_of(before)
    manifest = next((value for key, value in puts.items() if key.startswith(manifests_prefix(scope))), None)
    signs = any(key.startswith(releases_prefix(scope) + b"w/") for key in puts)
    if head.applying is not None:
        if manifest is not None:
            return f"open of {head.applying.release} ({head.applying.kind})"
        return f"take over {head.applying.state} of {head.applying.release}" if signs else "verified"
    if any(key.startswith(manifests_prefix(scope)) for key in gone):
        return "undo"
    if was is not None and was.applying is not None:
        return f"close of {head.release}" if head.release > was.release else "abandon"
    if manifest is not None:
        return f"release of {head.release} ({decode_manifest(manifest).kind})"
    if raw == before or (before is None and head.release == 0):
        return "touch" if before is not None else "touch without a head"
    return f"head of release {head.release}"


def head_of(raw: bytes | None) -> Head | None:
    """A head, if it reads."""
    try:
        return decode_head(raw) if raw else None
    except Unreadable:
        return None


def at(key: bytes, revision: int) -> Compare:
    """Holds while a key is at a revision."""
    return Compare(key=key, target="MOD", value=revision)


def asked(id: str) -> str:
    """The id that a write came with; a later try of it has a number behind it."""
    return id.partition(".")[0]
