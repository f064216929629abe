"""A stream's way out: slices, and who counts as slow."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.core.feed import Feed, Frame
from configsvc.web.fanout import SLICE_BYTES, slices
from configsvc.web.stream import Outlet, SlowReader
from configsvc_client.protocol import EventId
from configsvc_client.snapshot import Snapshot

SIZES = st.lists(st.integers(0, 3 * SLICE_BYTES) | st.integers(SLICE_BYTES - 400, SLICE_BYTES + 100), max_size=6)


@given(SIZES)
def test_slices_are_the_frames_in_bounded_pieces(sizes: list[int]) -> None:
    frames = [Frame("change", bytes(64 + i for _ in range(n)), id=EventId("e", n)) for i, n in enumerate(sizes)]
    pieces = [bytes(piece) for piece in slices(frames)]
    assert b"".join(pieces) == b"".join(frame.sse for frame in frames)
    assert all(0 < len(piece) <= SLICE_BYTES + 512 for piece in pieces)


def test_a_large_frame_is_not_copied() -> None:
    frame = Frame("snapshot", b"x" * (4 * SLICE_BYTES), id=None)
    views = [piece for piece in slices([frame]) if isinstance(piece, memoryview)]
    assert len(views) == 4
    assert all(view.obj is frame.data for view in views)


class Pipe(asyncio.Transport):
    """A transport whose other side takes `rate` bytes at each look, until it has taken `budget`."""

    def __init__(self, rate: int, budget: int = 2**60) -> None:
        super().__init__()
        self.held = 0
        self.rate, self.budget = rate, budget
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        taken = min(self.rate, self.budget, self.held)
        self.held -= taken
        self.budget -= taken
        return self.held

    def abort(self) -> None:
        self.aborted = True

    async def write_slowly(self, size: int) -> None:
        """Hand over `size` bytes and return once most of them were taken."""
        self.held += size
        while self.held > SLICE_BYTES // 4:
            await asyncio.sleep(0.001)


async def test_a_reader_that_takes_a_little_at_a_time_is_waited_for() -> None:
    pipe = Pipe(rate=1000)
    outlet = Outlet(pipe, slow_reader_s=0.05)
    await outlet.send(pipe.write_slowly(SLICE_BYTES), SLICE_BYTES)
    assert not pipe.aborted


async def test_a_reader_that_stops_is_given_up() -> None:
    pipe = Pipe(rate=1000, budget=5000)
    outlet = Outlet(pipe, slow_reader_s=0.05)
    with pytest.raises(SlowReader):
        await outlet.send(pipe.write_slowly(SLICE_BYTES), SLICE_BYTES)
    assert pipe.aborted


async def test_a_reader_of_small_frames_that_stops_is_given_up_too() -> None:
    pipe = Pipe(rate=0)
    outlet = Outlet(pipe, slow_reader_s=0.05)

    async def heartbeat() -> None:
        pipe.held += 100

    with pytest.raises(SlowReader):
        async with asyncio.timeout(20):
            while True:
                await outlet.send(heartbeat(), 100)
                await asyncio.sleep(0.01)
    assert pipe.aborted


async def test_a_failed_write_is_the_senders() -> None:
    async def fail() -> None:
        raise ConnectionResetError

    for size in (1, SLICE_BYTES):
        with pytest.raises(ConnectionResetError):
            await Outlet(Pipe(rate=1), slow_reader_s=1).send(fail(), size)


def test_readers_that_come_together_share_one_frame() -> None:
    feed = Feed(Snapshot(namespace="a", environment="b", epoch="0" * 12, revision=5))
    assert feed.snapshot_frame(7) is feed.snapshot_frame(7)
    assert feed.snapshot_frame(8).id == EventId("0" * 12, 8)
    assert feed.snapshot_frame(8).data is feed.snapshot_frame(9).data
