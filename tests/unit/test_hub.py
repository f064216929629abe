"""The hub: what readers are sent, in which order, and how fresh it says that it is. No etcd and no server."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta

import pytest

from configsvc.core.feed import RETRY_MS, Frame
from configsvc.core.model import Scope, entry_path, epoch_of, epoch_path, head_path
from configsvc.core.replica import Event, Listed, Record, Replica, sort_listing
from configsvc.errors import EpochChanged, Unavailable
from configsvc.hub import DRAIN_RETRY_MS, MAX_ABSENT, Hub
from configsvc_client.protocol import EventId

SCOPE = Scope("shop", "production")
CLUSTER = "77"


class FakeClock:
    def __init__(self) -> None:
        self.at = 1000.0
        self.began = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> float:
        return self.at

    def now(self) -> datetime:
        return self.began + timedelta(seconds=self.at - 1000)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def hub(clock: FakeClock) -> Hub:
    return Hub(Replica(), heartbeat_s=5, clock=clock, now=clock.now, rng=random.Random(1))


def stored(key: str, value: object, revision: int, scope: Scope = SCOPE) -> Record:
    text = json.dumps({"value": value}).encode()
    return Record(key=entry_path(scope, key), value=text, mod_revision=revision)


def head(revision: int, release: int, *, applying: str | None = None, scope: Scope = SCOPE) -> Record:
    text = {"format": 1, "release": release, "version": f"v{release}", "id": f"id{release}"}
    if applying:
        text["applying"] = {"id": applying, "state": "opened", "since": "2026-01-01T00:00:00Z", "by": "test"}
    return Record(key=head_path(scope), value=json.dumps(text).encode(), mod_revision=revision)


def listing(revision: int, *records: Record) -> Listed:
    return sort_listing(records, revision, CLUSTER)


def rebase(hub: Hub, revision: int, *records: Record, new_history: bool = False) -> None:
    hub.rebase(listing(revision, *records), windows={}, found={}, new_history=new_history)


def put(hub: Hub, revision: int, *records: Record) -> None:
    hub.apply(revision, [Event(key=record.key, record=record) for record in records])


def read(frames: list[Frame]) -> list[tuple[str, int | None, dict]]:
    return [(frame.event, frame.id.revision if frame.id else None, json.loads(frame.data)) for frame in frames]


def kinds(frames: list[Frame]) -> list[tuple[str, int | None]]:
    return [(event, id) for event, id, _ in read(frames)]


def test_before_anything_is_known_a_reader_is_told_so_without_a_position(hub: Hub) -> None:
    with hub.subscribe(SCOPE, None) as reader:
        [(event, id, data)] = read(reader.pull())
        assert (event, id, data["state"]) == ("status", None, "starting")
        assert reader.pull() == []
        hub.tick()
        assert kinds(reader.pull()) == [("status", None)]
        rebase(hub, 10, stored("a", 1, 4))
        assert kinds(reader.pull())[0] == ("snapshot", 10)
    with pytest.raises(Unavailable):
        Hub(Replica()).feed(SCOPE)


def test_a_reader_gets_a_snapshot_then_each_change_then_heartbeats(hub: Hub) -> None:
    rebase(hub, 10, stored("a", 1, 4))
    with hub.subscribe(SCOPE, None) as reader:
        [(event, id, data)] = read(reader.pull())
        assert (event, id, data["entries"]["a"]["value"]) == ("snapshot", 10, 1)
        put(hub, 11, stored("a", 2, 11))
        put(hub, 12, stored("b", 3, 12))
        assert kinds(reader.pull()) == [("change", 11), ("change", 12)]
        assert reader.pull() == []
        hub.prove(20)
        hub.tick()
        [(event, id, data)] = read(reader.pull())
        assert (event, id, data["state"], data["revision"]) == ("status", 20, "live", 20)


def test_a_reader_that_comes_back_gets_what_it_missed_and_nothing_else(hub: Hub) -> None:
    rebase(hub, 10, stored("a", 1, 4))
    epoch = hub.epoch(SCOPE)
    for revision in (11, 12, 13):
        put(hub, revision, stored("a", revision, revision))
    for position, expected in ((10, [11, 12, 13]), (12, [13]), (13, [])):
        with hub.subscribe(SCOPE, EventId(epoch, position)) as reader:
            assert [id for _, id in kinds(reader.pull())] == expected
    with hub.subscribe(SCOPE, EventId(epoch, 9)) as reader:
        assert kinds(reader.pull()) == [("snapshot", 13)]
    with hub.subscribe(SCOPE, EventId("0" * 12, 12)) as reader:
        assert kinds(reader.pull()) == [("snapshot", 13)]


def test_a_reader_ahead_waits_without_a_position_until_the_replica_has_caught_up(hub: Hub) -> None:
    rebase(hub, 10, stored("a", 1, 4))
    with hub.subscribe(SCOPE, EventId(hub.epoch(SCOPE), 15)) as reader:
        [(event, id, data)] = read(reader.pull())
        assert (event, id, data["state"]) == ("status", None, "behind")
        assert hub.doubt.is_set()
        put(hub, 14, stored("a", 2, 14))
        assert reader.pull() == []
        put(hub, 17, stored("a", 3, 17))
        assert kinds(reader.pull())[0] == ("change", 17)


@pytest.mark.parametrize("how", ["listed", "proved", "another scope"])
def test_a_reader_ahead_is_told_at_once_that_the_replica_has_caught_up(hub: Hub, how: str) -> None:
    rebase(hub, 10, stored("a", 1, 4))
    with hub.subscribe(SCOPE, EventId(hub.epoch(SCOPE), 15)) as reader:
        reader.pull()
        woken: list[bool] = []
        reader.poke = lambda: woken.append(True)
        if how == "listed":
            rebase(hub, 17, stored("a", 1, 4))
        elif how == "proved":
            hub.prove(17)
        else:
            put(hub, 17, stored("a", 1, 17, Scope("other", "prod")))
        assert woken
        [(event, id, data)] = read(reader.pull())
        assert (event, id, data["state"]) == ("status", 17, "live")


def test_a_reader_beyond_the_store_itself_has_seen_another_history_and_gets_a_snapshot(
    hub: Hub, clock: FakeClock
) -> None:
    rebase(hub, 10, stored("a", 1, 4))
    hub.store_at(12)
    clock.at += 1
    with hub.subscribe(SCOPE, EventId(hub.epoch(SCOPE), 15)) as reader:
        assert kinds(reader.pull()) == [("status", None)], "an answer from before the reader came proves nothing"
        clock.at += 1
        hub.store_at(20)
        assert reader.pull() == [], "the store is further than the reader: this replica is what lags"
    with hub.subscribe(SCOPE, EventId(hub.epoch(SCOPE), 25)) as reader:
        assert kinds(reader.pull()) == [("status", None)]
        clock.at += 1
        hub.store_at(20)
        assert kinds(reader.pull())[0] == ("snapshot", 10)


def test_readers_at_the_same_place_share_what_they_lack_until_the_hub_moves(hub: Hub, clock: FakeClock) -> None:
    rebase(hub, 10, stored("a", 1, 4))
    with hub.subscribe(SCOPE, None) as one, hub.subscribe(SCOPE, None) as two, hub.subscribe(SCOPE, None) as late:
        frames = one.pull(hub.shared())
        assert two.pull(hub.shared()) is frames
        hub.prove(12)
        assert kinds(late.pull(hub.shared())) == [("snapshot", 12)]
        put(hub, 13, stored("a", 2, 13))
        assert one.pull(hub.shared()) is two.pull(hub.shared())
        assert kinds(late.pull(hub.shared())) == [("change", 13)]
        hub.tick()
        assert one.pull(hub.shared()) is late.pull(hub.shared())
        assert two.pull(hub.shared())
        clock.at += 11
        assert [data["state"] for _, _, data in read(one.pull(hub.shared()))] == ["stale"]
        assert hub.frames_sent == {"snapshot": 3, "change": 3, "status": 4}


def test_what_becomes_of_a_reader_ahead_is_its_own(hub: Hub, clock: FakeClock) -> None:
    rebase(hub, 10, stored("a", 1, 4))
    with hub.subscribe(SCOPE, EventId(hub.epoch(SCOPE), 25)) as early:
        clock.at += 1
        hub.store_at(20)
        clock.at += 1
        with hub.subscribe(SCOPE, EventId(hub.epoch(SCOPE), 25)) as late:
            assert kinds(early.pull(hub.shared())) == [("snapshot", 10)]
            assert kinds(late.pull(hub.shared())) == [("status", None)]


def test_a_listing_after_a_compaction_is_one_change_and_not_a_vanishing(hub: Hub) -> None:
    rebase(hub, 10, stored("a", 1, 4), stored("b", 2, 5), stored("c", 3, 6))
    with hub.subscribe(SCOPE, None) as reader:
        reader.pull()
        rebase(hub, 30, stored("a", 1, 4), stored("c", 4, 22), stored("d", 5, 25))
        [(event, id, data)] = read(reader.pull())
        assert (event, id) == ("change", 30)
        assert (sorted(data["set"]), data["deleted"]) == (["c", "d"], ["b"])
        etag = hub.feeds[SCOPE].etag
        rebase(hub, 40, stored("a", 1, 4), stored("c", 4, 22), stored("d", 5, 25))
        assert reader.pull() == []
        assert hub.feeds[SCOPE].etag == etag


def test_a_new_history_is_a_snapshot(hub: Hub) -> None:
    rebase(hub, 100, stored("a", 1, 4))
    before = hub.epoch(SCOPE)
    with hub.subscribe(SCOPE, None) as reader:
        reader.pull()
        listed = listing(20, stored("a", 0, 3))
        hub.replica.begin_history("salt", listed.epochs)
        hub.rebase(listed, windows={}, found={}, new_history=True)
        [(event, id, data)] = read(reader.pull())
        assert (event, id, data["entries"]["a"]["value"]) == ("snapshot", 20, 0)
        assert data["epoch"] != before


def test_inside_an_apply_window_nothing_moves_and_its_close_is_one_change(hub: Hub, clock: FakeClock) -> None:
    rebase(hub, 10, stored("a", 1, 4), stored("b", 1, 4), head(4, 1))
    with hub.subscribe(SCOPE, None) as reader:
        reader.pull()
        put(hub, 12, head(12, 1, applying="w"))
        put(hub, 13, stored("a", 2, 13))
        hub.prove(14)
        hub.tick()
        [(event, id, data)] = read(reader.pull())
        assert (event, id, data["state"], data["applying"]["release"]) == ("status", 11, "live", 2)
        assert (hub.proved(SCOPE), hub.staleness_s(SCOPE)) == (11, 0)
        for _ in range(3):
            clock.at += 5
            hub.prove(14)
        assert (hub.state(), hub.source(SCOPE), hub.staleness_s(SCOPE)) == ("live", "memory", 15)
        # What readers have is the newest that is complete: only a link that is lost too makes it old for them.
        assert hub.status(SCOPE).staleness_s is None
        clock.at += 11
        assert (hub.status(SCOPE).state, hub.status(SCOPE).staleness_s) == ("stale", 26)
        put(hub, 15, stored("b", 2, 15))
        put(hub, 16, head(16, 2))
        [(event, id, data)] = read(reader.pull())
        assert (event, id, data["release"]) == ("change", 16, 2)
        assert {key: entry["value"] for key, entry in data["set"].items()} == {"a": 2, "b": 2}
        assert (hub.proved(SCOPE), hub.staleness_s(SCOPE)) == (16, 0)


def test_a_scope_that_does_not_exist_can_be_followed_and_costs_nothing_afterwards(hub: Hub) -> None:
    rebase(hub, 10)
    assert hub.feed(SCOPE) is None
    with hub.subscribe(SCOPE, None) as reader:
        [(event, id, data)] = read(reader.pull())
        assert (event, id, data["entries"], data["release"]) == ("snapshot", 10, {}, None)
        assert hub.feed(SCOPE) is None
        put(hub, 11, stored("a", 1, 11))
        assert kinds(reader.pull()) == [("change", 11)]
        assert hub.feed(SCOPE) is not None
        hub.apply(12, [Event(key=entry_path(SCOPE, "a"), record=None)])
        [(event, id, data)] = read(reader.pull())
        assert (event, id, data["deleted"]) == ("change", 12, ["a"])
        assert hub.feed(SCOPE) is None
    assert (hub.feeds, hub.readers, hub.replica.scopes) == ({}, {}, {})


def test_staleness_has_a_since_and_ends(hub: Hub, clock: FakeClock) -> None:
    assert hub.state() == "starting"
    rebase(hub, 10, stored("a", 1, 4))
    assert (hub.state(), hub.source(SCOPE), hub.staleness_s(SCOPE)) == ("live", "live", 0)
    proved = clock.now()
    clock.at += 10
    assert hub.state() == "live"
    clock.at += 0.5
    assert (hub.state(), hub.source(SCOPE), hub.staleness_s(SCOPE)) == ("stale", "memory", 10.5)
    assert hub.since() == proved
    with hub.subscribe(SCOPE, None) as reader:
        frames = read(reader.pull())
        assert [(event, id) for event, id, _ in frames] == [("snapshot", 10), ("status", 10)]
        assert (frames[1][2]["state"], frames[1][2]["staleness_s"]) == ("stale", 10.5)
        hub.prove(11)
        hub.tick()
        told = read(reader.pull())[0][2]
        assert (told["state"], "staleness_s" in told) == ("live", False)
    assert (hub.state(), hub.since()) == ("live", clock.now())


async def test_turning_stale_and_live_again_is_told_at_once() -> None:
    hub = Hub(Replica(), heartbeat_s=0.2)
    rebase(hub, 10, stored("a", 1, 4))
    loop = asyncio.create_task(hub.run())
    told: list[tuple[str, int]] = []

    async def follow() -> None:
        with hub.subscribe(SCOPE, None) as reader:
            async for frames in reader:
                told.extend((json.loads(f.data)["state"], hub.beat) for f in frames if f.event == "status")

    following = asyncio.create_task(follow())
    async with asyncio.timeout(10):
        while "stale" not in [state for state, _ in told]:
            await asyncio.sleep(0.01)
        beat = hub.beat
        hub.prove(11)
        while told[-1][0] != "live":
            await asyncio.sleep(0)
    assert hub.beat == beat, "it did not wait for the next heartbeat"
    for task in (loop, following):
        task.cancel()
    await asyncio.gather(loop, following, return_exceptions=True)


def test_readers_that_come_one_after_the_other_are_told_their_own_age(hub: Hub, clock: FakeClock) -> None:
    rebase(hub, 10, stored("a", 1, 4))
    clock.at += 20
    for later_s in (0, 4):
        clock.at += later_s
        with hub.subscribe(SCOPE, None) as reader:
            assert read(reader.pull(hub.shared()))[1][2]["staleness_s"] == 20 + later_s
        with hub.subscribe(SCOPE, EventId(hub.epoch(SCOPE), 99)) as reader:
            [(_, id, data)] = read(reader.pull(hub.shared()))
            assert (id, data["state"], data["staleness_s"]) == (None, "behind", 20 + later_s)


def test_one_that_has_nothing_to_show_tells_no_age(hub: Hub, clock: FakeClock) -> None:
    clock.at += 20
    with hub.subscribe(SCOPE, None) as reader:
        [(_, id, data)] = read(reader.pull())
        assert (id, data["state"], "staleness_s" in data) == (None, "starting", False)


def test_the_loop_wakes_when_the_state_turns_stale(hub: Hub, clock: FakeClock) -> None:
    rebase(hub, 10, stored("a", 1, 4))
    with hub.subscribe(SCOPE, None) as reader:
        reader.pull()
        clock.at += 10.1
        hub.look()
        assert read(reader.pull())[0][2]["state"] == "stale"
        hub.confirm()
        assert read(reader.pull())[0][2]["state"] == "live"
        hub.look()
        assert reader.pull() == []


def test_what_comes_from_disk_says_so_until_etcd_was_read(hub: Hub, clock: FakeClock) -> None:
    source = Replica()
    source.rebase(listing(10, stored("a", 1, 4)), windows={}, found={})
    snapshot = source.scopes[SCOPE].snapshot
    assert snapshot is not None
    hub.remember([(hub.replica.remember(snapshot, 12, None), clock.now() - timedelta(seconds=60))])
    assert (hub.ready, hub.state(), hub.source(SCOPE), hub.staleness_s(SCOPE)) == (True, "stale", "disk", 60)
    assert hub.proved(SCOPE) == 12
    with pytest.raises(Unavailable):
        hub.feed(Scope("shop", "staging"))
    with hub.subscribe(SCOPE, None) as reader:
        frames = read(reader.pull())
        assert [(event, id) for event, id, _ in frames] == [("snapshot", 12), ("status", 12)]
        assert (frames[1][2]["state"], frames[1][2]["staleness_s"]) == ("stale", 60)
        rebase(hub, 20, stored("a", 1, 4))
        assert kinds(reader.pull()) == [("status", 20)]
        assert (hub.source(SCOPE), hub.state()) == ("live", "live")
        put(hub, 21, stored("a", 2, 21))
        assert kinds(reader.pull()) == [("change", 21)]


def test_draining_is_told_once_with_a_jittered_retry_and_ends_the_stream(hub: Hub) -> None:
    rebase(hub, 10, stored("a", 1, 4))

    async def follow() -> list[Frame]:
        with hub.subscribe(SCOPE, None) as reader:
            return [frame async for frames in reader for frame in frames]

    async def main() -> list[Frame]:
        task = asyncio.create_task(follow())
        await asyncio.sleep(0)
        hub.drain()
        return await task

    first, last = asyncio.run(main())
    assert (first.event, first.retry_ms) == ("snapshot", RETRY_MS)
    assert (last.event, last.id, json.loads(last.data)["state"]) == ("status", None, "draining")
    assert last.retry_ms is not None
    assert DRAIN_RETRY_MS[0] <= last.retry_ms <= DRAIN_RETRY_MS[1]
    assert hub.subscribers == 0


async def test_waiting_for_a_revision(hub: Hub, clock: FakeClock) -> None:
    rebase(hub, 10, stored("a", 1, 4))
    await hub.reached(SCOPE, 10, None, 0)
    with pytest.raises(EpochChanged):
        await hub.reached(SCOPE, 10, "0" * 12, 5)
    with pytest.raises(Unavailable) as refused:
        await hub.reached(SCOPE, 11, hub.epoch(SCOPE), 0)
    assert (refused.value.code, refused.value.headers) == ("revision_not_reached", {"Retry-After": "1"})
    waiting = asyncio.create_task(hub.reached(SCOPE, 12, None, 5))
    await asyncio.sleep(0)
    put(hub, 11, stored("a", 2, 11))
    await asyncio.sleep(0)
    assert not waiting.done()
    hub.prove(12)
    await waiting


async def test_the_first_write_of_a_namespace_brings_the_epoch_that_is_asked_for(hub: Hub, clock: FakeClock) -> None:
    rebase(hub, 10)
    epoch = epoch_of(hub.replica.cluster_id, b"new", "")
    waiting = asyncio.create_task(hub.reached(SCOPE, 11, epoch, 5))
    await asyncio.sleep(0)
    assert not waiting.done()
    put(hub, 11, stored("a", 1, 11), Record(key=epoch_path(SCOPE.namespace), value=b"new", mod_revision=11))
    await waiting
    with pytest.raises(EpochChanged):
        await hub.reached(SCOPE, 99, "0" * 12, 5)


def test_limits(clock: FakeClock) -> None:
    hub = Hub(Replica(), max_streams=2, clock=clock, now=clock.now)
    rebase(hub, 10)
    with hub.subscribe(SCOPE, None), hub.subscribe(SCOPE, None):
        with pytest.raises(Unavailable) as refused:
            hub.subscribe(SCOPE, None)
        assert refused.value.code == "too_many_streams"
    hub.subscribe(SCOPE, None)


def test_scopes_that_do_not_exist_are_limited_once_it_is_known_which_do(hub: Hub) -> None:
    scopes = [Scope("many", f"env{i}") for i in range(MAX_ABSENT + 1)]
    for scope in scopes:
        hub.subscribe(scope, None)
    rebase(hub, 10, *(stored("a", 1, 5, scope) for scope in scopes[1:]))
    hub.subscribe(SCOPE, None)
    for i in range(MAX_ABSENT - 2):
        hub.subscribe(Scope("none", f"env{i}"), None)
    with pytest.raises(Unavailable) as refused:
        hub.subscribe(Scope("none", "last"), None)
    assert refused.value.code == "too_many_streams"
    hub.subscribe(SCOPE, None)
    hub.subscribe(scopes[1], None)


def test_whatever_may_change_an_answer_moves_the_hub(hub: Hub, clock: FakeClock) -> None:
    steps: list[tuple[int, object]] = []

    def note() -> None:
        feed = hub.feeds.get(SCOPE)
        steps.append((hub.moves, feed and feed.generation))

    rebase(hub, 10, stored("a", 1, 5))
    note()
    hub.prove(11)
    note()
    hub.apply(12, [Event(key=entry_path(SCOPE, "a"), record=stored("a", 2, 12))])
    note()
    hub.drain()
    note()
    moves, generations = zip(*steps, strict=True)
    assert sorted(set(moves)) == list(moves)
    assert generations[0] == generations[1] != generations[2] == generations[3]


def test_how_long_a_scope_stays_live_is_known(hub: Hub, clock: FakeClock) -> None:
    rebase(hub, 10, stored("a", 1, 5), head(6, 1))
    assert hub.live_until(SCOPE) == clock.at + 10
    clock.at += 4
    hub.apply(12, [Event(key=head_path(SCOPE), record=head(12, 1, applying="x"))])
    assert hub.live_until(SCOPE) == clock.at + 10
    held_at = clock.at
    clock.at += 9
    hub.prove(13)
    assert hub.live_until(SCOPE) == held_at + 10
    clock.at += 2
    assert (hub.live_until(SCOPE), hub.source(SCOPE)) == (float("-inf"), "memory")
