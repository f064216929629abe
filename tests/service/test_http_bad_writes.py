"""Bad input of every kind on every route that writes: a 4xx that says what and where, and the store as it was."""

import asyncio
import gzip
import json
from typing import Any

import aiohttp
import pytest

from configsvc.auth import Authenticator
from configsvc.core.policy import Identity
from configsvc.errors import Unauthenticated
from configsvc.etcd.local import LocalEtcd
from configsvc.web.app import create_app
from configsvc.web.routes import ROUTES
from tests.support.service import central, connect, make_hub, make_settings, serving
from tests.support.writing import SHARED, Api, Store, running_service, service

JSON, YAML = "application/json", "application/yaml"
WRITES = [route for route in ROUTES if route.writes]
MB = 1024 * 1024


def route_name(route: Any) -> str:
    """A route as the name of a case."""
    return f"{route.method} {route.path}"


# ---- paths and parameters --------------------------------------------------------------------------------------------

BODIES = {"POST /v1/deploy": b"{}", "PATCH": b'{"set":{"a":5}}', "PUT /v1/emergency": b"1", "PUT /v1/own-keys": b"[]"}
NEEDED = {
    "PUT /v1/emergency": {"reason": "x"},
    "POST /v1/promote": {"from_": "staging"},
    "PUT /v1/freeze": {"reason": "x", "ttl_s": 5},
}


def _for(table: dict[str, Any], route: Any) -> Any:
    return next((found for name, found in table.items() if f"{route.method} {route.path}".startswith(name)), None)


async def ask(api: Api, route: Any, path: str | None = None, **query: Any) -> Any:
    """A request to a route with all that it needs."""
    template = path or route.path.replace("{env}", "production").replace("{key}", "a").replace("{version}", "v1")
    body = _for(BODIES, route) or (b"x" if route.body else None)
    media = route.body.media[0] if route.body else None
    return await api.ask(route.method, template, body, media=media, **(_for(NEEDED, route) or {}) | query)


SCOPED = [route for route in WRITES if "{ns}" in route.path]


@pytest.mark.parametrize("route", SCOPED, ids=route_name)
@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", ".", "", "_meta", "a%2Fb", "a%00", "%ff", "%zz", "caf%C3%A9", "x" * 129]
)
@SHARED
async def test_names_of_scopes(deployed: Api, route: Any, name: str) -> None:
    for where in ("{ns}", "{env}"):
        path = route.path.replace(where, name).replace("{ns}", "{ns}").replace("{env}", "production")
        path = path.replace("{key}", "a").replace("{version}", "v1")
        refused = await ask(deployed, route, path)
        assert (refused.status, refused.code) == (400, "invalid_scope")


KEYED = [route for route in WRITES if "{key}" in route.path]


@pytest.mark.parametrize("route", KEYED, ids=route_name)
@pytest.mark.parametrize(
    "key",
    ["", "..", "%2e%2e", "_meta", "_meta%2Fhead", "a%2Fb", "a/b", "../staging/a", "a%00b", "%ff", "%", "x" * 1025],
)
@SHARED
async def test_names_of_keys(deployed: Api, route: Any, key: str) -> None:
    refused = await ask(deployed, route, route.path.replace("{env}", "production").replace("{key}", key))
    assert (refused.status, refused.code) == (400, "invalid_key")


async def test_an_odd_key_can_be_deleted_and_not_be_set(api: Api, store: Store) -> None:
    await api.deploy({"a": 1})
    for key, sent in ((" x", "%20x"), ("e\u0301", "e%CC%81")):
        refused = await api.emergency(sent, 1)
        assert (refused.status, refused.code) == (400, "invalid_key")
        await store.hand(key, 1)
        assert (await api.delete(sent)).status == 200


@pytest.mark.parametrize("route", WRITES, ids=route_name)
@SHARED
async def test_parameters(deployed: Api, route: Any) -> None:
    known = {parameter.name for parameter in route.query}
    refused = await ask(deployed, route, surprise="x")
    assert (refused.status, refused.code, refused.json["parameter"]) == (400, "invalid_query", "surprise")
    bad = {"dry_run": "yes", "base_release": "x", "ttl_s": "0", "overrides": "all", "version": "a b", "emergency": "1"}
    bad |= {"namespace": "_x", "reason": "", "force": "a\nb", "git_commit": "x" * 201}
    for name, value in bad.items():
        refused = await ask(deployed, route, **{name: value})
        assert (refused.status, refused.code, refused.json["parameter"]) == (400, "invalid_query", name)
        if name not in known:
            assert "does not exist here" in refused.json["detail"]
    for name in known - {"from"}:
        needed = f"&{name}=x&{name}=x"
        path = route.path.replace("{env}", "production").replace("{key}", "a").replace("{version}", "v1")
        refused = await ask(deployed, route, f"{path}?{needed}") if not _for(NEEDED, route) else None
        assert refused is None or (refused.status, refused.code) == (400, "invalid_query")
    misspelt = await ask(deployed, route, **{"dryrun" if "dry_run" in known else "reasn": "true"})
    if known & {"dry_run", "reason"}:
        assert "did you mean" in misspelt.json["detail"]


