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
