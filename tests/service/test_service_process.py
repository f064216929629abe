"""The service as a process beside an etcd that is away, refuses it, is too old, comes back, or is gone at a restart."""

import asyncio
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from configsvc.core.model import Scope, namespace_prefix
from configsvc.etcd.local import LocalCluster, LocalEtcd
from configsvc_client import AsyncConfigClient, ClientStatus, ConfigClient
from tests.cli.commands import get
from tests.support.etcd import call, enable_auth, newest, options, root_token
from tests.support.process import Hand, ServiceProcess
from tests.support.scripted import HEADER, ScriptedGateway, answer

HEARTBEAT = {"CONFIGSVC_HEARTBEAT_S": "0.5"}


@pytest.fixture
def etcd() -> Iterator[LocalEtcd]:
    """An etcd of this test alone: it may be broken."""
    with LocalEtcd(options=options(newest())) as etcd:
        yield etcd


@pytest.fixture
def hand(etcd: LocalEtcd) -> Hand:
    return Hand(etcd)


def sidecar(folder: Path, scope: Scope, *endpoints: str, **more: str) -> ServiceProcess:
    settings = {"SERVICE_NAME": scope.namespace, "ETCD_ENDPOINTS": ",".join(endpoints)}
    return ServiceProcess(folder, **settings | HEARTBEAT | more)


def etcd_check(service: ServiceProcess) -> dict[str, Any]:
    check: dict[str, Any] = service.health()["checks"].get("etcd", {})
    return check


def trouble(service: ServiceProcess) -> dict[str, Any] | None:
    """The check once it has something to say."""
    check = etcd_check(service)
    return check if check.get("detail", "connecting") != "connecting" else None


def values(service: ServiceProcess, hand: Hand) -> Any:
    """What a reader of the scope is answered."""
    return get(f"{service.url}/v1/config/{hand.scope}").get("values")


def until_values(service: ServiceProcess, hand: Hand) -> None:
    service.running.until("it has what etcd has", lambda: values(service, hand) == hand.values)


def test_it_starts_without_etcd_and_recovers_when_there_is_one(etcd: LocalEtcd, hand: Hand, tmp_path: Path) -> None:
    hand.write({"a": 1})
    etcd.members[0].kill()
    with sidecar(tmp_path, hand.scope, etcd.url) as service:
        service.start(ready=False)
        check = service.running.until("it says so", lambda: trouble(service))
        assert check["status"] == "degraded"
        assert etcd.url in check["detail"], check
        assert service.health("/health/live") == {"status": "ok"}
        assert service.health("/health/ready")["status"] == "unavailable"
        assert get(f"{service.url}/v1/config/{hand.scope}")["code"] == "starting"
        etcd.members[0].restart()
        until_values(service, hand)
        service.running.until("all is well", lambda: service.health()["status"] == "ok")
        assert etcd_check(service)["status"] == "ok"
        assert service.stop() == 0
        # How often it says that it waits is bounded, and nothing of it is a defect.
        assert [line for line in service.log() if "exception" in line or line["level"] == "critical"] == []


def test_after_an_outage_of_all_members_all_is_well_again(tmp_path: Path) -> None:
    """Also those members that nobody needs any more, since one watch is enough."""
    with LocalCluster(3, options=options(newest())) as cluster:
        hand = Hand(cluster)
        hand.write({"a": 1})
        more = {"CONFIGSVC_BREAKER_FAILURES": "1", "CONFIGSVC_BREAKER_OPEN_S": "0.3"}
        with sidecar(tmp_path, hand.scope, *cluster.endpoints, **more) as service:
            service.start()
            for member in cluster.members:
                member.kill()
            service.running.until("all are left alone", lambda: breaker_check(service).startswith("3 of 3 left alone"))
            cluster.start_members()
            service.running.until("all is well", lambda: service.health()["status"] == "ok")
            assert breaker_check(service) == "3 of 3 in use"
            assert service.stop() == 0


def breaker_check(service: ServiceProcess) -> str:
    return str(service.health()["checks"].get("breaker", {}).get("detail", ""))


async def test_a_wrong_password_is_named_and_mended_without_a_restart(
    etcd: LocalEtcd, hand: Hand, tmp_path: Path
) -> None:
    hand.write({"a": 1})
    await enable_auth(etcd, user="reader", password="right", prefix=namespace_prefix(hand.scope.namespace))
    password = tmp_path / "password"
    password.write_text("wrong\n")
    try:
        with sidecar(tmp_path, hand.scope, etcd.url, ETCD_USER="reader", ETCD_PASSWORD_FILE=str(password)) as service:
            service.start(ready=False)
            check = service.running.until("it says so", lambda: trouble(service))
            assert check["status"] == "degraded"
            assert "authentication" in check["detail"], check
            assert "wrong" not in service.running.err, "no secret is logged"
            assert service.health("/health/ready")["status"] == "unavailable"
            password.write_text("right\n")
            until_values(service, hand)
            service.running.until("all is well", lambda: etcd_check(service)["status"] == "ok")
            assert service.stop() == 0
            assert "right" not in service.running.err, "no secret is logged"
    finally:
        await call(etcd, "/v3/auth/disable", {}, token=await root_token(etcd))