# ---- order of refusals -----------------------------------------------------------------------------------------------


class Tokens(Authenticator):
    """An authenticator with a fixed list."""

    generation = 0
    known = {
        "reader": ("read:*",),
        "deployer": ("deploy:payments/production", "read:payments/production"),
        "promoter": ("deploy:payments/production", "read:payments/*"),
        "emergency": ("emergency:payments/*", "read:payments/*"),
    }

    async def identify(self, authorization: str | None) -> Identity:
        name = (authorization or "").removeprefix("Bearer ")
        if name not in self.known:
            raise Unauthenticated("send a token")
        return Identity(name=name, permissions=self.known[name])

    def holds(self, identity: Identity) -> bool:
        return True


@pytest.mark.parametrize("route", WRITES, ids=route_name)
async def test_who_then_what_then_may_they(route: Any) -> None:
    settings = central()
    hub = make_hub(settings)
    app = create_app(settings, hub, authenticator=Tokens())
    async with serving(hub, settings, app) as url, aiohttp.ClientSession() as session:
        api = Api(session, url, "payments")
        path = route.path.replace("{env}", "production").replace("{key}", "a").replace("{version}", "v1")
        media = route.body.media[0] if route.body else None

        async def asked(who: str, target: str, body: bytes | None, **query: Any) -> Any:
            headers = {"Authorization": f"Bearer {who}"} | query.pop("headers", {})
            return await api.ask(route.method, target, body, media=media, headers=headers, **query)

        needed = _for(NEEDED, route) or {}
        good = _for(BODIES, route) or (b"x" if route.body else None)
        assert (await asked("nobody", path.replace("{ns}", "_x"), b"{", nonsense=1)).status == 401
        assert (await asked("reader", path, good, nonsense=1, **needed)).status == 400
        if route.body and "restore" not in path:
            assert (await asked("reader", path, b"{", **needed)).status == 400
        if needed:
            assert (await asked("reader", path, good)).status == 400
        if any(header.name == "If-Match" for header in route.headers):
            assert (await asked("reader", path, good, headers={"If-Match": "x"}, **needed)).status == 400
            assert (await asked("reader", path, good, headers={"Idempotency-Key": ""}, **needed)).status == 400
        refused = await asked("reader", path, good, **needed)
        assert (refused.status, refused.code) == (403, "forbidden")


async def test_emergencies_need_a_permission_of_their_own_and_promotions_that_of_the_source() -> None:
    settings = central()
    hub = make_hub(settings)
    app = create_app(settings, hub, authenticator=Tokens())
    async with serving(hub, settings, app) as url, aiohttp.ClientSession() as session:
        api = Api(session, url, "payments")

        async def status(who: str, method: str, path: str, body: Any = None, **query: Any) -> int:
            headers = {"Authorization": f"Bearer {who}"}
            return (await api.ask(method, path, body, headers=headers, **query)).status

        # 503: it may, and there is no etcd here.
        change = ("PATCH", "/v1/config/{ns}/production", {"set": {"a": 1}})
        assert await status("deployer", *change) == 503
        assert await status("deployer", *change, emergency="true", reason="x") == 403
        assert await status("emergency", *change) == 403
        assert await status("emergency", *change, emergency="true", reason="x") == 503
        assert await status("deployer", "PUT", "/v1/emergency/{ns}/production/a", 1, reason="x") == 403
        assert await status("deployer", "POST", "/v1/promote/{ns}/production", from_="staging") == 403
        assert await status("promoter", "POST", "/v1/promote/{ns}/production", from_="staging") == 503
        for path in ("/v1/backup", "/v1/restore"):
            headers = {"Authorization": "Bearer promoter"}
            assert (await api.ask("POST", path, b"x", media="application/gzip", headers=headers)).status == 403


