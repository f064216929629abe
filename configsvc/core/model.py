"""Names, limits and stored formats: what a scope, a key, an entry and a head are, and where they lie in etcd.

Owns every rule about names and values, checked once, here, and the codec of etcd's paths and of what is stored under
them. Knows nothing of revisions in motion (`replica.py`), of HTTP or of etcd's protocol.
"""

import contextlib
import hashlib
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from sys import intern
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from configsvc.errors import InvalidRequest

ROOT = "/config/"
RELEASES = "/configsvc/releases/"
OVERRIDES = "/configsvc/overrides/"
RECEIPTS = "/configsvc/idempotency/"
META = "_meta"
MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_NESTING = 100
MAX_HEAD_BYTES = 512 * 1024
"""A head goes into one transaction with whatever else a release's last one has."""
MAX_NUMBER = 10**12 - 1
"""Release numbers have 12 digits at most."""
FORMAT = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
# C0, DEL and C1: none of them can be typed, and a newline would end a log line or an SSE field.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_REVISION_MAX = 2**62

T = TypeVar("T")


class Scope(NamedTuple):
    """A namespace in an environment: what is released, read and streamed as a whole."""

    namespace: str
    environment: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.environment}"


# ---- names -----------------------------------------------------------------------------------------------------------


def _name_problem(name: str) -> str | None:
    if not name:
        return "is empty"
    if name.startswith("_"):
        return "starts with '_', which is reserved"
    if not _NAME.fullmatch(name):
        if len(name) > 128:
            return f"has {len(name)} characters, at most 128 are allowed"
        return "may only have letters, digits, '.', '_' and '-', and starts with a letter or digit"
    return None


