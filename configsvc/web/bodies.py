"""Bodies of writes: read up to a limit, and only of a type that the route takes. Nothing is ever unpacked."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from configsvc.core import documents
from configsvc.core.documents import Named, Object, Problem
from configsvc.core.model import MAX_KEY_BYTES
from configsvc.errors import InvalidRequest, TooLarge, UnsupportedMediaType
from configsvc.web.route import Body

BODY_DIGEST = web.RequestKey("body_digest", bytes)
"""The hash of the body as it was sent."""
JSON = "application/json"
MAX_PATTERNS = 1000
YAML = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """Some keys of a scope: canonical JSON of those that are set, and those that go."""

    set: Mapping[str, bytes] = {}
    delete: tuple[str, ...] = ()


def state(text: bytes, media: str) -> Object:
    """A whole desired state, as JSON or YAML."""
    return documents.parse_json(text) if media == JSON else documents.parse_yaml(text)


def value(text: bytes, media: str) -> bytes:
    """One JSON value, as canonical JSON."""
    return documents.parse_value(text)


def patch(text: bytes, media: str) -> Patch:
    """`{"set": {key: value}, "delete": [key]}`; raises `InvalidRequest` with everything that is wrong with it."""
    tree = documents.parse_json(text)
    right = '{"set": {key: value}, "delete": [key]} is expected'
    problems = [Problem(name, f"is no field; {right}") for name in tree if name not in ("set", "delete")]
    changed = tree.get("set", Named(Object())).value
    deleted = tree.get("delete", Named([])).value
    if not isinstance(changed, Object):
        problems.append(Problem("set", f"is no object; {right}"))
    if not isinstance(deleted, list) or not all(isinstance(key, str) for key in deleted):
        problems.append(Problem("delete", f"is no list of keys; {right}"))
    elif isinstance(changed, Object):
        problems += [Problem(key, "is both set and deleted") for key in deleted if key in changed]
        problems += [Problem(key, "is deleted twice") for key in {key for key in deleted if deleted.count(key) > 1}]
        if not problems and not changed and not deleted:
            problems.append(Problem("", f"nothing is set and nothing deleted; {right}"))
    if problems:
        raise documents.malformed(*problems)
    return Patch(set=documents.plain(changed), delete=tuple(deleted))


def patterns(text: bytes, media: str) -> list[str]:
    """A list of patterns of keys."""
    found = documents.parse_list(text)
    problems = [
        Problem(str(one), "is no pattern of keys: a text of 1 to 1,024 characters, such as database.host or *.url")
        for one in found
        if not isinstance(one, str) or not 0 < len(one) <= MAX_KEY_BYTES
    ]
    if len(found) > MAX_PATTERNS:
        problems.append(Problem("", f"{len(found)} patterns are given, at most {MAX_PATTERNS} are taken"))
    if problems:
        raise documents.malformed(*problems)
    return list(dict.fromkeys(found))


def binary(data: bytes, media: str) -> bytes:
    """A file as it is."""
    return data


async def read(request: web.Request, body: Body, max_bytes: int) -> Any:
    """The request's body as the route reads it; raises `UnsupportedMediaType`, `TooLarge`, `InvalidRequest`."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("send the body as it is, without a Content-Encoding")
    media = _media(request, body)
    limit = min(max_bytes, body.max_bytes or max_bytes)
    declared = request.content_length
    if declared is not None and declared > limit:
        raise TooLarge(f"the body has {declared} bytes; this route takes {limit}", limit=limit)
    text = bytearray()
    async for chunk in request.content.iter_any():
        text += chunk
        if len(text) > limit:
            raise TooLarge(f"the body has more than {limit} bytes, which is what this route takes", limit=limit)
    request[BODY_DIGEST] = hashlib.sha256(text).digest()
    if not text.strip():
        raise InvalidRequest(f"the body is empty; {body.description}", code="invalid_body")
    return body.read(bytes(text), media)


def _media(request: web.Request, body: Body) -> str:
    sent = request.headers.get("Content-Type")
    takes = ", ".join(body.media)
    if sent is None:
        raise UnsupportedMediaType(f"say what the body is: Content-Type {takes}", takes=list(body.media))
    media, *parameters = (part.strip().lower() for part in sent.split(";"))
    if media not in body.media:
        raise UnsupportedMediaType(
            f"the body is {media[:80]!a} by its Content-Type; this route takes {takes}", takes=list(body.media)
        )
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if name.strip() == "charset" and charset.strip('" ') not in ("utf-8", "utf8"):
            raise UnsupportedMediaType(f"the body is UTF-8, not {charset[:40]!a}")
    return media


STATE = Body(
    media=(JSON, *YAML), read=state, schema={"type": "object"}, description="the whole desired state is expected"
)
VALUE = Body(media=(JSON,), read=value, schema={}, description="one JSON value is expected", max_bytes=2 * 1024 * 1024)
PATCH = Body(
    media=(JSON,),
    read=patch,
    schema={
        "type": "object",
        "properties": {
            "set": {"type": "object"},
            "delete": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        },
        "additionalProperties": False,
    },
    description="the keys to set and to delete are expected",
)
PATTERNS = Body(
    media=(JSON,),
    read=patterns,
    schema={"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MAX_PATTERNS},
    description="a list of patterns is expected, [] for none",
)
BACKUP = Body(
    media=("application/gzip", "application/octet-stream"),
    read=binary,
    schema={"type": "string", "format": "binary"},
    description="the file that a backup answered is expected",
)