@pytest.mark.parametrize("route", WRITES, ids=route_name)
async def test_a_service_that_answers_no_writes(any_etcd: LocalEtcd, namespace: str, store: Store, route: Any) -> None:
    settings = make_settings(
        {"SERVICE_NAME": namespace, "CONFIGSVC_LISTEN": "127.0.0.1:0"}, etcd_endpoints=(any_etcd.url,)
    )
    async with running_service(settings, namespace) as api:
        refused = await ask(api, route)
        assert (refused.status, refused.code) == (403, "read_only")
    assert {key for key in await store.everything() if b"idempotency" not in key} == set()


async def test_a_sidecar_writes_its_own_scopes_only(any_etcd: LocalEtcd, namespace: str) -> None:
    environ = {"SERVICE_NAME": namespace, "CONFIGSVC_LISTEN": "127.0.0.1:0", "CONFIG_ENVIRONMENT": "production"}
    settings = make_settings(environ, etcd_endpoints=(any_etcd.url,), writes=True)
    async with running_service(settings, namespace) as api:
        assert (await api.deploy({"a": 1})).status == 200
        for route in SCOPED:
            path = route.path.replace("{ns}", "other").replace("{env}", "production")
            refused = await ask(api, route, path.replace("{key}", "a").replace("{version}", "v1"))
            assert (refused.status, refused.code) == (403, "outside_sidecar")
        assert (await api.deploy({"a": 1}, env="staging")).code == "outside_sidecar"
        assert (await api.promote("staging")).code == "outside_sidecar"
        async with service(any_etcd, namespace) as central:
            saved = (await central.ask("POST", "/v1/backup", namespace=namespace)).body
        # A backup has whole namespaces, and this one follows an environment.
        for query in ({}, {"namespace": namespace}, {"namespace": "other"}):
            for path, body in (("/v1/backup", None), ("/v1/restore", saved)):
                refused = await api.ask("POST", path, body, media="application/gzip", **query)
                assert refused.code == "outside_sidecar"


async def test_a_sidecar_of_a_namespace_saves_and_restores_it(any_etcd: LocalEtcd, namespace: str) -> None:
    environ = {"SERVICE_NAME": namespace, "CONFIGSVC_LISTEN": "127.0.0.1:0"}
    settings = make_settings(environ, etcd_endpoints=(any_etcd.url,), writes=True)
    async with running_service(settings, namespace) as api:
        await api.deploy({"a": 1})
        await api.deploy({"a": 1}, env="staging")
        saved = (await api.ask("POST", "/v1/backup")).body
        await api.deploy({"a": 2}, env="staging")
        restored = await api.ask("POST", "/v1/restore", saved, media="application/gzip")
        assert [(one["namespace"], one["changed"]) for one in restored["scopes"]] == [(namespace, 0), (namespace, 1)]
        refused = await api.ask("POST", "/v1/restore", saved, media="application/gzip", namespace="other")
        assert refused.code == "outside_sidecar"


# ---- how bodies are sent ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", [route for route in WRITES if route.body], ids=route_name)
@SHARED
async def test_types_and_encodings(deployed: Api, route: Any) -> None:
    path = route.path.replace("{env}", "production").replace("{key}", "a")
    needed = _for(NEEDED, route) or {}
    for media in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", "multipart/form-data"):
        refused = await deployed.ask(route.method, path, b"{}", media=media, **needed)
        assert (refused.status, refused.code) == (415, "unsupported_media_type")
        assert route.body.media[0] in refused.json["detail"]
    if JSON in route.body.media:
        refused = await deployed.ask(route.method, path, b"{}", media=f"{JSON}; charset=latin-1", **needed)
        assert refused.status == 415
    for encoding in ("gzip", "br", "deflate", "gzip, identity"):
        bomb = gzip.compress(b"\0" * 50 * MB)
        refused = await deployed.ask(
            route.method, path, bomb, media=route.body.media[0], headers={"Content-Encoding": encoding}, **needed
        )
        assert (refused.status, refused.code) == (415, "unsupported_media_type")