def key_problem(key: str) -> str | None:
    """Say what makes `key` unreadable as a key, or None. Writes ask `key_write_problem`, which is stricter."""
    if not key:
        return "is empty"
    if len(encoded := key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        return f"has {len(encoded)} bytes of UTF-8, at most {MAX_KEY_BYTES} are allowed"
    if key.startswith("_"):
        return "starts with '_', which is reserved"
    if key in (".", ".."):
        return f"may not be {key!r}"
    if "/" in key:
        return "may not hold '/'; dots are the usual separator, as in database.pool_size"
    if match := _CONTROL.search(key):
        return f"has a control character (U+{ord(match[0]):04X}) at position {match.start()}"
    if any(0xD800 <= ord(c) <= 0xDFFF for c in key):
        return "is not valid UTF-8"
    return None


def key_write_problem(key: str) -> str | None:
    """Say what keeps `key` from being written, or None: the read rules, NFC, and no white space at either end."""
    if problem := key_problem(key):
        return problem
    if key != key.strip():
        return "starts or ends with white space"
    if not unicodedata.is_normalized("NFC", key):
        return f"is not in Unicode normal form C; write it as {unicodedata.normalize('NFC', key)!r}"
    return None


def parse_scope(namespace: str, environment: str) -> Scope:
    """Check both names; raises `InvalidRequest` (`invalid_scope`) that says which is wrong and why."""
    for part, name in (("namespace", namespace), ("environment", environment)):
        if problem := _name_problem(name):
            raise InvalidRequest(f"{part} {_shown(name)} {problem}", code="invalid_scope", parameter=part)
    return Scope(namespace, environment)


def parse_key(key: str) -> str:
    """Check a key by the rules for reading; raises `InvalidRequest` (`invalid_key`)."""
    if problem := key_problem(key):
        raise InvalidRequest(f"key {_shown(key)} {problem}", code="invalid_key", parameter="key")
    return key


def is_name(name: str) -> bool:
    """Whether `name` may name a namespace or an environment."""
    return _name_problem(name) is None


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")


# ---- where things lie in etcd ----------------------------------------------------------------------------------------


class Place(NamedTuple):
    """What an etcd key under `/config/` is for. `name` is the entry's key, empty for the others."""

    kind: Literal["entry", "head", "schema", "epoch", "reserved", "unaddressable"]
    namespace: str = ""
    environment: str = ""
    name: str = ""

    @property
    def scope(self) -> Scope:
        return Scope(self.namespace, self.environment)


_UNADDRESSABLE = Place("unaddressable")
_RESERVED = Place("reserved")


def locate(path: bytes) -> Place:
    """Tell what lies at an etcd key. Never raises: what no reader can name is `unaddressable`."""
    above, _, name = path.rpartition(b"/")
    scope = _scope_at(above)
    try:
        if scope is not None and _served(name):
            return Place("entry", scope[0], scope[1], name.decode())
        parts = path.decode().split("/")
    except UnicodeDecodeError:
        return _UNADDRESSABLE
    match parts:
        case ["", "config", ns, "_meta", "schema"] if is_name(ns):
            return Place("schema", ns)
        case ["", "config", ns, "_meta", "epoch"] if is_name(ns):
            return Place("epoch", ns)
        case ["", "config", ns, env, "_meta", "head"] if is_name(ns) and is_name(env):
            return Place("head", ns, env)
        case ["", "config", *rest] if any(part.startswith("_") for part in rest):
            # Room for what a later format keeps beside the values; an older service passes over it.
            return _RESERVED
    return _UNADDRESSABLE


@lru_cache(maxsize=4096)
def _scope_at(path: bytes) -> Scope | None:
    """The scope whose entries lie right below a path: nearly every key of a listing asks for the same few."""
    match path.decode(errors="replace").split("/"):
        case ["", "config", namespace, environment] if is_name(namespace) and is_name(environment):
            return Scope(namespace, environment)
    return None


def is_key(name: str) -> bool:
    """Whether an entry may lie in etcd under `name`, written by whomever."""
    return "/" not in name and _served(name.encode())


def _served(name: bytes) -> bool:
    # What is stored is served, also where it could not be written today; only what no request could name is not.
    return 0 < len(name) <= MAX_KEY_BYTES and not name.startswith(b"_") and name not in (b".", b"..")


def entry_path(scope: Scope, key: str) -> bytes:
    """The etcd key of an entry."""
    return f"{ROOT}{scope.namespace}/{scope.environment}/{key}".encode()


def head_path(scope: Scope) -> bytes:
    """The etcd key of a scope's head."""
    return f"{ROOT}{scope.namespace}/{scope.environment}/{META}/head".encode()


def scope_prefix(scope: Scope) -> bytes:
    """The etcd prefix under which all of a scope lies, head included."""
    return f"{ROOT}{scope.namespace}/{scope.environment}/".encode()


def namespace_prefix(namespace: str | None) -> bytes:
    """The etcd prefix of a namespace; of all of them for None."""
    return f"{ROOT}{namespace}/".encode() if namespace else ROOT.encode()


def epoch_path(namespace: str) -> bytes:
    """The etcd key whose value tells histories of a namespace apart."""
    return f"{ROOT}{namespace}/{META}/epoch".encode()


def schema_path(namespace: str) -> bytes:
    """The etcd key of a namespace's active schema."""
    return f"{ROOT}{namespace}/{META}/schema".encode()


def releases_prefix(scope: Scope) -> bytes:
    """The etcd prefix of everything that is kept of a scope's releases."""
    return f"{RELEASES}{scope.namespace}/{scope.environment}/".encode()


def manifests_prefix(scope: Scope) -> bytes:
    """The etcd prefix of a scope's release manifests; zero-padded numbers sort as they count."""
    return f"{RELEASES}{scope.namespace}/{scope.environment}/n/".encode()


def labels_prefix(scope: Scope) -> bytes:
    """The etcd prefix of what a scope's version labels mean."""
    return f"{RELEASES}{scope.namespace}/{scope.environment}/l/".encode()


def overrides_prefix(scope: Scope) -> bytes:
    """The etcd prefix of a scope's pending overrides, by key."""
    return f"{OVERRIDES}{scope.namespace}/{scope.environment}/".encode()


def content_prefix(scope: Scope, content_id: str) -> bytes:
    """The etcd prefix of the chunks of one release's content."""
    return f"{RELEASES}{scope.namespace}/{scope.environment}/c/{content_id}/".encode()


# ---- what is stored --------------------------------------------------------------------------------------------------


class Unreadable(ValueError):
    """Stored bytes that are no entry, head or record. The text says why and holds nothing of the value."""


class StoredEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as stored, checked; `value` and `metadata` are canonical JSON."""

    value: msgspec.Raw
    version: str | None = None
    metadata: msgspec.Raw | None = None


_NULL = msgspec.Raw(b"null")


class _Entry(msgspec.Struct, frozen=True):
    value: Any = msgspec.UNSET
    version: str | None = None
    metadata: msgspec.Raw = _NULL


class Applying(msgspec.Struct, frozen=True, kw_only=True):
    """An open apply window, as its writer wrote it into the head."""

    id: str
    release: int = 0
    """The number that is being applied; 0 where the writer did not say: the one after the head's."""
    sha256: str = ""
    kind: str = ""
    state: str = "opened"
    opened_revision: int | None = None
    since: str = ""
    by: str = ""


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """Deploys are refused until a time (RFC 3339), and why."""

    until: str
    reason: str
    by: str = ""
    since: str = ""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A scope's head: which release it is at and, while one is being applied, the open window."""

    format: int = FORMAT
    release: int = 0
    version: str | None = None
    id: str = ""
    applying: Applying | None = None
    overrides: dict[str, int] = {}
    """Keys with a pending override, and the release that set it."""
    deployed: int = 0
    """The last release that said what the whole scope should be; 0 before the first: until then nothing overrides."""
    frozen: Freeze | None = None
    own: list[str] = []
    """Patterns (`*`, `?`) of the keys that differ by environment on purpose: a promotion leaves them as they are."""

    @property
    def next_release(self) -> int:
        """The release that is being applied, or would be next."""
        return (self.applying.release if self.applying else 0) or self.release + 1

    @property
    def shown_release(self) -> int | None:
        """Release 0 is a head that was only touched: to readers there was no release yet."""
        return self.release or None

    @property
    def shown_version(self) -> str | None:
        """The label of the release, if there is a release."""
        return self.version if self.release else None


_ENTRY_SHAPE = 'store an object that has the value in it, such as {"value": 20}'
_SHARED_BYTES = 1024
"""Larger metadata is nobody else's."""
_entry_decoder = msgspec.json.Decoder(_Entry)
_metadata_decoder = msgspec.json.Decoder(dict[str, Any] | None)
_head_decoder = msgspec.json.Decoder(Head)
_encoder = msgspec.json.Encoder()
_canonical_encoder = msgspec.json.Encoder(order="deterministic")


def decode_entry(stored: bytes) -> StoredEntry:
    """Decode what is stored under an entry's key; raises `Unreadable` for anything but an entry."""
    try:
        entry = decode(_entry_decoder, stored)
    except Unreadable as error:
        raise Unreadable(f"{error}; {_ENTRY_SHAPE}") from None
    if entry.value is msgspec.UNSET:
        raise Unreadable(f'the object has no "value"; {_ENTRY_SHAPE}')
    if type(entry.value) is not str:
        check_value(entry.value)
    raw = bytes(entry.metadata)
    return StoredEntry(
        value=msgspec.Raw(_encoder.encode(entry.value)),
        version=entry.version and intern(entry.version),
        metadata=_metadata(raw) if len(raw) <= _SHARED_BYTES else _metadata.__wrapped__(raw),
    )


@lru_cache(maxsize=1024)
def _metadata(raw: bytes) -> msgspec.Raw | None:
    """Metadata, checked: one object for all the entries that a release has written, which have the same."""
    try:
        metadata = decode(_metadata_decoder, raw)
        check_value(metadata)
    except Unreadable as error:
        raise Unreadable(f"the metadata: {error}") from None
    return None if metadata is None else msgspec.Raw(_encoder.encode(metadata))


def decode_head(stored: bytes) -> Head:
    """Decode a head; raises `Unreadable` for anything else.

    A higher `format` than ours is served as far as it reads.
    """
    head = decode(_head_decoder, stored)
    if not (0 <= head.release < MAX_NUMBER and 0 <= (head.applying.release if head.applying else 0) <= MAX_NUMBER):
        raise Unreadable("the release is no number of a release")
    if head.applying and not 1 <= (head.applying.opened_revision or 1) <= _REVISION_MAX:
        raise Unreadable("the opening is at no revision")
    return head


_HEAD_FIELDS = frozenset(Head.__struct_fields__)


def encode_head(head: Head, before: bytes | None) -> bytes:
    """The stored bytes of a head. Fields of `before`, the head that it replaces, that are not ours stay as they are."""
    fields = msgspec.json.decode(_encoder.encode(head))
    kept: dict[str, Any] = {}
    if before is not None:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            found = msgspec.json.decode(before)
            kept = {k: v for k, v in found.items() if k not in _HEAD_FIELDS} if isinstance(found, dict) else {}
    # What is empty is left out, as in every record: an older reader has less to pass over.
    own = {name: value for name, value in fields.items() if value not in (None, {}, []) or name == "version"}
    return _encoder.encode({**own, **kept})


def canonical(value: Any) -> bytes:
    """A JSON value as it is stored: compact, names sorted, so that equal values are equal bytes."""
    return _canonical_encoder.encode(value)


def value_of(raw: bytes | None) -> bytes | None:
    """The value in an entry's stored bytes, as canonical JSON; None where there is none that can be read."""
    if raw is None:
        return None
    try:
        return canonical(msgspec.json.decode(decode_entry(raw).value))
    except Unreadable:
        return None


def encode_entry(value: bytes, version: str | None, metadata: Mapping[str, str]) -> bytes:
    """The stored bytes of an entry; `value` is canonical JSON."""
    return _encoder.encode({"value": msgspec.Raw(value), "version": version, "metadata": metadata})


def decode(decoder: msgspec.json.Decoder[T], stored: bytes) -> T:
    """Decode stored JSON strictly; raises `Unreadable`, whose text names the place and not what stands there.

    Of a name that occurs twice in an object the last counts.
    """
    try:
        # The decoder passes over fields that it does not know, also where they are no UTF-8.
        stored.decode()
        return decoder.decode(stored)
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise Unreadable(f"nested deeper than {MAX_NESTING}") from None
    except msgspec.ValidationError as error:
        raise Unreadable(f"wrong shape: {error}") from None
    except msgspec.DecodeError as error:
        raise Unreadable(f"not JSON: {error}") from None


def check_value(value: Any) -> None:
    """Raise `Unreadable` where a decoded value is none of ours: too deep, or an integer beyond 64 bits.

    The JSON decoder has refused NaN, infinities and lone surrogates before.
    """
    level, nesting = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict | list):
                if nesting == MAX_NESTING:
                    raise Unreadable(f"nested deeper than {MAX_NESTING}")
                below.extend(item.values() if isinstance(item, dict) else item)
            elif type(item) is int and not _INT_MIN <= item <= _INT_MAX:
                raise Unreadable("an integer beyond 64 bits")
        level, nesting = below, nesting + 1


def epoch_of(cluster_id: str, epoch_value: bytes, salt: str) -> str:
    """The 12 hex digits that name one history of one namespace.

    A function of etcd's cluster id, the value of the namespace's epoch key (empty where there is none) and this
    replica's private salt (empty but after a fork that nobody could record in etcd): replicas without a salt agree.
    """
    digest = hashlib.sha256()
    for part in (cluster_id.encode(), epoch_value, salt.encode()):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:12]
