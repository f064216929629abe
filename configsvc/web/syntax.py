"""The grammar of requests: path segments, query strings, and the few headers that are read here.

Pure functions over the text as it was sent. A segment is percent-decoded exactly once and nothing is normalised, so a
path never names another resource than its bytes say. Knows no route and no server.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from configsvc.core.model import Scope, is_name, parse_key, parse_scope
from configsvc.errors import InvalidRequest
from configsvc_client.protocol import EventId, parse_event_id

MAX_WAIT_S = 30.0
DEFAULT_WAIT_S = 5.0
MAX_REVISION = 2**63 - 1
NEAR = 0.75
"""How alike (difflib's ratio) an unknown query parameter must be to a known one to be taken for a misspelling."""

# What JSON Schema can say of names; the rest is said where they are refused.
LABEL_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$"
NAME_SCHEMA: Mapping[str, Any] = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"}
VERSION_SCHEMA: Mapping[str, Any] = {
    "type": "string",
    "pattern": "^(@[0-9]{1,18}|[A-Za-z0-9][A-Za-z0-9._+-]{0,127})$",
}
_NO_KEY = r"/\u0000-\u001f\u007f-\u009f"
KEY_SCHEMA: Mapping[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 1024,
    # Without look-ahead, which many tools do not read: no "_" in front, neither "." nor "..".
    "pattern": "^([^_.{x}][^{x}]*|\\.[^.{x}][^{x}]*|\\.\\.[^{x}]+)$".replace("{x}", _NO_KEY),
}

_STRAY_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_SECONDS = re.compile(r"-?[0-9]{1,309}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_REVISION = re.compile(r"[0-9]{1,19}", re.ASCII)
_AWAITED = re.compile(r"(?:([0-9a-f]{12}):)?0*([0-9]{1,309})", re.ASCII)
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII
)
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", re.ASCII)
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}", re.ASCII)
_STATE_TAG = re.compile(r'[ \t]*(?:W/)?"(([0-9a-f]{12}:[0-9]{1,19})(?:-[0-9a-f]{8})?)"[ \t]*', re.ASCII)
# RFC 9110 section 8.8.3: an entity tag is any visible characters but the quote, between quotes.
_ENTITY_TAG = re.compile(r'[ \t]*(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*')
_QUALITY = re.compile(r"[ \t]*[qQ][ \t]*=[ \t]*([01](?:\.[0-9]{0,3})?)[ \t]*", re.ASCII)


# ---- paths -----------------------------------------------------------------------------------------------------------


def percent_decode(raw: str) -> str:
    """Undo percent-encoding once. Raises `ValueError` with the reason: a stray `%`, or bytes that are not UTF-8."""
    data = raw.encode("utf-8", "surrogateescape")
    if match := _STRAY_PERCENT.search(data):
        raise ValueError(f"has a '%' at byte {match.start()} that no two hex digits follow; write %25 for a '%'")
    decoded = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), data)
    try:
        return decoded.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 once percent-decoded (byte {error.start})") from None


def _segment(raw: str, parameter: str) -> str:
    code = "invalid_key" if parameter == "key" else "invalid_scope"
    try:
        return percent_decode(raw)
    except ValueError as error:
        raise InvalidRequest(f"{parameter} {error}", code=code, parameter=parameter) from None


def path_scope(raw_namespace: str, raw_environment: str) -> Scope:
    """The scope that two raw path segments name; raises `InvalidRequest`."""
    return parse_scope(_segment(raw_namespace, "namespace"), _segment(raw_environment, "environment"))


def path_key(raw: str) -> str:
    """The key that the raw rest of a path names; raises `InvalidRequest`. A slash in it, encoded or not, is refused."""
    return parse_key(_segment(raw, "key"))


# ---- query strings ---------------------------------------------------------------------------------------------------


