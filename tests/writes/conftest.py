"""An etcd for schedules, and silence."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog

from configsvc.etcd.local import LocalEtcd
from configsvc.writes import txns
from tests.support.etcd import newest, options
from tests.writes import explorer
from tests.writes.lean import LeanEtcd


@pytest.fixture(scope="module")
def store() -> Iterator[LocalEtcd]:
    """An etcd of one module's own, so that what it is made to keep is gone with it."""
    with LocalEtcd(options=options(newest(), extra=("--quota-backend-bytes=8589934592",))) as etcd:
        yield etcd


@pytest.fixture
async def lean(store: LocalEtcd) -> AsyncIterator[LeanEtcd]:
    """The lean client of it."""
    async with LeanEtcd(store.url) as etcd:
        yield etcd


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """A thousand writers that die have much to say."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule is all that its seed says, ids included."""
    monkeypatch.setattr(txns, "new_id", explorer.new_id)
