"""The thread that keeps one client's last-known-good file: reads it at the start, writes behind the link.

Owns how often the disk is written. What it is told costs nothing: `note` swaps a reference, and `stop` may be called
from any thread and in a finalizer, because neither takes a lock. A disk that hangs stops this thread and nothing else.
"""

import atexit
import contextlib
import logging
import math
import queue
import threading
import time
import weakref
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from configsvc_client.disk import Files
from configsvc_client.doubt import Proof
from configsvc_client.lastgood import REFRESH_S
from configsvc_client.protocol import EventId

logger = logging.getLogger("configsvc_client")

WRITE_EVERY_S = 1.0
"""A scope that changes all the time is written at most so often, and at the end."""
SPREAD_S = 0.25
"""Processes of one application hear of a change together; the first to write saves the others from it."""
IDLE_SHARE = 50.0
"""So many times as long as a write took is waited after it, `REFRESH_S` at most, to spare disks that are slow."""
CPU_SHARE = 0.01
"""Of one core at most this is spent on writing: a state that took 0.1 s of it is written again after 10 s."""
RETRY_S = 30.0
"""After a write that failed."""
STOP_TIMEOUT_S = 1.5
"""How long an end waits for the last write."""


def rest_s(took_s: float, cpu_s: float) -> float:
    """How long no state is written after one that took so long, and so much of a core."""
    return max(WRITE_EVERY_S, min(IDLE_SHARE * took_s, REFRESH_S), cpu_s / CPU_SHARE)


class _Noted(NamedTuple):
    proof: Proof
    at: float


class Keeper:
    """Keeps the files in step with one session, on a thread of its own from `start` to `stop`.

    Make another one in a forked child: threads are not inherited.
    """

    def __init__(
        self,
        files: Files,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        random: Random | None = None,
    ) -> None:
        self.files = files
        self._random = random or Random()
        self._clock, self._cpu = clock, cpu
        self._held: tuple[EventId, tuple[str, ...]] | None = None
        self._noted: _Noted | None = None
        self._saved: _Noted | None = None
        self._stepped_back = False
        self._is_stopped = False
        self._stopped_at = math.inf
        self._changed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stop: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Keeper {self.files!r}>"

    def start(self, loaded: Callable[[Proof | None], None] | None, ended: Callable[[], None]) -> None:
        """Begin. `loaded` is called with what the file holds, and `ended` after the last write, both on the thread.

        Without `loaded` the file is not read. Raises `RuntimeError` where there can be no more threads.
        """
        thread = threading.Thread(target=self._run, args=(loaded, ended), name="configsvc-disk", daemon=True)
        thread.start()
        self._thread = thread
        _keepers.add(self)

    def begin(self, position: EventId, left: tuple[str, ...]) -> None:
        """Take note of where the session goes on from: a state before that is a step back."""
        self._held = position, left

    def note(self, proof: Proof | None) -> None:
        """Take a state that a service has proved. To be called for each one, and for each proof of the same one."""
        if proof is None:
            return
        before = self._noted
        if self._held is not None and proof.is_before(*self._held):
            self._stepped_back = True
        self._held = proof.position, proof.left
        self._noted = _Noted(proof, self._clock())
        if before is None or before.proof.snapshot is not proof.snapshot:
            self._changed.put(None)

    def stop(self) -> None:
        """Tell the thread to write what is left and to end."""
        self._stopped_at = min(self._stopped_at, time.monotonic())
        self._is_stopped = True
        self._changed.put(None)
        self._stop.put(None)

    def join(self) -> None:
        """Wait for the end, until `STOP_TIMEOUT_S` after the first `stop`."""
        if self._thread is not None:
            self._thread.join(max(0.0, self._stopped_at + STOP_TIMEOUT_S - time.monotonic()))

    def _run(self, loaded: Callable[[Proof | None], None] | None, ended: Callable[[], None]) -> None:
        try:
            if loaded is not None:
                loaded(self.files.load())
            self.files.sweep()
            self._write_behind()
        except Exception:
            logger.exception("a defect ended the keeping of last-known-good files")
        finally:
            ended()

    def _write_behind(self) -> None:
        while not self._is_stopped:
            with contextlib.suppress(queue.Empty):
                self._changed.get(timeout=REFRESH_S)
            if self._saved is not None:
                # The first one at once: a process may be short-lived.
                self._pause(self._random.uniform(0.0, SPREAD_S))
            with contextlib.suppress(queue.Empty):
                while True:
                    self._changed.get_nowait()
            started, cpu = self._clock(), self._cpu()
            if self._save():
                self._pause(rest_s(self._clock() - started, self._cpu() - cpu))
            else:
                self._changed.put(None)
                self._pause(RETRY_S)
        self._save()

    def _pause(self, seconds: float) -> None:
        """Wait, though not for longer than until the end."""
        if not self._is_stopped:
            with contextlib.suppress(queue.Empty):
                self._stop.get(timeout=seconds)

    def _save(self) -> bool:
        noted = self._noted
        if noted is None or noted is self._saved:
            return True
        # The flag first: a step back that comes meanwhile counts for the next write.
        stepped_back, self._stepped_back = self._stepped_back, False
        proof = noted.proof._replace(age_s=noted.proof.age_s + self._clock() - noted.at)
        if self.files.save(proof, stepped_back=stepped_back):
            self._saved = noted
            return True
        self._stepped_back |= stepped_back
        return False


_keepers: "weakref.WeakSet[Keeper]" = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """What was noted is on disk also after a program that never closed its client."""
    keepers = list(_keepers)
    for keeper in keepers:
        keeper.stop()
    for keeper in keepers:
        keeper.join()
