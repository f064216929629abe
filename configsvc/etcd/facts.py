"""What can be found out about an etcd from outside: plain data, gathered by `survey.py` and judged by `checks.py`.

Pure. None means that it could not be found out; where that matters, a text beside it says why.
"""

import re
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from configsvc.etcd.ops import prefix_end

_SAMPLE = re.compile(r"^(etcd_\w+) ([0-9.e+-]+)$", re.MULTILINE)
_COMMON_NAME = b"\x06\x03\x55\x04\x03"
"""The object identifier 2.5.4.3 as it stands in a certificate."""


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """As much of an X.509 certificate as matters here."""

    not_before: datetime
    not_after: datetime
    has_common_name: bool


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What an idle watch heard. `seconds`: until the first notice, or how long was listened.

    `heard`: a notice came. `silent`: none, though the watch was open and idle. `busy`: none, but events came, after
    which etcd owes no notice for a while. `failed`: the watch did not work; `reason` says why.
    """

    state: Literal["heard", "silent", "busy", "failed"]
    seconds: float = 0.0
    reason: str = ""


class EndpointFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One configured endpoint. `error`: why it gave no answer at all; `refused`: why it did not tell its status."""

    url: str
    error: str | None = None
    other_scheme: bool = False
    """Whether something answers there by `http` where `https` was configured, or the reverse."""
    refused: str | None = None
    version: str | None = None
    cluster_id: str | None = None
    member_id: str | None = None
    leader: str = "0"
    revision: int = 0
    learner: bool = False
    db_size: int = 0
    db_used: int | None = None
    quota: int | None = None
    history: int | None = None
    """Revisions since the last compaction; None where etcd's metrics cannot be read."""
    skew_s: float | None = None
    """How far its clock is ahead of ours; the answer's date has whole seconds."""
    certificate: Certificate | None = None
    progress: Progress | None = None


class ClusterMember(msgspec.Struct, frozen=True, kw_only=True):
    """One member as the cluster lists it."""

    member_id: str = msgspec.field(name="ID", default="")
    name: str = ""
    client_urls: list[str] = msgspec.field(name="clientURLs", default_factory=list)
    learner: bool = msgspec.field(name="isLearner", default=False)


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """`NOSPACE` or `CORRUPT`, and whose."""

    member_id: str = msgspec.field(name="memberID", default="0")
    alarm: str = "NONE"


class Permission(msgspec.Struct, frozen=True, kw_only=True):
    """A role's permission. Without `range_end` one key; a `range_end` of one zero byte is: from `key` on."""

    kind: Literal["READ", "WRITE", "READWRITE"] = msgspec.field(name="permType", default="READ")
    key: bytes = b""
    range_end: bytes = b""


class UserFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Who we are to etcd. `permissions` is None where etcd did not tell (`reason`), or for root, which may all."""

    authentication: bool | None = None
    roles: list[str] = []
    permissions: list[Permission] | None = None
    reason: str = ""


def everything_below(prefix: bytes) -> Permission:
    """The permission to read a prefix."""
    return Permission(kind="READ", key=prefix, range_end=prefix_end(prefix))


def metrics(text: str) -> dict[str, float]:
    """etcd's metrics without labels, from Prometheus' text format."""
    return {name: float(value) for name, value in _SAMPLE.findall(text)}


def read_certificate(der: bytes) -> Certificate:
    """The dates of a certificate in DER. Raises `ValueError`.

    Its own few lines, because the standard library tells the dates of trusted certificates only, and the expired one is
    of interest.
    """
    try:
        _, at, _ = _element(der, 0)
        _, at, _ = _element(der, at)
        tag, _, end = _element(der, at)
        if tag == 0xA0:  # the version; then: serial number, algorithm, issuer
            _, _, end = _element(der, end)
        for _ in range(2):
            _, _, end = _element(der, end)
        _, at, end = _element(der, end)
        before_tag, start, stop = _element(der, at)
        after_tag, start2, stop2 = _element(der, stop)
        _, subject, subject_end = _element(der, end)
        return Certificate(
            not_before=_time(before_tag, der[start:stop]),
            not_after=_time(after_tag, der[start2:stop2]),
            has_common_name=_COMMON_NAME in der[subject:subject_end],
        )
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("not a certificate") from error


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, and where the content of the element at `at` begins and ends."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[start : start + size], "big")
        start += size
    if start + length > len(der):
        raise IndexError(at)
    return tag, start, start + length


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == 0x17:
        # Two digits of the year: 50 to 99 are of the last century (RFC 5280).
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def decoded(body: bytes, kind: type[Any]) -> Any:
    """An answer of etcd's JSON as `kind`, numbers from strings. Raises `msgspec.MsgspecError`."""
    return msgspec.json.decode(body, type=kind, strict=False)
