"""Reads, writes and leases through the gateway on every version of etcd."""

import asyncio
import base64
from typing import Any

import pytest

from configsvc.etcd import limits
from configsvc.etcd.gateway import Gateway
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.ops import (
    Compacted,
    Compare,
    Delete,
    FutureRevision,
    Header,
    Invalid,
    NotFound,
    Put,
    Range,
    RangeResult,
    Txn,
    fingerprint,
    prefix_end,
)
from tests.support.etcd import call, compact, delete, fresh_prefix, get, put, version_of


async def test_what_is_put_is_read(gateway: Gateway, prefix: bytes) -> None:
    revision = await put(gateway, prefix + b"a", b"\0\xff?>")
    await put(gateway, prefix + b"empty", b"")
    result = await gateway.range(Range(key=prefix, range_end=prefix_end(prefix)))
    assert [(kv.key, kv.value) for kv in result.kvs] == [(prefix + b"a", b"\0\xff?>"), (prefix + b"empty", b"")]
    assert (result.kvs[0].create_revision, result.kvs[0].mod_revision, result.kvs[0].version) == (revision, revision, 1)
    assert (result.count, result.more) == (2, False)
    assert result.header.revision > revision
    assert result.header.cluster_id.isdecimal()


@pytest.mark.parametrize("key", [b"foo", b"\xfb\xff", b"~~~", b"a/b+c", "schlüssel".encode()])
async def test_keys_of_any_bytes(gateway: Gateway, prefix: bytes, key: bytes) -> None:
    await put(gateway, prefix + key, key)
    assert [kv.value for kv in (await get(gateway, prefix + key)).kvs] == [key]


async def test_missing_key(gateway: Gateway, prefix: bytes) -> None:
    result = await get(gateway, prefix)
    assert (result.kvs, result.count, result.more) == ([], 0, False)


async def test_options_of_a_range(gateway: Gateway, prefix: bytes) -> None:
    first = await put(gateway, prefix + b"b", b"1")
    await put(gateway, prefix + b"a", b"2")
    last = await put(gateway, prefix + b"b", b"3")
    end = prefix_end(prefix)

    async def ask(**more: Any) -> RangeResult:
        return await gateway.range(Range(key=prefix, range_end=end, **more))

    assert [kv.value for kv in (await ask(revision=first)).kvs] == [b"1"]
    limited = await ask(limit=1)
    assert (len(limited.kvs), limited.count, limited.more) == (1, 2, True)
    assert [kv.value for kv in (await ask(keys_only=True)).kvs] == [b"", b""]
    assert ((await ask(count_only=True)).kvs, (await ask(count_only=True)).count) == ([], 2)
    assert [kv.key for kv in (await ask(sort_order="DESCEND")).kvs] == [prefix + b"b", prefix + b"a"]
    newest = await gateway.range(fingerprint(prefix, revision=last))
    assert (newest.kvs[0].mod_revision, newest.count) == (last, 2)
    assert (await gateway.range(fingerprint(prefix, serializable=True))).kvs[0].mod_revision == last


async def test_txn_takes_one_branch_and_answers_its_reads(gateway: Gateway, prefix: bytes) -> None:
    key = prefix + b"k"
    txn = Txn(
        compare=(Compare(key=key, target="MOD", value=0),),
        success=(Put(key=key, value=b"1"), Range(key=key)),
        failure=(Range(key=key),),
    )
    created = await gateway.txn(txn)
    assert created.succeeded
    assert created.responses[0] is None
    assert created.responses[1] is not None
    assert created.responses[1].kvs[0].mod_revision == created.header.revision
    assert created.responses[1].header == created.header
    again = await gateway.txn(txn)
    assert not again.succeeded
    assert again.responses[0] is not None
    assert [kv.value for kv in again.responses[0].kvs] == [b"1"]


