"""The whole process: settings in, an address in the log, signals, exit codes. On a real etcd."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from configsvc.core.model import Scope, entry_path
from configsvc.etcd.gateway import Gateway
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.ops import Put, Txn
from tests.support.service import ask, ask_problem

PROGRAM = """
import asyncio, os, sys
from configsvc.settings import load
from configsvc.web.server import serve
sys.exit(asyncio.run(serve(load(os.environ))))
"""
NOWHERE = "127.0.0.1:9"


class Process:
    """A service as a process; `url` once it listens."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.url = ""

    async def line(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next log line that is wanted."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while raw := await self.process.stderr.readline():
                self.lines.append(json.loads(raw))
                if wanted(self.lines[-1]):
                    return self.lines[-1]
        raise AssertionError(f"not logged; there was {self.lines}")

    async def listening(self) -> str:
        self.url = (await self.line(lambda line: "address" in line))["address"]
        return self.url

    async def end(self) -> int:
        """Wait for the end; returns the exit code."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            rest = await self.process.stderr.read()
            self.lines += [json.loads(line) for line in rest.splitlines()]
            return await self.process.wait()

    def kill(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def service(**environ: str) -> AsyncIterator[Process]:
    """A service with these variables, on a free port unless they say otherwise."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("CONFIG", "ETCD", "SERVICE"))}
    variables = {**base, "CONFIGSVC_LISTEN": "127.0.0.1:0", "CONFIGSVC_HEARTBEAT_S": "0.5", **environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, env=variables, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def name(prefix: bytes) -> str:
    """A namespace of this test's own."""
    return "svc-" + "".join(c for c in prefix.decode() if c.isalnum())[-24:]


async def put(gateway: Gateway, scope: Scope, values: Mapping[str, object]) -> int:
    puts = tuple(
        Put(key=entry_path(scope, key), value=json.dumps({"value": value}).encode()) for key, value in values.items()
    )
    return (await gateway.txn(Txn(success=puts))).header.revision


async def test_from_etcd_to_a_reader_and_a_stream(any_etcd: LocalEtcd, any_gateway: Gateway, name: str) -> None:
    scope = Scope(name, "production")
    await put(any_gateway, scope, {"a": 1})
    async with service(SERVICE_NAME=name, ETCD_ENDPOINTS=any_etcd.url) as process:
        url = await process.listening()
        await process.line(lambda line: line["event"] == "ready")
        _, _, body = await ask(url, f"/v1/config/{scope}")
        assert json.loads(body)["values"] == {"a": 1}
        async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/watch/{scope}") as stream:
            async with asyncio.timeout(20):
                await stream.content.readuntil(b"event: snapshot")
                revision = await put(any_gateway, scope, {"a": 2})
                await stream.content.readuntil(b"event: change")
        _, headers, body = await ask(url, f"/v1/config/{scope}/a?raw=true&min_revision={revision}")
        assert (body, int(headers["configsvc-revision"]) >= revision) == (b"2", True)
        _, _, metrics = await ask(url, "/metrics")
        assert b"configsvc_watch_connected 1.0" in metrics
        assert b'configsvc_relists_total{reason="start"} 1.0' in metrics
        assert f'configsvc_etcd_breaker_state{{endpoint="{any_etcd.url}",state="closed"}} 1.0'.encode() in metrics
        _, _, health = await ask(url, "/health")
        assert {"etcd", "breaker", "cache"} <= json.loads(health)["checks"].keys()
        process.kill(signal.SIGTERM)
        assert await process.end() == 0
    assert not [line for line in process.lines if line["level"] in ("error", "critical")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_streams_are_sent_away_and_requests_finished(
    any_etcd: LocalEtcd, name: str, number: signal.Signals
) -> None:
    async with service(SERVICE_NAME=name, ETCD_ENDPOINTS=any_etcd.url, CONFIGSVC_DRAIN_S="20") as process:
        url = await process.listening()
        await process.line(lambda line: line["event"] == "ready")
        async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/watch/{name}/production") as stream:
            await stream.content.readuntil(b"event: snapshot")
            waiting = asyncio.create_task(ask(url, f"/v1/config/{name}/production?min_revision=99999999&wait_s=20"))
            await asyncio.sleep(0.2)
            process.kill(number)
            async with asyncio.timeout(15):
                rest = (await stream.content.read()).decode()
            assert '"state":"draining"' in rest
            assert "retry: " in rest
            assert (await waiting)[0] == 503
        assert await process.end() == 0


async def test_with_a_delay_it_serves_on_while_it_says_that_it_goes(any_etcd: LocalEtcd, name: str) -> None:
    """A proxy or Kubernetes still sends connections here, until it has seen or heard that this one stops."""
    more = {"CONFIGSVC_DRAIN_DELAY_S": "3600", "CONFIG_ENVIRONMENT": "production"}
    async with service(SERVICE_NAME=name, ETCD_ENDPOINTS=any_etcd.url, **more) as process:
        url = await process.listening()
        await process.line(lambda line: line["event"] == "ready")
        assert (await ask(url, "/health/ready"))[0] == 200
        process.kill(signal.SIGTERM)
        await process.line(lambda line: line["event"] == "stopping")
        async with asyncio.timeout(20):
            while (await ask(url, "/health/ready"))[0] != 503:
                await asyncio.sleep(0.02)
        async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/watch/{name}/production") as stream:
            async with asyncio.timeout(20):
                await stream.content.readuntil(b"event: snapshot")
            process.kill(signal.SIGTERM)
            async with asyncio.timeout(20):
                assert b"draining" in await stream.content.read()
        assert await process.end() == 0


async def test_a_second_signal_hurries(any_etcd: LocalEtcd, name: str) -> None:
    async with service(SERVICE_NAME=name, ETCD_ENDPOINTS=any_etcd.url, CONFIGSVC_DRAIN_S="3600") as process:
        url = await process.listening()
        await process.line(lambda line: line["event"] == "ready")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        # A reader that takes nothing keeps its stream from saying goodbye only while its buffers are full; a request
        # whose body does not come holds the connection, not the service.
        writer.write(f"GET /v1/watch/{name}/production HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        await asyncio.wait_for(reader.readuntil(b"event: snapshot"), 20)
        process.kill(signal.SIGTERM)
        await process.line(lambda line: line["event"] == "stopping")
        process.kill(signal.SIGTERM)
        assert await process.end() == 0
        writer.close()


async def test_a_port_in_use_is_one_line_and_69() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with service(SERVICE_NAME="a", ETCD_ENDPOINTS=NOWHERE, CONFIGSVC_LISTEN=address) as process:
            assert await process.end() == 69
    assert len(process.lines) == 1
    assert address in process.lines[0]["event"]
    assert "CONFIGSVC_LISTEN" in process.lines[0]["hint"]


async def test_without_etcd_it_waits_and_says_why() -> None:
    async with service(SERVICE_NAME="a", ETCD_ENDPOINTS=NOWHERE) as process:
        url = await process.listening()
        await process.line(lambda line: "etcd list failed" in line["event"])
        assert (await ask(url, "/health/live"))[0] == 200
        assert (await ask(url, "/health/ready"))[0] == 503
        _, _, body = await ask(url, "/health")
        etcd = json.loads(body)["checks"]["etcd"]
        assert (etcd["status"], NOWHERE in etcd["detail"]) == ("degraded", True)
        assert (await ask_problem(url, "/v1/config/a/production"))["code"] == "starting"
        process.kill(signal.SIGTERM)
        assert await process.end() == 0


async def test_a_start_that_takes_too_long_is_69() -> None:
    async with service(SERVICE_NAME="a", ETCD_ENDPOINTS=NOWHERE, CONFIGSVC_START_TIMEOUT_S="0.5") as process:
        await process.listening()
        assert await process.end() == 69
    assert [line for line in process.lines if line["level"] == "error" and "0.5 s" in line["event"]]


async def test_last_known_good_is_served_while_etcd_is_away(
    any_etcd: LocalEtcd, any_gateway: Gateway, name: str, tmp_path: Path
) -> None:
    scope = Scope(name, "production")
    await put(any_gateway, scope, {"a": 1})
    cache = str(tmp_path / "cache")
    async with service(SERVICE_NAME=name, ETCD_ENDPOINTS=any_etcd.url, CONFIGSVC_CACHE_DIR=cache) as process:
        await process.listening()
        await process.line(lambda line: line["event"] == "ready")
        process.kill(signal.SIGTERM)
        assert await process.end() == 0
    async with service(SERVICE_NAME=name, ETCD_ENDPOINTS=NOWHERE, CONFIGSVC_CACHE_DIR=cache) as process:
        url = await process.listening()
        status, headers, body = await ask(url, f"/v1/config/{scope}/a?raw=true")
        assert (status, body, headers["configsvc-source"]) == (200, b"1", "disk")
        assert (await ask(url, "/health/ready"))[0] == 200


async def test_malformed_requests_leave_one_line_and_no_trace(any_etcd: LocalEtcd, name: str) -> None:
    async with service(SERVICE_NAME=name, ETCD_ENDPOINTS=any_etcd.url) as process:
        url = await process.listening()
        await process.line(lambda line: line["event"] == "ready")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"total nonsense\r\n\r\n")
        assert b"400" in await asyncio.wait_for(reader.readline(), 20)
        writer.close()
        line = await process.line(lambda line: line["event"] == "request refused")
        assert (line["code"], line["level"]) == ("bad_request", "info")
        process.kill(signal.SIGTERM)
        assert await process.end() == 0
    assert not [line for line in process.lines if "exception" in line or "Traceback" in json.dumps(line)]