VERSION_3_3 = {"etcdserver": "3.3.27", "etcdcluster": "3.3.0"}
AS_3_3_ANSWERS: dict[str, Any] = {"/version": VERSION_3_3}
"""Its gateway has other paths: all of ours are 404."""
BEHIND_A_GATEWAY: dict[str, Any] = {
    "/version": VERSION_3_3,
    "/v3/maintenance/status": {"header": HEADER, "version": "3.3.27", "leader": "2"},
    "/v3/kv/range": {"header": HEADER},
}
"""Whoever translates the paths does not make it a newer etcd."""


@pytest.mark.parametrize(
    ("answers", "said", "status"),
    [(AS_3_3_ANSWERS, "3.4 or newer", "unavailable"), (BEHIND_A_GATEWAY, "etcd 3.3.27 is too old", "degraded")],
)
async def test_an_etcd_that_is_too_old_is_named(
    answers: dict[str, Any], said: str, status: str, tmp_path: Path
) -> None:
    async with ScriptedGateway() as gateway:
        for path, body in answers.items():
            gateway.play(path, answer(body))
        with sidecar(tmp_path, Scope("old", "production"), gateway.url) as service:
            await asyncio.to_thread(service.start, ready=False)
            await asyncio.to_thread(
                service.running.until, "it says so", lambda: said in etcd_check(service).get("detail", "")
            )
            health = await asyncio.to_thread(service.health)
            assert (health["status"], health["checks"]["etcd"]["status"]) == (status, "degraded")
            assert not gateway.seen("/v3/watch"), "what such an etcd says is not to be relied on"
            assert await asyncio.to_thread(service.stop) == 0


async def test_a_signal_tells_every_kind_of_stream_and_finishes_requests(
    etcd: LocalEtcd, hand: Hand, tmp_path: Path
) -> None:
    hand.write({"a": 1})
    with sidecar(tmp_path, hand.scope, etcd.url) as service:
        service.start()
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{service.url}/v1/watch/{hand.scope}") as stream,
            session.ws_connect(f"{service.url}/v1/ws/{hand.scope}") as socket,
        ):
            await asyncio.wait_for(stream.content.readuntil(b"event: snapshot"), 20)
            assert (await socket.receive_json(timeout=20))["event"] == "snapshot"
            later = session.get(f"{service.url}/v1/config/{hand.scope}?min_revision=999999999&wait_s=30")
            waiting = asyncio.ensure_future(later)
            await asyncio.to_thread(
                service.running.until, "the request is being answered", lambda: in_progress(service) >= 3
            )
            service.running.process.send_signal(signal.SIGTERM)
            rest = (await asyncio.wait_for(stream.read(), 20)).decode()
            assert rest.rstrip().splitlines()[-1].startswith("data: ")
            assert '"state":"draining"' in rest.rstrip().splitlines()[-1]
            assert "retry: " in rest
            states = [message.json() async for message in socket]
            assert states[-1]["data"]["state"] == "draining"
            assert socket.close_code == aiohttp.WSCloseCode.GOING_AWAY
            async with await waiting as response:
                assert response.status == 503
                assert (await response.json())["code"] in ("draining", "revision_not_reached")
            assert await asyncio.to_thread(service.wait) == 0
        assert [line for line in service.log() if line["level"] in ("error", "critical")] == []


