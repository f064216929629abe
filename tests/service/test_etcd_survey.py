"""What `configsvc check` learns from each version of etcd."""

import asyncio
import uuid
from contextlib import asynccontextmanager

import pytest

from configsvc.etcd.gateway import GatewayConfig
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.survey import Survey
from tests.support import etcd as support


@asynccontextmanager
async def survey(*urls, progress_s=20.0, **config):
    async with Survey(GatewayConfig(endpoints=urls, **config), timeout_s=20.0, progress_s=progress_s) as found:
        yield found


@pytest.fixture
def fresh(etcd_version, start_etcd):
    """An etcd of each version for one test alone; its idle watches hear nothing for ten minutes."""
    start_etcd(etcd_version)  # skips, or fails, where it is missing
    with LocalEtcd(options=support.options(etcd_version, progress_s=600)) as etcd:
        yield etcd


async def test_an_endpoint_that_is_well(etcd_server, prefix):
    async with survey(etcd_server.url) as asked:
        facts = await asked.endpoint(etcd_server.url, prefix)
        members = await asked.members(etcd_server.url)
        assert await asked.alarms(etcd_server.url) == []
        user = await asked.user(etcd_server.url, prefix)
    assert facts.error is facts.refused is facts.certificate is None
    assert facts.version == ".".join(map(str, support.version_of(etcd_server)))
    assert facts.leader == facts.member_id == members[0].member_id
    assert members[0].client_urls == [etcd_server.url]
    assert not facts.learner
    assert facts.quota == 2 * 1024**3, "etcd's default"
    assert facts.db_size >= (facts.db_used or 0) > 0
    assert facts.history is not None
    assert facts.skew_s is not None
    assert abs(facts.skew_s) < 5
    assert facts.progress is not None
    assert facts.progress.state == "heard"
    assert (user.authentication, user.permissions) == (False, None)


async def test_history_after_a_compaction_and_silence(fresh, make_gateway, prefix):
    gateway = await make_gateway(fresh.url)
    for _ in range(10):
        revision = await support.put(gateway, prefix)
    async with survey(fresh.url, progress_s=0.3) as asked:
        assert (await asked.endpoint(fresh.url, prefix + b"quiet")).history == revision
        await support.compact(fresh, revision - 3)
        facts = await asked.endpoint(fresh.url, prefix + b"quiet")
    assert facts.history == 3
    assert facts.progress is not None
    assert facts.progress.state == "silent"


async def test_changes_while_it_listens(fresh, make_gateway, prefix):
    gateway = await make_gateway(fresh.url)

    async def write():
        while True:
            await support.put(gateway, prefix + b"x")
            await asyncio.sleep(0.05)

    writing = asyncio.create_task(write())
    async with survey(fresh.url, progress_s=0.5) as asked:
        facts = await asked.endpoint(fresh.url, prefix)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert facts.progress is not None
    assert facts.progress.state == "busy"


async def test_users(fresh, tmp_path):
    password = tmp_path / uuid.uuid4().hex
    password.write_text("s3cret\n")
    await support.enable_auth(fresh, user="payments", password="s3cret", prefix=b"/config/payments/")
    ours = {"user": "payments", "password_file": password}
    async with survey(fresh.url, progress_s=0.3) as asked:
        assert (await asked.user(fresh.url, b"/config/payments/_")).authentication is True
    async with survey(fresh.url, progress_s=0.3, **ours) as asked:
        user = await asked.user(fresh.url, b"/config/payments/_")
        mine = await asked.endpoint(fresh.url, b"/config/payments/_")
        others = await asked.endpoint(fresh.url, b"/config/others/_")
    assert user.roles == ["payments"]
    assert user.permissions is not None
    assert [(p.kind, p.key, p.range_end) for p in user.permissions] == [
        ("READWRITE", b"/config/payments/", b"/config/payments0")
    ]
    assert mine.progress is not None
    assert others.progress is not None
    assert (mine.progress.state, others.progress.state) == ("silent", "failed")
    password.write_text("guess")
    async with survey(fresh.url, progress_s=0.3, **ours) as asked:
        refused = await asked.endpoint(fresh.url, b"/config/payments/_")
        user = await asked.user(fresh.url, b"/config/payments/_")
    assert refused.refused is not None
    assert "user 'payments'" in refused.refused
    assert refused.version
    assert user.permissions is None
    assert user.reason
