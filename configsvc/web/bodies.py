"""Bodies of writes: read up to a limit, and only of a type that the route takes. Nothing is ever unpacked."""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from configsvc.core import documents
from configsvc.core.documents import Named, Object, Problem
from configsvc.core.model import MAX_KEY_BYTES, key_problem
from configsvc.errors import InvalidRequest, RequestTimeout, TooLarge, Unavailable, UnsupportedMediaType
from configsvc.web.route import Body
from configsvc.web.syntax import KEY_SCHEMA
from configsvc.writes.threads import MUCH, off_loop

BODY_DIGEST = web.RequestKey("body_digest", bytes)
"""The hash of the body as it was sent."""
BODY_KEYS = web.RequestKey("body_keys", int)
"""About how many keys it has."""
JSON = "application/json"
MAX_PATTERNS = 1000
MAX_PATTERNS_BYTES = 64 * 1024
"""They are kept in the scope's head, which every release writes."""
MAX_YAML_BYTES = 4 * 1024 * 1024
"""YAML is parsed a hundred times more slowly than JSON: a second for each 100 to 200 KiB."""
MIN_BYTES_PER_S = 1024
"""A body that comes more slowly, after a first patience, is not waited for."""
KEY_BYTES = 40
"""What a key and its value take in a body, about."""
YAML = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")


class Room:
    """What bodies may take of the service: `most` bytes at a time, and one thread to read the large ones."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self.turn = asyncio.Semaphore()


ROOM = web.AppKey("room", Room)
BODIES_AT_ONCE = 4
"""So many of the largest find room at the same time."""


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """Some keys of a scope: canonical JSON of those that are set, and those that go."""

    set: Mapping[str, bytes] = {}
    delete: tuple[str, ...] = ()


def state(text: bytes, media: str) -> Object:
    """A whole desired state, as JSON or YAML."""
    if media == JSON:
        return documents.parse_json(text)
    # Loaded when the first YAML comes: most services are never sent any.
    from configsvc.core.yaml_documents import parse_yaml

    return parse_yaml(text)


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
        changed = Object()
    if not isinstance(deleted, list) or not all(isinstance(key, str) for key in deleted):
        problems.append(Problem("delete", f"is no list of keys; {right}"))
        deleted = []
    if not problems and not changed and not deleted:
        problems.append(Problem("", f"nothing is set and nothing deleted; {right}"))
    seen: set[str] = set()
    for key in deleted:
        if key in seen:
            problems.append(Problem(key, "is deleted twice"))
        elif key in changed:
            problems.append(Problem(key, "is both set and deleted"))
        elif problem := key_problem(key):
            problems.append(Problem(key, problem if key else documents.EMPTY_KEY))
        seen.add(key)
    unfit: list[Problem] = []
    found = documents.plain(changed, unfit)
    if problems:
        raise documents.malformed(*problems, *unfit)
    documents.refuse(unfit)
    return Patch(set=found, delete=tuple(deleted))


def patterns(text: bytes, media: str) -> list[str]:
    """A list of patterns of keys."""
    found = documents.parse_list(text)
    right = "a text of 1 to 1,024 characters, such as database.host or *.url"
    problems = [
        Problem(one if isinstance(one, str) else f"[{at}]", f"is no pattern of keys: {right}")
        if one != ""
        else Problem("", f"a pattern is empty; it is {right}")
        for at, one in enumerate(found)
        if not isinstance(one, str) or not 0 < len(one) <= MAX_KEY_BYTES or documents.is_broken(one)
    ]
    if len(found) > MAX_PATTERNS:
        problems.append(Problem("", f"{len(found)} patterns are given, at most {MAX_PATTERNS} are taken"))
    elif not problems and (size := sum(len(one.encode()) for one in found)) > MAX_PATTERNS_BYTES:
        problems.append(Problem("", f"the patterns have {size} bytes, at most {MAX_PATTERNS_BYTES} are taken"))
    if problems:
        raise documents.malformed(*problems)
    return list(dict.fromkeys(found))


def binary(data: bytes, media: str) -> bytes:
    """A file as it is."""
    return data


def is_dear(request: web.Request) -> bool:
    """Whether reading the request's body may cost more than answering it."""
    length = request.content_length
    return length is None or length >= MUCH * KEY_BYTES


