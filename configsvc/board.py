"""What the workers of one service know of each other: a piece of memory that all of them have, and a bell for each.

The memory is anonymous and shared by forking: nothing lies in the file system, so nothing is left behind whoever is
killed. Each worker has a slot for bytes that it publishes (its metrics). A slot keeps the last two publications with a
checksum each, so that one that was broken off by a kill is never read, and what a dead worker published stays. A bell
asks a worker to publish now. Knows nothing of what is published, nor of processes.
"""

import asyncio
import mmap
import socket
import struct
import zlib
from collections.abc import Callable

GONE, STARTING, READY = range(3)
"""States of a worker: no process; one without data yet; one that has data."""
SLOT_BYTES = 1024 * 1024
"""For one publication. Memory is taken only where something was written: a few tens of kilobytes."""
ANSWER_S = 0.25
"""How long a worker may take to publish; one that takes longer is told by what it published before."""
_PAGE = 4096
_STATES = 64
MAX_WORKERS = _PAGE - _STATES
_BEGAN = 0
_RESTARTS = struct.Struct("<4xI")
_HEAD = struct.Struct("<QII")
_ASK, _DONE = b"?!"


class Board:
    """Made before forking, for `count` workers, which are numbered from 1 on. Needs a system that forks."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._memory = mmap.mmap(-1, _PAGE + 2 * count * SLOT_BYTES)
        self._bells: list[tuple[socket.socket, socket.socket]] = []
        for _ in range(count):
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            for end in pair:
                end.setblocking(False)
            self._bells.append(pair)

    def __repr__(self) -> str:
        return f"<Board {[self.state(number) for number in self.numbers]}, {self.restarts} restarts>"

    def close(self) -> None:
        """Give the memory and the bells back."""
        self._memory.close()
        for pair in self._bells:
            for end in pair:
                end.close()

    @property
    def numbers(self) -> range:
        """The workers' numbers."""
        return range(1, self.count + 1)

    # ---- states ----------------------------------------------------------------------------------------------------

    def state(self, number: int) -> int:
        """What was last said about a worker."""
        return self._memory[_STATES + number - 1]

    def set_state(self, number: int, state: int) -> None:
        """Say how it is with a worker."""
        self._memory[_STATES + number - 1] = state

    @property
    def ready(self) -> int:
        """How many workers have data."""
        return sum(self.state(number) == READY for number in self.numbers)

    @property
    def began(self) -> bool:
        """Whether all workers have had data at one time: from then on one that starts anew holds nobody up."""
        if not self._memory[_BEGAN] and self.ready == self.count:
            self._memory[_BEGAN] = 1
        return bool(self._memory[_BEGAN])

    @property
    def restarts(self) -> int:
        """How many workers were started in place of one that ended."""
        return int(_RESTARTS.unpack_from(self._memory)[0])

    def count_restart(self) -> None:
        """Only the one process that starts workers counts."""
        _RESTARTS.pack_into(self._memory, 0, self.restarts + 1)

    # ---- publications ----------------------------------------------------------------------------------------------

    def published(self, number: int) -> int:
        """How often a worker of this number has published; it grows while one is alive."""
        return max(sequence for _, sequence, _ in self._halves(number))

    def read(self, number: int) -> bytes:
        """What a worker of this number published last, also one that is gone; nothing before the first time."""
        return max(self._halves(number), key=lambda half: half[1])[2]

    def write(self, number: int, data: bytes) -> bool:
        """Publish; whether it fits. Only the worker of this number may."""
        if len(data) > SLOT_BYTES - _HEAD.size:
            return False
        halves = self._halves(number)
        at, *_ = min(halves, key=lambda half: half[1])
        sequence = max(half[1] for half in halves) + 1
        self._memory[at + _HEAD.size : at + _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._memory, at, sequence, len(data), _checksum(sequence, data))
        return True

    def _halves(self, number: int) -> list[tuple[int, int, bytes]]:
        """Where each half of a slot is, the number of its publication, and that; 0 and nothing where it is broken."""
        found = []
        for at in (_PAGE + 2 * (number - 1) * SLOT_BYTES, _PAGE + (2 * number - 1) * SLOT_BYTES):
            sequence, length, checksum = _HEAD.unpack_from(self._memory, at)
            data = bytes(self._memory[at + _HEAD.size : at + _HEAD.size + min(length, SLOT_BYTES - _HEAD.size)])
            sound = sequence and len(data) == length and _checksum(sequence, data) == checksum
            found.append((at, sequence, data) if sound else (at, 0, b""))
        return found

    # ---- bells -----------------------------------------------------------------------------------------------------

    def bells(self, number: int, publish: Callable[[], None]) -> "Bells":
        """The bells as the worker of this number has them; it publishes when the others ask."""
        return Bells(self, self._bells, number, publish)


class Bells:
    """One worker's end of the bells, within its event loop, while it is entered."""

    def __init__(
        self,
        board: Board,
        pairs: list[tuple[socket.socket, socket.socket]],
        number: int,
        publish: Callable[[], None],
    ) -> None:
        self._board = board
        self._pairs = pairs
        self._number = number
        self._publish = publish
        self._awaited: dict[asyncio.Event, set[int]] = {}

    def __enter__(self) -> "Bells":
        asyncio.get_running_loop().add_reader(self._pairs[self._number - 1][0], self._rung)
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._pairs[self._number - 1][0])

    async def ask(self) -> None:
        """Wait until all others have published, those that are too slow or gone excepted."""
        others = {n for n in self._board.numbers if n != self._number and self._board.state(n) != GONE}
        waiting = {number for number in others if self._ring(number, _ASK)}
        if not waiting:
            return
        done = asyncio.Event()
        self._awaited[done] = waiting
        try:
            async with asyncio.timeout(ANSWER_S):
                await done.wait()
        except TimeoutError:
            pass
        finally:
            del self._awaited[done]

    def _ring(self, number: int, word: int) -> bool:
        try:
            self._pairs[number - 1][1].send(bytes((word, self._number)))
        except OSError:
            # It has not listened for a while: its queue is full.
            return False
        return True

    def _rung(self) -> None:
        try:
            word, number = self._pairs[self._number - 1][0].recv(2)
        except BlockingIOError:
            return
        if word == _ASK:
            self._publish()
            self._ring(number, _DONE)
            return
        for done, waiting in self._awaited.items():
            waiting.discard(number)
            if not waiting:
                done.set()


def _checksum(sequence: int, data: bytes) -> int:
    return zlib.crc32(data, sequence & 0xFFFFFFFF)
