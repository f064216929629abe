"""A client, a proxy that buffers streams, the service as a process and a real etcd: changes arrive all the same."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from configsvc.core.model import Scope
from configsvc.etcd.local import LocalEtcd
from configsvc_client import AsyncConfigClient, Backoff, Tuning
from tests.client.support import PATIENT, eventually
from tests.support.process import Hand, ServiceProcess
from tests.support.proxy import TcpProxy

HEARTBEAT_S = 0.5
TUNING = Tuning(
    backoff=Backoff(base_s=0.05, cap_s=0.1),
    stream_retry=Backoff(base_s=0.5, cap_s=0.5),
    connect_timeout_s=2 * HEARTBEAT_S,
    first_poll_after_s=0.1,
)


@pytest.fixture
def hand(any_etcd: LocalEtcd) -> Hand:
    hand = Hand(any_etcd)
    hand.write({"greeting": "hello", "large": "x" * 10_000})
    return hand


@pytest.fixture
def service(hand: Hand, any_etcd: LocalEtcd, tmp_path: Path) -> Iterator[ServiceProcess]:
    settings = {"SERVICE_NAME": hand.scope.namespace, "CONFIGSVC_HEARTBEAT_S": str(HEARTBEAT_S)}
    with ServiceProcess(tmp_path, ETCD_ENDPOINTS=any_etcd.url, **settings) as service:
        service.start()
        yield service


def client_of(url: str, scope: Scope) -> AsyncConfigClient:
    return AsyncConfigClient(
        url,
        namespace=scope.namespace,
        environment=scope.environment,
        heartbeat_s=HEARTBEAT_S,
        tuning=TUNING,
        **PATIENT,
    )


async def assert_follows(client: AsyncConfigClient, hand: Hand, value: str) -> None:
    """A write arrives, and is told once."""
    told: list[object] = []
    end = client.on_change(lambda one: told.append(one.new), key="greeting")
    revision = hand.write({"greeting": value})
    await eventually(lambda: (client.status.revision or 0) >= revision and told)
    end()
    assert await client.get("greeting") == value
    assert told == [value]
    assert client.status.state == "live"


@pytest.mark.parametrize("hold_bytes", [4096, 10**9], ids=["4 KiB", "all of it"])
async def test_changes_arrive_through_a_buffering_proxy_and_the_stream_is_taken_when_it_flows(
    hand: Hand, service: ServiceProcess, hold_bytes: int
) -> None:
    async with TcpProxy(service.url) as proxy:
        proxy.hold_bytes = hold_bytes
        async with client_of(proxy.url, hand.scope) as client:
            assert await client.get("greeting") == "hello"
            session = client._state.session
            await eventually(lambda: session.transport == "polling")
            await assert_follows(client, hand, "by polls")
            proxy.hold_bytes = 0
            await eventually(lambda: session.transport == "stream")
            await assert_follows(client, hand, "by the stream")


NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")
CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {url};
            {more}
        }}
    }}
}}
"""
BUFFERING = "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"


@contextmanager
def nginx(folder: Path, url: str, more: str) -> Iterator[str]:
    """nginx before `url` on a free port, with its defaults but for `more`."""
    assert NGINX
    folder.mkdir()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, url=url, more=more))
    process = subprocess.Popen([NGINX, "-c", config, "-p", folder, "-e", folder / "error.log"])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize(("more", "transport"), [(BUFFERING, "polling"), ("", "stream")], ids=["told to", "defaults"])
async def test_nginx_streams_where_it_honours_the_service_and_is_polled_through_where_not(
    hand: Hand, service: ServiceProcess, tmp_path: Path, more: str, transport: str
) -> None:
    with nginx(tmp_path / "nginx", service.url, more) as url:
        async with client_of(url, hand.scope) as client:
            assert await client.get("greeting") == "hello"
            session = client._state.session
            await eventually(lambda: session.transport == transport)
            await assert_follows(client, hand, "through nginx")
            assert session.transport == transport
