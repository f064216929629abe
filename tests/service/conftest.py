"""Fixtures for tests of writes: a namespace that no other test uses, a central service, and what etcd has."""

import uuid
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalEtcd
from tests.support.etcd import newest
from tests.support.writing import Api, Store, service


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"ns-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def api(any_etcd: LocalEtcd, namespace: str) -> AsyncIterator[Api]:
    """A central service that answers writes."""
    async with service(any_etcd, namespace) as api:
        yield api


@pytest.fixture
async def other(any_etcd: LocalEtcd, namespace: str) -> AsyncIterator[Api]:
    """A second replica."""
    async with service(any_etcd, namespace) as other:
        yield other


@pytest.fixture
def store(any_gateway: Gateway, namespace: str) -> Store:
    """What etcd has of the namespace."""
    return Store(any_gateway, namespace)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(start_etcd: Callable[[str], LocalEtcd]) -> AsyncIterator[tuple[Api, Store]]:
    """A service for all tests of a module that change nothing: its namespace has two environments."""
    etcd, namespace = start_etcd(newest()), f"ns-{uuid.uuid4().hex[:12]}"
    async with service(etcd, namespace) as api, Gateway(GatewayConfig(endpoints=(etcd.url,))) as gateway:
        await api.deploy({"a": 1, "b": {"c": 2}}, version="v1")
        await api.deploy({"a": 1}, env="staging")
        yield api, Store(gateway, namespace)


@pytest_asyncio.fixture(loop_scope="module")
async def deployed(shared: tuple[Api, Store]) -> AsyncIterator[Api]:
    """The shared service, for tests that are `SHARED`. Whatever one of them asks, the store stays as it is."""
    api, store = shared
    before = await store.everything()
    yield api
    assert await store.everything() == before
