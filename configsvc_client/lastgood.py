"""The last-known-good file of a scope as data: its format, its name, and when it is believed or replaced.

Pure: bytes and times come in, states and reasons go out; files are `disk.py`'s. Three parts, each covered by a
checksum, so that no truncation and no flipped bit passes:

    configsvc-client-state 1 <SHA-256 of the next line>
    {"namespace": …, "environment": …, "epoch": …, "revision": …, "position": …, …, "size": …, "sha256": …}
    {"key": {"value": …}, …}

The second line says what the rest is, so that who wants to replace a file of 20 MB reads 4 KiB of it. A small file of
the same make remembers which scope a list of addresses turned out to be.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, TypeVar

import msgspec

from configsvc_client.doubt import Proof
from configsvc_client.entries import encoded
from configsvc_client.protocol import Entry, EventId, check_nesting, parse_event_id
from configsvc_client.snapshot import Snapshot

FORMAT = 1
SUFFIX = ".lastgood"
HEAD_LINES = 2
"""A file's head is its first lines."""
HEAD_BYTES = 4096
"""They are seldom longer."""
CLOCK_TOLERANCE_S = 86_400.0
"""A time that is so little ahead of the clock counts as now: machines without a battery start with the time of their
last shutdown, and some clocks are set to local time. Further ahead nobody knows how old the state is."""
REFRESH_S = 300.0
"""A state that does not change is written again so often, for its age counts from when it was last proved."""

_STATE, _SCOPE = "configsvc-client-state", "configsvc-client-scope"
_MAX_READABLE = 40

Time = Annotated[datetime, msgspec.Meta(tz=True)]
T = TypeVar("T")


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says of its state.

    `position` is up to where it was proved, `proved_at` when last; `left` are the histories that came before.
    """

    namespace: str
    environment: str
    epoch: str
    revision: int
    position: int
    release: int | None
    version: str | None
    proved_at: Time
    left: tuple[str, ...] = ()
    size: int
    sha256: str


class KnownScope(msgspec.Struct, frozen=True, kw_only=True):
    """Which scope a client was given, that asked these addresses and named this much of the scope itself."""

    urls: tuple[str, ...]
    asked: tuple[str | None, str | None]
    namespace: str
    environment: str


class Refused(ValueError):
    """A file that is not believed; the text says why, and what to do."""


_entries_decoder = msgspec.json.Decoder(dict[str, Entry])

DAMAGED = "nothing needs to be done, it is replaced as soon as a service answers"


# ---- names -----------------------------------------------------------------------------------------------------------


def state_name(namespace: str, environment: str) -> str:
    """The file of a scope: readable, and one per scope also where a file system ignores case."""
    readable = f"{namespace[:_MAX_READABLE]}.{environment[:_MAX_READABLE]}".lower()
    # No valid name holds a space, so no two scopes are hashed alike.
    return f"scope-{readable}-{_hash(f'{namespace} {environment}'.encode())[:24]}{SUFFIX}"


def known_scope_name(urls: Sequence[str], asked: tuple[str | None, str | None]) -> str:
    """The file that remembers which scope these addresses serve."""
    return f"addresses-{_hash(msgspec.json.encode([urls, asked]))[:24]}{SUFFIX}"


# ---- bytes -----------------------------------------------------------------------------------------------------------


def encode(proof: Proof, now: datetime) -> bytes:
    """The whole file. `now` is the wall time that the proof's age counts back from."""
    pieces, size, digest = [], 0, hashlib.sha256()
    for piece in encoded(proof.snapshot.entries):
        pieces.append(piece)
        size += len(piece)
        # Lets other threads in, for a piece of some size.
        digest.update(piece)
    return b"".join([_seal(_STATE, head_of(proof, now, size, digest.hexdigest())), *pieces])


def head_of(proof: Proof, now: datetime, size: int = 0, sha256: str = "") -> Head:
    """What the file of a state will say of it."""
    snapshot = proof.snapshot
    return Head(
        namespace=snapshot.namespace,
        environment=snapshot.environment,
        epoch=proof.position.epoch,
        revision=snapshot.revision,
        position=proof.position.revision,
        release=snapshot.release,
        version=snapshot.version,
        proved_at=now - timedelta(seconds=proof.age_s),
        left=proof.left,
        size=size,
        sha256=sha256,
    )


def decode_head(content: bytes) -> Head:
    """What a file says of itself, from its beginning; raises `Refused`."""
    return _unseal(_STATE, content, Head)[0]