async def read(request: web.Request, body: Body, max_bytes: int, patience_s: float) -> Any:
    """The request's body as the route reads it; one that does not come within `patience_s` has to come steadily.

    Raises `UnsupportedMediaType`, `TooLarge`, `RequestTimeout`, `InvalidRequest`, `Unavailable` (`too_many_bodies`).
    """
    if ", ".join(request.headers.getall("Content-Encoding", ["identity"])).strip().lower() != "identity":
        raise UnsupportedMediaType("send the body as it is, without a Content-Encoding")
    media = _media(request, body)
    limit = min(max_bytes, body.max_bytes or max_bytes, MAX_YAML_BYTES if media in YAML else max_bytes)
    declared = request.content_length
    if declared is not None and declared > limit:
        raise TooLarge(f"the body has {declared} bytes; this route takes {limit}{_hint(media)}", limit=limit)
    if request.headers.get("Expect", "").strip().lower() == "100-continue":
        # Now, and not before: what is refused by its head need not be sent.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    text, room = bytearray(), request.app[ROOM]
    try:
        await _receive(request, text, limit, patience_s, _hint(media))
        # A few bytes of YAML can stand for much, and are slow to read.
        request[BODY_KEYS] = MUCH if media in YAML else len(text) // KEY_BYTES
        if not text or text.isspace():
            raise InvalidRequest(f"the body is empty; {body.description}", code="invalid_body")
        if request[BODY_KEYS] < MUCH:
            return body.read(bytes(text), media)
        # One at a time, or a few of them together would leave nothing of the interpreter to those who read. A turn
        # ends with its thread: that goes on where the sender goes away.
        await room.turn.acquire()
        reading = asyncio.ensure_future(off_loop(request[BODY_KEYS], body.read, bytes(text), media))
        reading.add_done_callback(lambda _: room.turn.release())
        return await asyncio.shield(reading)
    finally:
        room.taken -= len(text)


def keys_in(request: web.Request) -> int:
    """About how many keys a body has, by its length."""
    found: int = request.get(BODY_KEYS, 0)
    return found


def _hint(media: str) -> str:
    return " as YAML; JSON may be larger" if media in YAML else ""


async def _receive(request: web.Request, text: bytearray, limit: int, patience_s: float, hint: str) -> None:
    room, digest = request.app[ROOM], hashlib.sha256()
    started = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(patience_s) as timeout:
            async for chunk in request.content.iter_any():
                text += chunk
                digest.update(chunk)
                room.taken += len(chunk)
                if room.taken > room.most:
                    raise Unavailable(
                        "too many large bodies are being sent at the same time", code="too_many_bodies", retry_after_s=5
                    )
                if len(text) > limit:
                    raise TooLarge(
                        f"the body has more than {limit} bytes, which is what this route takes{hint}", limit=limit
                    )
                timeout.reschedule(started + patience_s + len(text) / MIN_BYTES_PER_S)
    except TimeoutError:
        raise RequestTimeout(f"the body stopped coming after {len(text)} bytes") from None
    except web.RequestPayloadError:
        raise InvalidRequest("the body breaks off, or is not framed as HTTP/1.1 wants", code="bad_request") from None
    request[BODY_DIGEST] = digest.digest()


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
            "set": {"type": "object", "propertyNames": KEY_SCHEMA},
            "delete": {"type": "array", "items": KEY_SCHEMA, "uniqueItems": True},
        },
        "additionalProperties": False,
        "anyOf": [
            {"required": ["set"], "properties": {"set": {"minProperties": 1}}},
            {"required": ["delete"], "properties": {"delete": {"minItems": 1}}},
        ],
    },
    description="the keys to set and to delete are expected",
)
PATTERN_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES}
PATTERNS = Body(
    media=(JSON,),
    read=patterns,
    schema={"type": "array", "items": PATTERN_SCHEMA, "maxItems": MAX_PATTERNS},
    description="a list of patterns is expected, [] for none",
)
BACKUP = Body(
    media=("application/gzip", "application/octet-stream"),
    read=binary,
    schema={"type": "string", "format": "binary"},
    description="the file that a backup answered is expected",
)
