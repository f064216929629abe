"""Questions to etcd's past where members disagree: one real etcd, one that plays another answer."""

import asyncio

import pytest

from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.ops import Compacted, Range, fingerprint
from configsvc.history import (
    FINGERPRINT_KEYS,
    Fork,
    Known,
    Unfit,
    check_cluster,
    check_history,
    check_not_rolled_back,
    identity,
    newest_revision,
)
from tests.support import etcd as support
from tests.support.scripted import HEADER, ScriptedGateway, answer

OTHER = {"header": HEADER, "kvs": [{"key": support.encoded(b"x"), "mod_revision": "6"}], "count": "1"}
FUTURE = {"code": 11, "message": "etcdserver: mvcc: required revision is a future revision"}
RANGE = "/v3/kv/range"


async def test_a_member_whose_data_is_another_is_left_and_history_goes_on(any_etcd: LocalEtcd, prefix: bytes) -> None:
    async with ScriptedGateway() as odd, Gateway(GatewayConfig(endpoints=(odd.url, any_etcd.url))) as gateway:
        wrong, right = gateway.members
        odd.play(RANGE, answer(OTHER))
        async with Gateway(GatewayConfig(endpoints=(any_etcd.url,))) as direct:
            revision = await support.put(direct, prefix + b"a", b"1")
            seen = await direct.range(fingerprint(prefix, revision=revision, limit=FINGERPRINT_KEYS))
        cluster = seen.header.cluster_id
        known = Known(revision, identity(seen), (prefix + b"a", b"1"), cluster)
        await check_history(gateway, prefix, right, known)
        with pytest.raises(Unfit, match="differs"):
            await check_history(gateway, prefix, wrong, known)
        odd.play(RANGE, answer(FUTURE, 400))
        with pytest.raises(Unfit, match="lags"):
            await check_history(gateway, prefix, wrong, known)
        other = identity(await gateway.range(fingerprint(prefix + b"none"), member=right))
        with pytest.raises(Fork):
            await check_history(gateway, prefix, right, known._replace(mirror=other))
        with pytest.raises(Fork, match="epoch key"):
            await check_history(gateway, prefix, right, known._replace(witness=(prefix + b"a", b"2")))
        with pytest.raises(Fork):
            await check_not_rolled_back(gateway, prefix, right, revision + 10**6, cluster)


async def test_an_endpoint_of_another_cluster_has_no_say(any_etcd: LocalEtcd, prefix: bytes) -> None:
    async with ScriptedGateway() as odd:
        odd.play(RANGE, answer({"header": {**HEADER, "revision": "999999999"}}))
        async with Gateway(GatewayConfig(endpoints=(odd.url, any_etcd.url))) as gateway:
            header = (await gateway.range(Range(key=prefix), member=gateway.members[1])).header
            assert await newest_revision(gateway, prefix, 1, header.cluster_id) < 999999999
            with pytest.raises(Unfit, match="another cluster"):
                await check_cluster(gateway, prefix, header.cluster_id)
            await check_cluster(gateway, prefix, "nobody's")
            assert await newest_revision(gateway, prefix, 1, "nobody's") == 0


async def test_what_is_compacted_is_not_judged(prefix: bytes) -> None:
    with LocalEtcd(options=support.options(support.newest())) as etcd:
        async with Gateway(GatewayConfig(endpoints=(etcd.url,))) as gateway:
            first = await support.put(gateway, prefix + b"a", b"1")
            last = await support.put(gateway, prefix + b"a", b"2")
            await support.compact(etcd, last)
            await asyncio.sleep(0)
            result = await gateway.range(fingerprint(prefix))
            known = Known(first, identity(result), None, result.header.cluster_id)
            with pytest.raises(Compacted):
                await check_history(gateway, prefix, gateway.members[0], known)