@pytest.mark.parametrize(
    ("target", "value", "result", "holds"),
    [
        ("VERSION", 2, "EQUAL", True),
        ("VERSION", 1, "GREATER", True),
        ("VERSION", 2, "LESS", False),
        ("VALUE", b"new", "EQUAL", True),
        ("VALUE", b"old", "NOT_EQUAL", True),
        ("LEASE", 0, "EQUAL", True),
        ("CREATE", 0, "GREATER", True),
        ("MOD", 0, "EQUAL", False),
    ],
)
async def test_compares(
    gateway: Gateway, prefix: bytes, target: Any, value: int | bytes, result: Any, holds: bool
) -> None:
    await put(gateway, prefix, b"old")
    await put(gateway, prefix, b"new")
    compare = Compare(key=prefix, target=target, value=value, result=result)
    assert (await gateway.txn(Txn(compare=(compare,)))).succeeded is holds


async def test_put_and_delete_under_a_guard(gateway: Gateway, prefix: bytes) -> None:
    created = await gateway.put(prefix, b"1", expected=0)
    assert created.succeeded
    assert not (await gateway.put(prefix, b"2", expected=0)).succeeded
    assert not (await gateway.delete(prefix, expected=created.header.revision + 1)).succeeded
    assert (await gateway.delete(prefix, expected=created.header.revision)).succeeded
    assert (await get(gateway, prefix)).kvs == []


async def test_list_in_pages_is_one_state(gateway: Gateway, prefix: bytes) -> None:
    for page in range(10):
        keys = (prefix + b"%04d" % (page * 100 + n) for n in range(100))
        await gateway.txn(Txn(success=tuple(Put(key=key, value=key) for key in keys)))
    listing = asyncio.ensure_future(gateway.list(prefix))
    while not listing.done():
        await put(gateway, prefix + b"9999", b"later")
        await delete(gateway, prefix + b"9999")
    result = await listing
    assert [kv.key for kv in result.kvs if kv.key != prefix + b"9999"] == [prefix + b"%04d" % n for n in range(1000)]
    assert result.count == len(result.kvs)
    assert all(kv.mod_revision <= result.header.revision for kv in result.kvs)


async def test_list_of_large_values_after_small_ones(
    any_etcd: LocalEtcd, any_gateway: Gateway, make_gateway: Any, prefix: bytes
) -> None:
    """A page is sized by the keys before it, so one that turns out too large is asked for again, smaller."""
    for page in range(6):
        keys = (prefix + b"a%04d" % (page * 100 + n) for n in range(100))
        await any_gateway.txn(Txn(success=tuple(Put(key=key, value=b"") for key in keys)))
    for n in range(20):
        await put(any_gateway, prefix + b"b%02d" % n, b"v" * 300_000)
    small = await make_gateway(any_etcd.url, config={"max_answer_bytes": 2_000_000})
    result = await small.list(prefix)
    assert len(result.kvs) == result.count == 620
    assert [len(kv.value) for kv in result.kvs[600:]] == [300_000] * 20


async def test_list_at_a_revision(gateway: Gateway, prefix: bytes) -> None:
    revision = await put(gateway, prefix + b"a", b"1")
    await put(gateway, prefix + b"b", b"2")
    assert [kv.key for kv in (await gateway.list(prefix, revision=revision)).kvs] == [prefix + b"a"]
    assert (await gateway.list(fresh_prefix())).kvs == []


async def test_revisions_out_of_range(etcd_server: LocalEtcd, gateway: Gateway, prefix: bytes) -> None:
    old = await put(gateway, prefix, b"1")
    new = await put(gateway, prefix, b"2")
    await compact(etcd_server, new)
    assert [kv.value for kv in (await gateway.range(Range(key=prefix, revision=new))).kvs] == [b"2"]
    with pytest.raises(Compacted, match="compacted"):
        await gateway.range(Range(key=prefix, revision=old))
    with pytest.raises(Compacted):
        await gateway.list(prefix, revision=old)
    with pytest.raises(FutureRevision):
        await gateway.range(Range(key=prefix, revision=new + 1_000_000))


