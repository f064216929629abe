"""Streams written to in passes: who shares what, and that one connection's trouble is nobody else's."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.core.feed import Feed, Frame
from configsvc.core.policy import ANONYMOUS, Identity
from configsvc.hub import Hub
from configsvc.metrics import Metrics
from configsvc.web.fanout import PASS_STREAMS, SLICE_BYTES, Fanout, Stream, slices
from configsvc_client.protocol import EventId
from configsvc_client.snapshot import Snapshot
from tests.support.service import SCOPE, change, fill, make_hub, make_settings, stored, until

END = b"0\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that takes all of what is written, or nothing; closing is told a turn later, as real ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.stream: Stream
        self.pieces: list[bytes | memoryview] = []
        self.held = 0
        self.takes = True
        self.closing = self.aborted = False
        self.on_write: Callable[[], None] = lambda: None

    def write(self, data: object) -> None:
        assert isinstance(data, bytes | memoryview)
        assert not self.held, "it was written to although it takes no more"
        self.on_write()
        self.pieces.append(data)
        if not self.takes:
            self.held = len(data)
            self.stream.pause_writing()

    def take(self, size: int) -> None:
        self.held -= size
        if not self.held:
            self.takes = True
            self.stream.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self.held

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.stream.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    @property
    def body(self) -> bytes:
        """What was sent, without the framing of chunks."""
        data, body = b"".join(self.pieces), b""
        while data:
            size, _, data = data.partition(b"\r\n")
            body, data = body + data[: int(size, 16)], data[int(size, 16) :].removeprefix(b"\r\n")
        return body

    @property
    def events(self) -> list[str]:
        """The kind and the revision of each event."""
        blocks = [dict(line.split(": ", 1) for line in b.split("\n")) for b in self.body.decode().split("\n\n") if b]
        return [f"{fields['event']} {fields.get('id', '').rpartition(':')[2]}".rstrip() for fields in blocks]


@pytest.fixture
def hub() -> Hub:
    hub = make_hub(make_settings(frame_log_count=3))
    fill(hub, 10, stored("a", 1, 5))
    return hub


class World:
    """A fan-out and its streams."""

    def __init__(self, hub: Hub, slow_reader_s: float = 30.0) -> None:
        self.hub = hub
        self.metrics = Metrics(hub)
        self.good = True
        self.fanout = Fanout(hub, self.metrics, slow_reader_s, self.holds)
        self.ended: list[Stream] = []

    def holds(self, identity: Identity) -> bool:
        return self.good

    def open(self, position: EventId | None = None) -> Wire:
        wire = Wire()
        wire.stream = Stream(self.fanout, self.hub.subscribe(SCOPE, position), ANONYMOUS, chunked=True)
        wire.stream.on_end = lambda: self.ended.append(wire.stream)
        wire.stream.connection_made(wire)
        return wire

    async def turn(self) -> None:
        """Until nobody is ready."""
        await asyncio.sleep(0)
        while "0 ready" not in repr(self.fanout):
            await asyncio.sleep(0)


@pytest.fixture
def world(hub: Hub) -> World:
    return World(hub)


# ---- what is shared --------------------------------------------------------------------------------------------------


async def test_streams_at_the_same_place_get_the_same_bytes(world: World) -> None:
    wires = [world.open() for _ in range(3 * PASS_STREAMS)]
    await world.turn()
    change(world.hub, stored("a", 2, 11))
    await world.turn()
    world.hub.tick()
    await world.turn()
    assert {len(wire.pieces) for wire in wires} == {3}
    for number in range(3):
        assert len({id(wire.pieces[number]) for wire in wires}) == 1
    assert wires[0].events == ["snapshot 10", "change 11", "status 11"]
    assert world.hub.frames_sent == dict.fromkeys(("snapshot", "change", "status"), len(wires))


async def test_streams_at_different_places_get_what_each_of_them_lacks(world: World) -> None:
    for revision in (11, 12, 13):
        change(world.hub, stored("a", revision, revision))
    epoch = world.hub.epoch(SCOPE)
    wires = [world.open(EventId(epoch, at)) for at in (11, 13, 10, 11, 9)]
    await world.turn()
    assert [wire.events for wire in wires] == [
        ["change 12", "change 13"],
        [],
        ["change 11", "change 12", "change 13"],
        ["change 12", "change 13"],
        ["snapshot 13"],
    ]


async def test_what_is_published_in_one_step_goes_out_in_one_write_in_its_order(world: World) -> None:
    wire = world.open()
    change(world.hub, stored("a", 2, 11))
    await world.turn()
    for revision in (12, 13, 14):
        change(world.hub, stored("a", revision, revision))
    await world.turn()
    assert len(wire.pieces) == 2
    assert wire.events == ["snapshot 11", "change 12", "change 13", "change 14"]


async def test_what_was_shared_is_not_given_to_those_who_come_later(world: World) -> None:
    world.open()
    await world.turn()
    world.hub.prove(40)
    late = world.open()
    await world.turn()
    assert late.events == ["snapshot 40"]


async def test_a_pass_lets_others_work_in_between(world: World) -> None:
    wires = [world.open() for _ in range(3 * PASS_STREAMS)]
    await asyncio.sleep(0)
    assert sum(bool(wire.pieces) for wire in wires) == PASS_STREAMS
    await world.turn()
    assert all(wire.pieces for wire in wires)


# ---- slow ones -------------------------------------------------------------------------------------------------------


async def test_a_slow_stream_in_the_middle_of_a_pass_holds_up_nobody_and_gets_one_snapshot(world: World) -> None:
    wires = [world.open() for _ in range(5)]
    await world.turn()
    slow = wires[2]
    slow.takes = False
    for revision in range(11, 20):
        change(world.hub, stored("a", revision, revision))
        world.hub.tick()
        await world.turn()
    assert [wire.events[-1] for wire in wires] == ["status 19", "status 19", "status 11", "status 19", "status 19"]
    slow.take(slow.held)
    await world.turn()
    assert slow.events[3:] == ["snapshot 19", "status 19"], "it missed more than the feed keeps"
    change(world.hub, stored("a", 20, 20))
    await world.turn()
    assert {wire.events[-1] for wire in wires} == {"change 20"}


async def test_a_stream_that_missed_little_gets_each_change(world: World) -> None:
    wire = world.open()
    await world.turn()
    wire.takes = False
    for revision in (11, 12, 13):
        change(world.hub, stored("a", revision, revision))
        await world.turn()
    wire.take(wire.held)
    await world.turn()
    assert wire.events == ["snapshot 10", "change 11", "change 12", "change 13"]


async def test_a_stream_that_takes_nothing_is_aborted_and_counted(hub: Hub) -> None:
    world = World(hub, slow_reader_s=0.05)
    still, slow = world.open(), world.open()
    still.takes = slow.takes = False
    await world.turn()
    async with asyncio.timeout(20):
        while not still.aborted:
            slow.take(1)
            await asyncio.sleep(0.001)
            if not slow.held:
                slow.takes = False
                hub.tick()
                await world.turn()
    assert not slow.aborted
    await until(lambda: world.ended == [still.stream])
    assert b'configsvc_slow_streams_closed_total{transport="sse"} 1.0' in world.metrics.exposition()


async def test_a_large_frame_goes_out_in_turns_and_is_not_copied(world: World) -> None:
    change(world.hub, stored("big", "x" * 5 * SLICE_BYTES, 11))
    wires = [world.open(), world.open()]
    order: list[int] = []
    for number, wire in enumerate(wires):
        wire.on_write = lambda number=number: order.append(number)  # type: ignore[misc]
    await asyncio.sleep(0)
    assert order == [0, 1]
    change(world.hub, stored("a", 2, 12))
    await world.turn()
    assert order == [0, 1] * (len(order) // 2)
    assert wires[0].events == wires[1].events == ["snapshot 11", "change 12"]
    views = [piece for wire in wires for piece in wire.pieces if isinstance(piece, memoryview)]
    assert len(views) == 12
    assert len({id(view.obj) for view in views}) == 1


# ---- troubles --------------------------------------------------------------------------------------------------------


async def test_a_stream_that_vanishes_during_a_pass_is_left_out(world: World) -> None:
    wires = [world.open() for _ in range(4)]
    await world.turn()
    wires[0].on_write = lambda: [wire.close() for wire in wires[1:3]]  # type: ignore[func-returns-value]
    change(world.hub, stored("a", 2, 11))
    await world.turn()
    ends = {wire.events[-1] for wire in wires if not wire.closing}
    assert ends == {"change 11"}
    await until(lambda: len(world.ended) == 2)
    assert world.hub.subscribers == len(world.fanout.streams) == world.metrics.streams["sse"] == 2


async def test_a_failing_stream_is_aborted_and_the_others_go_on(world: World) -> None:
    wires = [world.open() for _ in range(5)]
    await world.turn()

    def fail() -> None:
        raise RuntimeError("a defect")

    wires[1].on_write = wires[3].on_write = fail
    change(world.hub, stored("a", 2, 11))
    await world.turn()
    assert [wire.aborted for wire in wires] == [False, True, False, True, False]
    assert [wire.events[-1] for wire in wires if not wire.aborted] == ["change 11"] * 3
    await until(lambda: world.hub.subscribers == 3)


async def test_an_identity_is_asked_for_before_each_write(world: World) -> None:
    wire = world.open()
    await world.turn()
    world.good = False
    change(world.hub, stored("secret", 1, 11))
    await world.turn()
    assert wire.pieces[1:] == [END]
    assert wire.closing
    assert not wire.aborted
    await until(lambda: world.ended == [wire.stream])


async def test_draining_is_the_last_word_also_to_one_that_is_slow(world: World) -> None:
    quick, slow = world.open(), world.open()
    await world.turn()
    slow.takes = False
    change(world.hub, stored("a", 2, 11))
    await world.turn()
    world.hub.drain()
    await world.turn()
    assert quick.pieces[-1] == END
    assert b'"draining"' in bytes(quick.pieces[-2])
    assert len(slow.pieces) == 2
    slow.take(slow.held)
    await world.turn()
    assert slow.pieces[-1] == END
    assert b'"draining"' in slow.body
    await world.fanout.close(20)
    assert len(world.ended) == 2
    assert world.hub.subscribers == 0


async def test_closing_aborts_what_does_not_end_and_what_comes_too_late(world: World) -> None:
    stuck = world.open()
    stuck.takes = False
    await world.turn()
    await world.fanout.close(0.01)
    assert stuck.aborted
    late = world.open()
    assert late.aborted
    await until(lambda: len(world.ended) == 2)
    assert late.pieces == []
    assert world.metrics.streams["sse"] == 0


# ---- slices ----------------------------------------------------------------------------------------------------------

SIZES = st.lists(st.integers(0, 3 * SLICE_BYTES) | st.integers(SLICE_BYTES - 400, SLICE_BYTES + 100), max_size=6)


@given(SIZES, st.booleans())
def test_slices_are_the_frames_in_bounded_pieces(sizes: list[int], chunked: bool) -> None:
    frames = [Frame("change", bytes(64 + i for _ in range(n)), id=EventId("e", n)) for i, n in enumerate(sizes)]
    wire = Wire()
    wire.pieces = list(slices(frames, chunked))
    body = wire.body if chunked else b"".join(wire.pieces)
    assert body == b"".join(frame.sse for frame in frames)
    assert all(0 < len(piece) <= SLICE_BYTES + 512 for piece in wire.pieces)


def test_readers_that_come_together_share_one_frame() -> None:
    feed = Feed(Snapshot(namespace="a", environment="b", epoch="0" * 12, revision=5))
    assert feed.snapshot_frame(7) is feed.snapshot_frame(7)
    assert feed.snapshot_frame(8).id == EventId("0" * 12, 8)
    assert feed.snapshot_frame(8).data is feed.snapshot_frame(9).data