def decode(content: bytes, *, namespace: str, environment: str, now: datetime, max_age_s: float) -> Proof:
    """The state of a file that can be believed; raises `Refused`, with the reason, for any other."""
    head, payload = _unseal(_STATE, content, Head)
    age_s = judge(head, namespace=namespace, environment=environment, now=now, max_age_s=max_age_s)
    if len(payload) != head.size:
        raise Refused(f"it is {'cut short' if len(payload) < head.size else 'too long'}; {DAMAGED}")
    if _hash(payload) != head.sha256:
        raise Refused(f"it is damaged (wrong checksum); {DAMAGED}")
    position = EventId(head.epoch, head.position)
    try:
        entries = _entries_decoder.decode(payload)
        check_nesting(entries)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"it does not read ({error}); {DAMAGED}") from error
    if parse_event_id(str(position)) is None or head.position < head.revision:
        raise Refused(f"its position {position} makes no sense; {DAMAGED}")
    snapshot = Snapshot(
        namespace=namespace,
        environment=environment,
        epoch=head.epoch,
        revision=head.revision,
        release=head.release,
        version=head.version,
        entries=entries,
    )
    return Proof(snapshot, position, age_s, head.left)


def encode_known_scope(known: KnownScope) -> bytes:
    """The whole file that remembers a scope."""
    return _seal(_SCOPE, known)


def decode_known_scope(content: bytes, urls: Sequence[str], asked: tuple[str | None, str | None]) -> KnownScope:
    """The scope that was remembered for exactly this question; raises `Refused`."""
    known, rest = _unseal(_SCOPE, content, KnownScope)
    if rest or known.urls != tuple(urls) or known.asked != asked:
        raise Refused(f"it belongs to other addresses; {DAMAGED}")
    return known


def _seal(what: str, head: msgspec.Struct) -> bytes:
    line = msgspec.json.encode(head)
    return f"{what} {FORMAT} {_hash(line)}\n".encode() + line + b"\n"


def _unseal(what: str, content: bytes, kind: type[T]) -> tuple[T, bytes]:
    first, has_first, rest = content.partition(b"\n")
    words = first.split(b" ")
    if words[0] != what.encode() or len(words) != 3:
        raise Refused(f"it is {'empty' if not content else 'no last-known-good file'}; {DAMAGED}")
    if words[1] != str(FORMAT).encode():
        raise Refused(
            f"its format is {ascii(words[1].decode('ascii', 'replace'))[:20]}, this client reads {FORMAT}; "
            "give clients of different versions folders of their own"
        )
    line, has_line, payload = rest.partition(b"\n")
    if not has_first or not has_line:
        raise Refused(f"it is cut short; {DAMAGED}")
    if _hash(line).encode() != words[2]:
        raise Refused(f"it is damaged (wrong checksum); {DAMAGED}")
    try:
        return msgspec.json.decode(line, type=kind), payload
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"it does not read ({error}); {DAMAGED}") from error


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- judgement -------------------------------------------------------------------------------------------------------


def judge(head: Head, *, namespace: str, environment: str, now: datetime, max_age_s: float) -> float:
    """How old the state is, in seconds from 0; raises `Refused` for another scope's and for one that is too old.

    The wall clock may have jumped since the file was written, and nothing else tells the age over a restart. So a file
    is refused also where the clock makes it look too old, or where its time lies ahead by more than a day.
    """
    if (head.namespace, head.environment) != (namespace, environment):
        raise Refused(f"it holds {head.namespace}/{head.environment}; {DAMAGED}")
    age_s = (now - head.proved_at).total_seconds()
    if age_s > max_age_s:
        raise Refused(
            f"it was last proved {_span(age_s)} ago, and cache_max_age_s allows {_span(max_age_s)}; "
            "raise that if such old values are wanted, and see whether the clock is right"
        )
    if age_s < -CLOCK_TOLERANCE_S:
        raise Refused(
            f"it was last proved {_span(-age_s)} from now by this machine's clock, so that nobody knows its age; "
            "correct the clock, or wait for a service"
        )
    return max(0.0, age_s)


def may_replace(held: Head | None, mine: Head, *, stepped_back: bool = False) -> bool:
    """Whether a file, None where none can be believed, is to give way to this state.

    Only forward, so that a process which lags does not undo what another has written; `stepped_back` says that this
    client has believed an older state, after looking for better. Of two epochs that is forward which does not know
    that the other one was left; where neither does, the last writer wins. The same content is written again only for a
    newer proof.
    """
    if held is None or stepped_back:
        return True
    if held.epoch != mine.epoch:
        return mine.epoch not in held.left
    if mine.position < held.position:
        return False
    is_fresh = abs((mine.proved_at - held.proved_at).total_seconds()) < REFRESH_S
    return mine.revision != held.revision or not is_fresh


def _span(seconds: float) -> str:
    return f"{seconds / 86_400:.1f} days" if seconds >= 86_400 else f"{seconds:.0f} s"
