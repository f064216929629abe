"""With exactly what the page for operators grants in etcd, a service can do all that it does; and no more is needed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from configsvc.etcd.local import LocalEtcd
from configsvc.permissions import needed
from tests.support.etcd import ROOT_PASSWORD, call, encoded, newest, options, prefix_end
from tests.support.service import make_settings
from tests.support.writing import Api, numbered, running_service

USERS = {
    "writer": needed("pay", writes=True),
    "reader": needed("pay", writes=False),
    "central": needed(None, writes=True),
}


@pytest.fixture(scope="module")
def etcd() -> Any:
    """An etcd with a user for each kind of service."""
    with LocalEtcd(options=options(newest())) as etcd:
        asyncio.run(_add_users(etcd))
        yield etcd


async def _add_users(etcd: LocalEtcd) -> None:
    for name, password in {"root": ROOT_PASSWORD, **dict.fromkeys(USERS, "s3cret")}.items():
        await call(etcd, "/v3/auth/user/add", {"name": name, "password": password})
        await call(etcd, "/v3/auth/role/add", {"name": name})
        await call(etcd, "/v3/auth/user/grant", {"user": name, "role": name})
    for name, needs in USERS.items():
        for need in needs:
            prefix = need.prefix.encode()
            permission = {
                "permType": "READWRITE" if need.writes else "READ",
                "key": encoded(prefix),
                "range_end": encoded(prefix_end(prefix)),
            }
            await call(etcd, "/v3/auth/role/grant", {"name": name, "perm": permission})
    await call(etcd, "/v3/auth/enable", {})


@asynccontextmanager
async def running(
    etcd: LocalEtcd, tmp_path: Path, user: str, environ: dict[str, str], **more: Any
) -> AsyncIterator[Api]:
    (tmp_path / "password").write_text("s3cret")
    settings = make_settings(
        environ | {"CONFIGSVC_LISTEN": "127.0.0.1:0"},
        etcd_endpoints=(etcd.url,),
        etcd_user=user,
        etcd_password_file=tmp_path / "password",
        heartbeat_s=0.5,
        **more,
    )
    async with running_service(settings, "pay") as api:
        yield api


@pytest.mark.parametrize(
    ("user", "environ"), [("writer", {"SERVICE_NAME": "pay"}), ("central", {"CONFIGSVC_MODE": "central"})]
)
async def test_a_service_that_writes(etcd: LocalEtcd, tmp_path: Path, user: str, environ: dict[str, str]) -> None:
    key = {"Idempotency-Key": user}
    async with running(etcd, tmp_path, user, environ, writes=True) as api:
        env = user
        first = await api.deploy({"a": 1}, env=env, version="v1", headers=key)
        assert (await api.deploy({"a": 1}, env=env, version="v1", headers=key)).json["release"] == first["release"]
        await api.emergency("a", 2, env=env, ttl_s=1)
        async with asyncio.timeout(30):
            while await api.values(env=env) != {"a": 1}:
                await asyncio.sleep(0.05)
        large = await api.deploy(
            dict.fromkeys(numbered(300), 1), env=env, force="x", headers={"Idempotency-Key": user + "2"}
        )
        assert large.status == 200
        assert (await api.rollback("v1", env=env, force="x")).status == 200
        assert (await api.ask("PUT", f"/v1/freeze/{{ns}}/{env}", reason="x", ttl_s=60)).status == 200
        assert (await api.ask("DELETE", f"/v1/freeze/{{ns}}/{env}")).status == 200
        assert (await api.ask("PUT", f"/v1/own-keys/{{ns}}/{env}", ["x"])).status == 200
        assert (await api.ask("POST", f"/v1/repair/{{ns}}/{env}")).status == 200
        assert (await api.drift(env)).status == 200
        saved = await api.ask("POST", "/v1/backup")
        assert saved.status == 200
        restored = await api.ask("POST", "/v1/restore", saved.body, media="application/gzip")
        assert [one["unchanged"] for one in restored["scopes"] if one["environment"] == env] == [True]


async def test_a_sidecar_that_reads_needs_no_more_than_before(etcd: LocalEtcd, tmp_path: Path) -> None:
    async with running(etcd, tmp_path, "writer", {"SERVICE_NAME": "pay"}, writes=True) as api:
        await api.deploy({"a": 1, "b": 1}, env="read", version="v1")
        await api.emergency("a", 2, env="read")
    async with running(etcd, tmp_path, "reader", {"SERVICE_NAME": "pay"}) as api:
        assert await api.values(env="read") == {"a": 2, "b": 1}
        (pending,) = (await api.drift("read"))["overrides"]
        assert (pending["key"], pending["value"]) == ("a", 2)
        assert "returns" not in pending, "that is kept where a reader may not look"
        assert (await api.ask("GET", "/v1/versions/{ns}/read"))["releases"][0]["kind"] == "emergency"
        assert (await api.read("read", release="v1"))["values"] == {"a": 1, "b": 1}
        assert len((await api.ask("GET", "/v1/history/{ns}/read/a"))["releases"]) == 2
        assert (await api.ask("GET", "/v1/diff/{ns}/read", from_="v1")).changes == [("a", 1, 2)]
        assert (await api.deploy({"a": 1}, env="read")).code == "read_only"
    async with running(etcd, tmp_path, "reader", {"SERVICE_NAME": "pay"}, writes=True) as api:
        refused = await api.deploy({"a": 1, "b": 2}, env="read", overrides="discard")
        assert (refused.status, refused.code) == (503, "store_unavailable")
        assert "does not let this service" in refused.json["detail"]