def parse_query(raw: str, known: Mapping[str, Callable[[str], Any]], *, strict: bool = False) -> dict[str, Any]:
    """The known parameters of a raw query string, each as its reader in `known` takes it.

    Unknown names are passed over, unless one is nearly a known name: a misspelt `min_revision` must not be ignored in
    silence; with `strict` every unknown name is refused. Raises `InvalidRequest` (`invalid_query`) for those, for a
    parameter given twice, for bad encoding, and where a reader raises `ValueError` with what is wrong.
    """
    found: dict[str, Any] = {}
    for pair in filter(None, raw.split("&")):
        raw_name, _, raw_value = pair.partition("=")
        name = _query_text(raw_name, "a query parameter's name")
        if name not in known:
            if near := near_name(name, known):
                raise query_error(name, f"does not exist here; did you mean {near}?", near=[near])
            if strict:
                there = ", ".join(sorted(known)) or "none"
                raise query_error(name, f"does not exist here; there is {there}")
            continue
        if name in found:
            raise query_error(name, "is given more than once; give it one value")
        text = _query_text(raw_value, f"query parameter {name}")
        try:
            found[name] = known[name](text)
        except ValueError as error:
            raise query_error(name, str(error)) from None
    return found


def _query_text(raw: str, what: str) -> str:
    try:
        return percent_decode(raw.replace("+", " "))
    except ValueError as error:
        raise InvalidRequest(f"{what} {error}", code="invalid_query") from None


def near_name(name: str, known: Iterable[str]) -> str | None:
    """The known parameter that `name` was probably meant to be, or None."""
    plain = {_plain(one): one for one in known}
    if (written := _plain(name[:64])) in plain:
        return plain[written]
    near = get_close_matches(written, plain, n=1, cutoff=NEAR)
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").strip()


def query_error(name: str, problem: str, **fields: Any) -> InvalidRequest:
    """A refusal that names the parameter, what is wrong with it, and what would be right."""
    return InvalidRequest(f"query parameter {shown(name)} {problem}", code="invalid_query", parameter=name, **fields)


def shown(text: str) -> str:
    """Text of a caller's as a message may repeat it: quoted, on one line, bounded."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def choice(*words: str) -> Callable[[str], str]:
    """A reader of a parameter that is one of `words`."""

    def read(value: str) -> str:
        if value not in words:
            raise ValueError(f"is {shown(value)}; it may be {' or '.join(words)}")
        return value

    return read


def wait_s(value: str) -> float:
    """How long a request may wait, in seconds; cut to `MAX_WAIT_S`."""
    if not _SECONDS.fullmatch(value) or float(value) < 0:
        raise ValueError(f"is {shown(value)}; it is a number of seconds from 0 to {MAX_WAIT_S:g}")
    return min(float(value), MAX_WAIT_S)


class Awaited(NamedTuple):
    """The revision that a read has to show."""

    revision: int
    epoch: str | None


def awaited(value: str) -> Awaited:
    """The revision that a request waits for, alone or with its epoch. What is larger than any is cut to the largest."""
    if not (at := _AWAITED.fullmatch(value)):
        right = "it is a revision such as 1042, or epoch:revision as in an ETag or an event id"
        raise ValueError(f"is {shown(value)}; {right}")
    return Awaited(min(int(at[2]), MAX_REVISION), at[1])


def text(most: int) -> Callable[[str], str]:
    """A reader of text for people: not empty, on one line, at most `most` characters."""

    def read(value: str) -> str:
        if not value.strip():
            raise ValueError("is empty; give it a text")
        if len(value) > most:
            raise ValueError(f"has {len(value)} characters, at most {most} are allowed")
        if not value.isprintable():
            raise ValueError("has characters that cannot be printed; write it on one line")
        return value.strip()

    return read


def label(value: str) -> str:
    """A version label."""
    if not _LABEL.fullmatch(value):
        raise ValueError(f"is {shown(value)}; a label is 1 to 128 letters, digits, '.', '_', '+' and '-'")
    return value


def name(value: str) -> str:
    """The name of a namespace or an environment."""
    if not is_name(value):
        raise ValueError(
            f"is {shown(value)}; a name is 1 to 128 letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    return value


def number(value: str) -> int:
    """A release's number, also as `@17`."""
    bare = value.removeprefix("@")
    if not _REVISION.fullmatch(bare) or len(bare) > 18:
        raise ValueError(f"is {shown(value)}; it is the number of a release, such as 17")
    return int(bare)


def count(most: int) -> Callable[[str], int]:
    """A reader of how many are wanted, cut to `most`."""

    def read(value: str) -> int:
        if not _DIGITS.fullmatch(value) or not value.strip("0"):
            raise ValueError(f"is {shown(value)}; it is a number from 1 to {most}")
        return most if len(value.lstrip("0")) > 18 else min(int(value), most)

    return read