def in_progress(service: ServiceProcess) -> int:
    """How many requests are being answered beside the one that asks."""
    with urllib.request.urlopen(f"{service.url}/metrics", timeout=5) as response:
        text = response.read().decode()
    line = next(line for line in text.splitlines() if line.startswith("configsvc_http_requests_in_progress"))
    return int(float(line.split()[-1])) - 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_while_etcd_is_away_serves_what_was_known(
    number: signal.Signals, etcd: LocalEtcd, hand: Hand, tmp_path: Path
) -> None:
    hand.write({"a": 1, "b": None})
    with sidecar(tmp_path, hand.scope, etcd.url, CONFIGSVC_CACHE_DIR=str(tmp_path / "cache")) as service:
        service.start()
        until_values(service, hand)
        service.running.until("it is on disk", lambda: any((tmp_path / "cache").rglob("*.cache")))
        before = get(f"{service.url}/v1/config/{hand.scope}")
        service.stop(number)
        etcd.members[0].kill()

        service.start()
        assert get(f"{service.url}/v1/config/{hand.scope}") == before
        health = service.health()
        assert (health["status"], health["checks"]["cache"]["status"]) == ("degraded", "degraded")
        assert "disk" in health["checks"]["cache"]["detail"]
        with_headers = head_of(f"{service.url}/v1/config/{hand.scope}")
        assert with_headers["Configsvc-Source"] == "disk"
        assert float(with_headers["Configsvc-Staleness"]) > 0

        etcd.members[0].restart()
        hand.write({"a": 2})
        until_values(service, hand)
        assert get(f"{service.url}/v1/config/{hand.scope}")["epoch"] == before["epoch"]
        assert head_of(f"{service.url}/v1/config/{hand.scope}")["Configsvc-Source"] == "live"
        assert service.stop() == 0


def head_of(url: str) -> dict[str, str]:
    """The headers of an answer."""
    with urllib.request.urlopen(url, timeout=5) as response:
        return dict(response.headers)


def test_a_client_of_a_service_that_serves_from_disk_knows_how_old_that_is(
    etcd: LocalEtcd, hand: Hand, tmp_path: Path
) -> None:
    hand.write({"a": 1})
    with sidecar(tmp_path, hand.scope, etcd.url, CONFIGSVC_CACHE_DIR=str(tmp_path / "cache")) as service:
        service.start()
        until_values(service, hand)
        service.running.until("it is on disk", lambda: any((tmp_path / "cache").rglob("*.cache")))
        service.stop()
        etcd.members[0].kill()
        service.start()
        service.running.until("that is old", lambda: staleness_s(service, hand) > 3)

        settings: Any = {"namespace": hand.scope.namespace, "environment": hand.scope.environment, "heartbeat_s": 0.5}
        folder = tmp_path / "client"
        told: list[str] = []
        with ConfigClient(service.url, **settings, cache_dir=folder, max_staleness_s=2.5) as client:
            client.on_status(lambda status: told.append(status.state))
            assert client.get("a") == 1
            assert is_old(client.status)
            # Nor do heartbeats make it younger.
            time.sleep(1.5)
            assert is_old(client.status)
            assert abs((client.status.age_s or 0) - staleness_s(service, hand)) < 1
        assert set(told) == {"stale"}
        asyncio.run(ask_asynchronously(service.url, **settings))
        # One that allows more calls it live, and says how old it is all the same.
        with ConfigClient(service.url, **settings, cache_dir="off", max_staleness_s=600) as client:
            assert client.get("a") == 1
            assert (client.status.state, (client.status.age_s or 0) > 3) == ("live", True)
        service.stop()

        # What the first one has kept is as old as what it was shown.
        for limit_s, expected in ((2.5, None), (600, 1)):
            more: Any = {"cache_dir": folder, "cache_max_age_s": limit_s, "start_timeout_s": 0.5}
            with ConfigClient(service.url, **settings, **more) as client:
                assert client.get("a", default=None) == expected


async def ask_asynchronously(url: str, **settings: Any) -> None:
    async with AsyncConfigClient(url, **settings, cache_dir="off") as client:
        assert await client.get("a") == 1
        assert is_old(client.status)


def is_old(status: ClientStatus) -> bool:
    seen = (status.state, status.source, status.service_state, (status.age_s or 0) > 3)
    return seen == ("stale", "memory", "stale", True)


def test_a_client_of_a_service_whose_etcd_is_frozen_knows_how_old_that_is(
    etcd: LocalEtcd, hand: Hand, tmp_path: Path
) -> None:
    hand.write({"a": 1})
    with sidecar(tmp_path, hand.scope, etcd.url) as service:
        service.start()
        until_values(service, hand)
        etcd.members[0].freeze()
        service.running.until("that is old", lambda: staleness_s(service, hand) > 3)
        scope: Any = {"namespace": hand.scope.namespace, "environment": hand.scope.environment}
        with ConfigClient(service.url, **scope, cache_dir="off", max_staleness_s=2.5) as client:
            assert client.get("a") == 1
            assert is_old(client.status)
            etcd.members[0].thaw()
            service.running.until("it is live", lambda: client.status.state == "live")
            assert client.status.age_s == 0


def staleness_s(service: ServiceProcess, hand: Hand) -> float:
    """How old a read says that it is."""
    return float(head_of(f"{service.url}/v1/config/{hand.scope}")["Configsvc-Staleness"])
