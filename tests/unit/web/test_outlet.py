"""A WebSocket's way out, and who counts as slow."""

import asyncio

import pytest

from configsvc.web.fanout import SLICE_BYTES
from configsvc.web.stream import Outlet, SlowReader


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