def duration(least: float, most: float) -> Callable[[str], float]:
    """A reader of seconds."""

    def read(value: str) -> float:
        if not _SECONDS.fullmatch(value) or not least <= float(value) <= most:
            raise ValueError(f"is {shown(value)}; it is a number of seconds from {least:.12g} to {most:.12g}")
        return float(value)

    return read


class Version(NamedTuple):
    """A release as a caller names it: by number (`@17`), by label, or bare digits that may be either."""

    label: str | None
    number: int | None


def version(value: str) -> Version:
    """The release that a parameter names."""
    if value.startswith("@"):
        return Version(None, number(value))
    return Version(label(value), int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None)


def path_version(raw: str) -> Version:
    """The release that a path segment names; raises `InvalidRequest` (`invalid_path`)."""
    try:
        return version(percent_decode(raw))
    except ValueError as error:
        raise InvalidRequest(f"version {error}; @17 is release 17", code="invalid_path", parameter="version") from None


# ---- headers ---------------------------------------------------------------------------------------------------------


def none_match(header: str, etag: str) -> bool:
    """Whether `If-None-Match` lists `etag` (bare, without quotes) or is `*`: then the reader has it already.

    Compares weakly, as RFC 9110 section 13.1.2 wants. A malformed list counts up to where it is well-formed: the answer
    is then a whole body, which is never wrong.
    """
    if header.strip(" \t") == "*":
        return True
    at = _after_commas(header, 0)
    while match := _ENTITY_TAG.match(header, at):
        if match[1] == etag:
            return True
        at = match.end()
        if not header.startswith(",", at):
            return False
        at = _after_commas(header, at)
    return False


def _after_commas(header: str, at: int) -> int:
    """Where the next element of a list begins: empty ones count for nothing (RFC 9110 section 5.6.1)."""
    while header[at : at + 1] in (",", " ", "\t") and at < len(header):
        at += 1
    return at


class StateTag(NamedTuple):
    """The entity tag of a scope, bare, and the state that it names."""

    tag: str
    state: EventId


def if_match(header: str) -> StateTag | None:
    """The state that a write's `If-Match` names; None for `*`, which any state matches.

    Raises `InvalidRequest` (`invalid_header`) for anything but one entity tag of ours: what cannot be understood must
    not let a write through.
    """
    if header.strip(" \t") == "*":
        return None
    match = _STATE_TAG.fullmatch(header)
    found = parse_event_id(match[2]) if match else None
    if match is None or found is None:
        raise InvalidRequest(
            'If-Match takes the ETag of a read, such as "0f9a3c52d1be:1042", or *', code="invalid_header"
        )
    return StateTag(match[1], found)


def idempotency_key(header: str) -> str:
    """The request's `Idempotency-Key`; raises `InvalidRequest` (`invalid_header`) for one that is none."""
    if not _IDEMPOTENCY_KEY.fullmatch(header):
        raise InvalidRequest(
            "an Idempotency-Key is 1 to 255 visible ASCII characters, such as a UUID", code="invalid_header"
        )
    return header


def accepts_gzip(header: str) -> bool:
    """Whether `Accept-Encoding` allows gzip: named or by `*`, and not with a quality of 0."""
    wild = False
    for part in header.split(","):
        coding, *parameters = part.split(";")
        name = coding.strip(" \t").lower()
        if name in ("gzip", "x-gzip"):
            return _wanted(parameters)
        if name == "*":
            wild = _wanted(parameters)
    return wild


def _wanted(parameters: list[str]) -> bool:
    for parameter in parameters:
        if match := _QUALITY.fullmatch(parameter):
            return float(match[1]) > 0
    return True


def sane_request_id(header: str | None) -> str | None:
    """A caller's request id where it can go into a log and a header as it is; else None."""
    return header if header is not None and _REQUEST_ID.fullmatch(header) else None


def trace_id(header: str | None) -> str | None:
    """The trace id of a W3C `traceparent`; None where it is none."""
    match = _TRACEPARENT.fullmatch(header) if header and len(header) <= 256 else None
    return match[1] if match else None


def position(header: str | None, query: str | None) -> EventId | None:
    """Where a stream's reader is: `Last-Event-ID` wins over `?last_event_id=`; what makes no sense is nowhere."""
    return parse_event_id(header.strip(" \t") if header is not None else query)