def head(api: Api, *headers: str, method: str = "POST", path: str = "/v1/deploy/{ns}/production") -> bytes:
    lines = [f"{method} {path.replace('{ns}', api.namespace)} HTTP/1.1", "Host: x", f"Content-Type: {JSON}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_a_body_without_a_type(api: Api) -> None:
    async with connect(api.url) as connection:
        head = f"POST /v1/deploy/{api.namespace}/production HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}"
        connection.send(head.encode())
        problem = await connection.problem()
        assert (problem["status"], problem["code"]) == (415, "unsupported_media_type")
        assert "application/json" in problem["detail"]


async def test_a_chunked_body(api: Api) -> None:
    async with connect(api.url) as connection:
        connection.send(head(api, "Transfer-Encoding: chunked") + b'4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n')
        status, _, body = await connection.response()
        assert (status, json.loads(body)["release"]) == (200, 1)
        # The connection can be used again.
        connection.send(head(api, "Content-Length: 8") + b'{"a": 2}')
        assert (await connection.response())[0] == 200


async def test_a_client_that_waits_is_told_to_send_unless_it_need_not(api: Api) -> None:
    async with connect(api.url) as connection:
        connection.send(head(api, "Content-Length: 8", "Expect: 100-continue"))
        assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(b'{"a": 2}')
        assert (await connection.response())[0] == 200
    async with connect(api.url) as connection:
        connection.send(head(api, "Content-Length: 100000000", "Expect: 100-continue"))
        assert (await connection.problem())["code"] == "body_too_large"


async def test_bodies_that_are_too_large(any_etcd: LocalEtcd, namespace: str) -> None:
    async with service(any_etcd, namespace, max_body_bytes=2000) as api:
        fits = json.dumps({"a": "x" * 1980}).encode()
        assert len(fits) <= 2000
        assert (await api.deploy(fits)).status == 200
        refused = await api.deploy(b" " * 2001)
        assert (refused.status, refused.code, refused.json["limit"]) == (413, "body_too_large", 2000)
        async with connect(api.url) as connection:
            connection.send(head(api, "Transfer-Encoding: chunked") + (b"3e8\r\n" + b" " * 1000 + b"\r\n") * 3)
            assert (await connection.problem())["code"] == "body_too_large"
            await connection.rest()
        assert await api.kinds() == ["deploy"]


@SHARED
async def test_a_value_is_refused_by_its_length_before_it_is_read(deployed: Api) -> None:
    path = "/v1/emergency/{ns}/production/a?reason=x"
    async with connect(deployed.url) as connection:
        connection.send(head(deployed, f"Content-Length: {3 * MB}", method="PUT", path=path))
        problem = await connection.problem()
        assert (problem["code"], problem["limit"]) == ("body_too_large", 2 * MB)


@pytest.mark.parametrize(
    ("framing", "body"),
    [("Content-Length: 20", b'{"a": 5}'), ("Transfer-Encoding: chunked", b'8\r\n{"a": 5}\r\n')],
)
@SHARED
async def test_a_body_that_breaks_off_changes_nothing(deployed: Api, framing: str, body: bytes) -> None:
    for half in (True, False):
        async with connect(deployed.url) as connection:
            connection.send(head(deployed, framing) + body)
            await connection.writer.drain()
            if half:
                connection.writer.write_eof()
                await connection.rest()
    # Whatever was begun has ended.
    async with asyncio.timeout(20):
        while "configsvc_http_requests_in_progress 1.0" not in (await deployed.ask("GET", "/metrics")).body.decode():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("chunk", [b"zz\r\n{}\r\n", b"-1\r\n", b"2\r\n{}xx\r\n0\r\n\r\n", b"ffffffffffffffffff\r\n"])
@SHARED
async def test_chunks_that_are_none(deployed: Api, chunk: bytes) -> None:
    async with connect(deployed.url) as connection:
        connection.send(head(deployed, "Transfer-Encoding: chunked") + chunk)
        problem = await connection.problem()
        assert problem["status"] == 400
        assert await connection.rest() == b""


async def test_a_body_that_does_not_come_is_given_up(any_etcd: LocalEtcd, namespace: str) -> None:
    async with service(any_etcd, namespace, head_timeout_s=0.3) as api:
        for start in (b"", b'{"a"'):
            async with connect(api.url) as connection:
                connection.send(head(api, "Content-Length: 8") + start)
                problem = await connection.problem()
                assert (problem["status"], problem["code"]) == (408, "request_timeout")
                assert await connection.rest() == b""
        async with connect(api.url) as connection:

            async def trickle() -> None:
                connection.send(head(api, "Content-Length: 100000"))
                for _ in range(2000):
                    connection.send(b" ")
                    await asyncio.sleep(0.01)

            trickling = asyncio.create_task(trickle())
            try:
                assert (await connection.problem())["code"] == "request_timeout"
            finally:
                trickling.cancel()
                await asyncio.wait({trickling})


async def test_writes_without_etcd_are_a_503(namespace: str) -> None:
    settings = central()
    hub = make_hub(settings)
    async with serving(hub, settings) as url, aiohttp.ClientSession() as session:
        api = Api(session, url, namespace)
        refused = await api.deploy({"a": 1})
        assert (refused.status, refused.code) == (503, "store_unavailable")
