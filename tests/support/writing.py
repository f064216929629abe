"""Services in this process over a real etcd, and a client that asks them for writes."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest

from configsvc.core.model import Scope, entry_path
from configsvc.etcd.gateway import Gateway
from configsvc.etcd.local import LocalCluster
from configsvc.settings_values import Address
from configsvc.web.build import build
from configsvc.web.server import bind, listening
from tests.support.etcd import delete, put
from tests.support.service import assert_sound, central

NOTHING = object()
SHARED = pytest.mark.asyncio(loop_scope="module")
"""Marks a test that asks the service which all of its module share."""


class Answer:
    """An answer: its status, headers, body, and what the body says where it is JSON."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.json: Any = json.loads(body) if "json" in headers.get("Content-Type", "") and body else None

    def __getitem__(self, name: str) -> Any:
        assert self.status == 200, self
        return self.json[name]

    def __repr__(self) -> str:
        return f"{self.status} {self.body[:2000]!r}"

    @property
    def code(self) -> str | None:
        """The code of a problem; None for a success."""
        return self.json["code"] if self.status >= 400 else None

    @property
    def changes(self) -> list[tuple[str, Any, Any]]:
        """The changed keys, each with its value before and after; `NOTHING` where there is none."""
        found = self["changes"]
        return [(one["key"], one.get("old", NOTHING), one.get("new", NOTHING)) for one in found]


class Api:
    """Asks one service about one namespace. The environment is `production` unless said."""

    def __init__(self, session: aiohttp.ClientSession, url: str, namespace: str) -> None:
        self.session = session
        self.url = url
        self.namespace = namespace

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        media: str | None = "application/json",
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        """One request. `path` has `{ns}` for the namespace; a body that is not bytes is sent as JSON."""
        path = path.replace("{ns}", self.namespace)
        found = "&".join(f"{name.rstrip('_')}={quote(str(value), safe='')}" for name, value in query.items())
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Content-Type": media} if data is not None and media else {}
        skipped = ["Content-Type"] if media is None else None
        target = self.url + path + (f"?{found}" if found else "")
        async with self.session.request(
            method,
            aiohttp.client.URL(target, encoded=True),
            data=data,
            headers=sent | dict(headers or {}),
            skip_auto_headers=skipped,
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        if answer.status >= 400:
            assert_sound(answer.json)
            assert answer.status < 500 or answer.status in (503, 504), answer
        return answer

    async def deploy(self, values: Any, env: str = "production", **more: Any) -> Answer:
        return await self.ask("POST", f"/v1/deploy/{{ns}}/{env}", values, **more)

    async def change(
        self, values: Mapping[str, Any] | None = None, *gone: str, env: str = "production", **more: Any
    ) -> Answer:
        body = ({"set": values} if values else {}) | ({"delete": list(gone)} if gone else {})
        return await self.ask("PATCH", f"/v1/config/{{ns}}/{env}", body, **more)

    async def emergency(self, key: str, value: Any, env: str = "production", **more: Any) -> Answer:
        return await self.ask(
            "PUT", f"/v1/emergency/{{ns}}/{env}/{key}", json.dumps(value).encode(), **{"reason": "why", **more}
        )

    async def delete(self, key: str, env: str = "production", **more: Any) -> Answer:
        return await self.ask("DELETE", f"/v1/config/{{ns}}/{env}/{key}", **more)

    async def rollback(self, version: str, env: str = "production", **more: Any) -> Answer:
        return await self.ask("POST", f"/v1/rollback/{{ns}}/{env}/{version}", **more)

    async def promote(self, source: str, env: str = "production", **more: Any) -> Answer:
        return await self.ask("POST", f"/v1/promote/{{ns}}/{env}", from_=source, **more)

    async def read(self, env: str = "production", **more: Any) -> Answer:
        return await self.ask("GET", f"/v1/config/{{ns}}/{env}", **more)

    async def values(self, after: Answer | None = None, env: str = "production") -> dict[str, Any]:
        """The values, as they are after a write."""
        seen = {"min_revision": f"{after['epoch']}:{after['revision']}"} if after else {}
        found: dict[str, Any] = (await self.read(env, **seen))["values"]
        return found

    async def drift(self, env: str = "production") -> Answer:
        return await self.ask("GET", f"/v1/drift/{{ns}}/{env}")

    async def kinds(self, env: str = "production") -> list[str]:
        """The kinds of all releases, oldest first."""
        found = await self.ask("GET", f"/v1/versions/{{ns}}/{env}", limit=500)
        return [one["kind"] for one in reversed(found["releases"])]


@asynccontextmanager
async def service(etcd: LocalCluster, namespace: str, **settings: Any) -> AsyncIterator[Api]:
    """A central service of its own over an etcd, but for `settings`, ready; and one that asks it."""
    wanted = central(etcd_endpoints=(etcd.url,), heartbeat_s=2.0)
    async with running_service(msgspec.structs.replace(wanted, **settings), namespace) as api:
        yield api


@asynccontextmanager
async def running_service(settings: Any, namespace: str) -> AsyncIterator[Api]:
    """The service that settings describe."""
    async with (
        listening(build(settings), bind(Address("127.0.0.1", 0))) as url,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session,
    ):
        api = Api(session, url, namespace)
        async with session.get(url + "/health/ready") as response:
            ready = response.status == 200
        while not ready:
            async with session.get(url + "/health/ready") as response:
                ready = response.status == 200
        yield api


class Store:
    """What etcd has of one namespace, and a hand that writes there past the service."""

    def __init__(self, gateway: Gateway, namespace: str) -> None:
        self.gateway = gateway
        self.namespace = namespace

    def path(self, key: str, env: str = "production") -> bytes:
        return entry_path(Scope(self.namespace, env), key)

    async def hand(self, key: str, value: Any = NOTHING, env: str = "production") -> int:
        """Put, or without a value delete, as somebody with `etcdctl` does; the revision."""
        if value is NOTHING:
            return await delete(self.gateway, self.path(key, env))
        return await put(self.gateway, self.path(key, env), json.dumps({"value": value}).encode())

    async def everything(self) -> dict[bytes, tuple[bytes, int]]:
        """Every key of the namespace and every receipt, with its value and revision."""
        prefixes = [f"/config/{self.namespace}/", "/configsvc/idempotency/"]
        prefixes += [f"/configsvc/{kind}/{self.namespace}/" for kind in ("releases", "overrides")]
        found = {}
        for prefix in prefixes:
            for kv in (await self.gateway.list(prefix.encode())).kvs:
                found[kv.key] = (kv.value, kv.mod_revision)
        return found

    async def entries(self, env: str = "production") -> dict[str, bytes]:
        """The stored entries, as bytes."""
        prefix = self.path("", env)
        listed = (await self.gateway.list(prefix)).kvs
        return {kv.key[len(prefix) :].decode(): kv.value for kv in listed if b"/_meta/" not in kv.key}


def numbered(count: int) -> Iterator[str]:
    """Names of keys."""
    return (f"k{n:05}" for n in range(count))


def repr_of(value: object) -> str:
    """A short name of a case."""
    return repr(value)[:30]
