"""Fixtures for tests of writes: a namespace that no other test uses, a central service, and what etcd has."""

import uuid
from collections.abc import AsyncIterator

import pytest

from configsvc.etcd.gateway import Gateway
from configsvc.etcd.local import LocalEtcd
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


@pytest.fixture
async def deployed(api: Api, store: Store) -> AsyncIterator[Api]:
    """A service whose namespace has two environments. Whatever a test asks, the store stays as it is."""
    await api.deploy({"a": 1, "b": {"c": 2}}, version="v1")
    await api.deploy({"a": 1}, env="staging")
    before = await store.everything()
    yield api
    assert await store.everything() == before
