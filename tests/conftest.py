"""Fixtures for all tests: real etcds, one per version and session, and gateways to them."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest

from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalEtcd
from tests.support import etcd as support

# No test starts from what another one left in the user's folder; those of that folder name their own.
os.environ["CONFIGSVC_CACHE_DIR"] = "off"

MakeGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture(scope="session")
def start_etcd() -> Iterator[Callable[[str], LocalEtcd]]:
    """The etcd of a version, started at first use and shared by the session; tests keep to prefixes of their own."""
    running: dict[str, LocalEtcd] = {}
    with ExitStack() as stack:

        def start(version: str) -> LocalEtcd:
            if version not in running:
                running[version] = LocalEtcd(options=support.options(version))
                stack.enter_context(running[version])
            return running[version]

        yield start


@pytest.fixture(scope="session", params=[support.WHEEL, *support.current_versions()])
def etcd_version(request: pytest.FixtureRequest) -> str:
    """Each version of etcd in turn. One that is not built is skipped, or fails where all are required."""
    version: str = request.param
    if reason := support.missing(version):
        if support.required():
            pytest.fail(reason)
        pytest.skip(reason)
    return version


@pytest.fixture
def etcd_server(etcd_version: str, start_etcd: Callable[[str], LocalEtcd]) -> LocalEtcd:
    """A running etcd of each version."""
    return start_etcd(etcd_version)


@pytest.fixture
def any_etcd(start_etcd: Callable[[str], LocalEtcd]) -> LocalEtcd:
    """One running etcd, of the newest version that is there."""
    return start_etcd(support.newest())


@pytest.fixture
async def make_gateway() -> AsyncIterator[MakeGateway]:
    """Opens gateways to URLs; `config` is for fields of `GatewayConfig`, the rest for `Gateway`."""
    async with AsyncExitStack() as stack:

        async def make(*urls: str, config: dict[str, Any] | None = None, **more: Any) -> Gateway:
            settings = GatewayConfig(endpoints=urls, **(config or {}))
            return await stack.enter_async_context(Gateway(settings, **more))

        yield make


@pytest.fixture
async def gateway(etcd_server: LocalEtcd, make_gateway: MakeGateway) -> Gateway:
    """A gateway to `etcd_server`."""
    return await make_gateway(etcd_server.url)


@pytest.fixture
async def any_gateway(any_etcd: LocalEtcd, make_gateway: MakeGateway) -> Gateway:
    """A gateway to `any_etcd`."""
    return await make_gateway(any_etcd.url)


@pytest.fixture
def prefix() -> bytes:
    """A prefix that no other test uses."""
    return support.fresh_prefix()