async def test_what_a_txn_may_not_hold(gateway: Gateway, prefix: bytes) -> None:
    """Refused before sending, for etcd's reasons and at etcd's limits."""
    puts = tuple(Put(key=prefix + b"%d" % n, value=b"") for n in range(limits.MAX_OPS + 1))
    with pytest.raises(Invalid, match="129 operations"):
        await gateway.txn(Txn(success=puts))
    assert (await gateway.txn(Txn(success=puts[:-1]))).succeeded
    with pytest.raises(Invalid, match="twice"):
        await gateway.txn(Txn(success=(puts[0], puts[0])))
    with pytest.raises(Invalid, match="etcd#22376"):
        await gateway.txn(Txn(success=(Delete(key=prefix, range_end=b"\0"),)))
    large = Put(key=prefix, value=b"x" * (limits.MAX_TXN_BYTES - len(prefix) - 32))
    assert (await gateway.txn(Txn(success=(large,)))).succeeded
    with pytest.raises(Invalid, match="bytes"):
        await gateway.txn(Txn(success=(Put(key=prefix + b"x", value=large.value),)))


async def test_etcd_agrees_with_our_limits(gateway: Gateway, prefix: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own refusals are `Invalid` too, so lowered limits of an operator read the same."""
    monkeypatch.setattr(limits, "check_txn", lambda txn: None)
    put_twice = Put(key=prefix, value=b"")
    puts = tuple(Put(key=prefix + b"%d" % n, value=b"") for n in range(129))
    for txn in (
        Txn(success=puts),
        Txn(success=(put_twice, put_twice)),
        Txn(success=(Put(key=b"", value=b""),)),
        Txn(success=(Put(key=prefix, value=b"x" * 1_600_000),)),
        Txn(success=(Put(key=prefix, value=b"x" * 2_200_000),)),
    ):
        with pytest.raises(Invalid):
            await gateway.txn(txn)
    assert (await get(gateway, prefix)).kvs == []


async def test_leases(etcd_server: LocalEtcd, gateway: Gateway, prefix: bytes) -> None:
    lease = await gateway.lease_grant(60)
    await put(gateway, prefix, b"1", lease=lease)
    assert (await get(gateway, prefix)).kvs[0].lease == lease
    assert await gateway.lease_keepalive(lease) == 60
    await gateway.lease_revoke(lease)
    assert (await get(gateway, prefix)).kvs == []
    for gone in (gateway.lease_keepalive(lease), gateway.lease_revoke(lease)):
        with pytest.raises(NotFound):
            await gone
    with pytest.raises(NotFound, match="lease not found"):
        await put(gateway, prefix, b"1", lease=lease)
    with pytest.raises(Invalid):
        await gateway.lease_grant(10**18)


async def test_status_and_version(etcd_server: LocalEtcd, gateway: Gateway) -> None:
    version = ".".join(map(str, version_of(etcd_server)))
    status = await gateway.status(member=gateway.members[0])
    assert (status.version, status.errors) == (version, [])
    assert status.leader != "0"
    assert status.db_size > 0
    assert await gateway.version() == version


async def test_requests_are_what_we_think(etcd_server: LocalEtcd, gateway: Gateway, prefix: bytes) -> None:
    """etcd ignores unknown fields, so a request that means something else would pass: compare with a hand-made one."""
    await put(gateway, prefix + b"a", b"1")
    raw = await call(
        etcd_server,
        "/v3/kv/range",
        {
            "key": base64.b64encode(prefix).decode(),
            "range_end": base64.b64encode(prefix_end(prefix)).decode(),
            "limit": 5,
        },
    )
    ours = await gateway.range(Range(key=prefix, range_end=prefix_end(prefix), limit=5))
    assert [base64.b64decode(kv["key"]) for kv in raw["kvs"]] == [kv.key for kv in ours.kvs]
    assert Header(**{k: int(v) if k in ("revision", "raft_term") else v for k, v in raw["header"].items()}) == (
        ours.header
    )


async def test_a_hundred_at_once(gateway: Gateway, prefix: bytes) -> None:
    await asyncio.gather(*(put(gateway, prefix + b"%03d" % n, b"%d" % n) for n in range(100)))
    assert (await gateway.list(prefix)).count == 100
    assert repr(gateway).endswith("(closed))")
