"""What one row of the route table says: the types of `routes.py`, read by routing, authorization and `/openapi.json`.

Plain data. A row holds everything that is decided by the route alone, so that nothing about it is said twice.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from configsvc.core.model import Scope
from configsvc.web.syntax import Version

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Target(NamedTuple):
    """What a request is about, checked: the shape of its path, query and headers is right."""

    scope: Scope | None
    key: str | None
    query: Mapping[str, Any]
    headers: Mapping[str, Any]
    """By name, those that the route knows and the request has, read."""
    body: Any = None
    version: Version | None = None


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A query parameter or header that a route reads. `schema` is JSON Schema.

    `read` makes its value from its text, before anybody's permission is looked at; it raises `ValueError` with what is
    wrong and what would be right, that of a header `InvalidRequest`.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    read: Callable[[str], Any] = str
    required: bool = False


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """What a route takes: media types, and what is made of the text before anybody's permission is looked at.

    `description` ends the sentence about an empty one, `schema` is JSON Schema. `max_bytes` is a limit below the
    service's own.
    """

    media: tuple[str, ...]
    read: Callable[[bytes, str], Any]
    schema: Mapping[str, Any]
    description: str
    max_bytes: int | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a route may answer beside its problems. `content` maps a media type to the type of its body (None: any)."""

    status: int
    description: str
    content: Mapping[str, Any] = {}
    headers: tuple[str, ...] = ()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A row: what is routed where, which permission it needs, and what goes in and out.

    `problems` are the statuses of the errors that it may answer beside those that every route may.
    """

    method: str
    path: str
    handler: Handler
    action: str
    summary: str
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    answers: tuple[Answer, ...]
    problems: tuple[int, ...] = ()
    body: Body | None = None
    writes: bool = False
    """Whether it changes something: refused by a service that answers no writes, and so are unknown parameters."""
    action_for: Callable[[Mapping[str, Any]], str] | None = None
    """The permission that it needs by its query parameters, where that is not always `action`."""
    check: Callable[[Target], None] | None = None
    """Whether parameters go together; raises `InvalidRequest`."""
    lasting: bool = False
    """Whether the answer goes on until one side ends it: its duration says nothing about speed."""

    @property
    def query_readers(self) -> Mapping[str, Callable[[str], Any]]:
        """The query parameters that it knows, with how each is read."""
        return {parameter.name: parameter.read for parameter in self.query}

    @property
    def methods(self) -> tuple[str, ...]:
        """What it is registered for: whatever can be read can be asked about by HEAD, but for lasting answers."""
        return ("GET", "HEAD") if self.method == "GET" and not self.lasting else (self.method,)
