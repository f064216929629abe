"""Many subscribers of a stream in one process: sockets and epoll, nothing else.

    {"connect": count, "port": 1, "path": "/…", "in_flight": 256}
                           open so many, and answer once each is live, that is, has a whole snapshot
    {"expect": marker}     answer at once, and again when each has read the marker: {"first_ns", "last_ns"}
    {"again": true}        answer at once; from now on, connections that end are opened anew, with `Last-Event-ID` and
                           after 100 to 300 ms, and when all have been live again: what was seen meanwhile
    {"churn": rate, "seconds": 5}   close and open so many a second; answers how many that were

Times are nanoseconds of the monotonic clock, which all processes share.
"""

import errno
import heapq
import json
import os
import random
import re
import select
import socket
import sys
import time
from collections import Counter
from typing import Any

from bench.load import answer

END = b"\n\n"
SNAPSHOT = b"event: snapshot"
ID = re.compile(rb"^id: (\S+)", re.MULTILINE)
EDGE = 64
"""What is kept of a piece, so that a marker across two pieces is found."""
RETRY_S = (0.1, 0.3)


class Subscriber:
    __slots__ = ("edge", "id", "live", "seen", "snapshot", "sock", "status")

    def __init__(self) -> None:
        self.id = ""
        self.sock: socket.socket | None = None
        self.reset()

    def reset(self) -> None:
        self.edge = b""
        self.status = 0
        self.snapshot = self.live = self.seen = False


class Crowd:
    def __init__(self) -> None:
        self.poll = select.epoll()
        self.poll.register(sys.stdin.fileno(), select.EPOLLIN)
        self.by_fd: dict[int, Subscriber] = {}
        self.waiting: list[tuple[float, int, Subscriber]] = []
        """To be opened: when, a number against ties, which."""
        self.port, self.path, self.in_flight = 0, "", 256
        self.opening = 0
        self.live = 0
        self.target = 0
        """How many are to be live, 0 where nobody waits for it; each of `need` has to become so anew."""
        self.need = 0
        self.marker: bytes | None = None
        self.left = 0
        self.first_ns = self.last_ns = 0
        self.again = False
        self.buffer = bytearray(1 << 18)
        self.churn: tuple[float, float] | None = None
        self.next_churn = 0.0
        self.churned = 0
        self.forget()

    def forget(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.live_at: list[int] = []
        self.begun_ns = time.monotonic_ns()

    # ---- commands -------------------------------------------------------------------------------------------------

    def obey(self, command: dict[str, Any]) -> None:
        match command:
            case {"connect": int(count), "port": int(port), "path": str(path)}:
                self.port, self.path = port, path
                self.in_flight = command.get("in_flight", 256)
                self.target, self.need = self.live + count, count
                self.forget()
                for _ in range(count):
                    self.later(Subscriber(), 0.0)
            case {"expect": str(marker)}:
                self.marker = marker.encode()
                self.left = len(self.by_fd)
                self.first_ns = self.last_ns = 0
                for one in self.by_fd.values():
                    one.seen, one.edge = False, b""
                answer(armed=self.left)
            case {"again": True}:
                self.again = True
                self.in_flight = self.target = self.need = len(self.by_fd)
                self.forget()
                answer(armed=len(self.by_fd))
            case {"churn": rate, "seconds": seconds}:
                now = time.monotonic()
                self.churn, self.next_churn, self.churned = (1 / rate, now + seconds), now, 0
                self.forget()

    # ---- connections ----------------------------------------------------------------------------------------------

    def later(self, one: Subscriber, delay_s: float) -> None:
        heapq.heappush(self.waiting, (time.monotonic() + delay_s, id(one), one))

    def open_due(self) -> None:
        now = time.monotonic()
        while self.waiting and self.opening < self.in_flight and self.waiting[0][0] <= now:
            self.open(heapq.heappop(self.waiting)[2])

    def open(self, one: Subscriber) -> None:
        one.reset()
        one.sock = sock = socket.socket()
        sock.setblocking(False)
        code = sock.connect_ex(("127.0.0.1", self.port))
        self.by_fd[sock.fileno()] = one
        self.opening += 1
        if code not in (0, errno.EINPROGRESS):
            self.failed(one, "refused" if code == errno.ECONNREFUSED else os.strerror(code))
            return
        self.poll.register(sock.fileno(), select.EPOLLOUT)

    def connected(self, one: Subscriber) -> None:
        assert one.sock
        if code := one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.failed(one, "refused" if code == errno.ECONNREFUSED else os.strerror(code))
            return
        resume = f"Last-Event-ID: {one.id}\r\n" if one.id else ""
        head = f"GET {self.path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n{resume}\r\n"
        one.sock.send(head.encode())
        self.poll.modify(one.sock.fileno(), select.EPOLLIN)

    def close(self, one: Subscriber) -> None:
        assert one.sock
        fd = one.sock.fileno()
        self.by_fd.pop(fd, None)
        # Closing takes it off the poll.
        one.sock.close()
        if one.live:
            self.live -= 1
            if self.marker is not None and not one.seen:
                self.left -= 1
        else:
            self.opening -= 1

    def failed(self, one: Subscriber, why: str) -> None:
        self.statuses[why] += 1
        self.close(one)
        self.later(one, random.uniform(*RETRY_S))

    def ended(self, one: Subscriber) -> None:
        if one.live:
            self.close(one)
            if self.again:
                self.later(one, random.uniform(*RETRY_S))
        else:
            self.failed(one, "broken off")

    # ---- bytes ----------------------------------------------------------------------------------------------------

    def read(self, one: Subscriber) -> None:
        assert one.sock
        try:
            size = one.sock.recv_into(self.buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self.ended(one)
            return
        if one.live and self.marker is None:
            return
        data = one.edge + self.buffer[:size]
        one.edge = data[-EDGE:]
        if not one.live:
            self.starting(one, data)
        elif not one.seen and self.marker is not None and self.marker in data:
            one.seen = True
            self.last_ns = time.monotonic_ns()
            self.first_ns = self.first_ns or self.last_ns
            self.left -= 1

    def starting(self, one: Subscriber, data: bytes) -> None:
        if not one.status:
            if b"\r\n\r\n" not in data:
                one.edge = data
                return
            one.status = int(data[9:12])
            self.statuses[str(one.status)] += 1
            if one.status != 200:
                self.close(one)
                self.later(one, random.uniform(*RETRY_S))
                return
        at = 0
        if not one.snapshot:
            at = data.find(SNAPSHOT)
            if at < 0:
                return
            one.snapshot = True
            if found := ID.search(data, max(0, at - 256)):
                one.id = found[1].decode()
        if data.find(END, at) >= 0:
            one.live = True
            one.edge = b""
            self.live += 1
            self.opening -= 1
            self.live_at.append(time.monotonic_ns())

    # ---- the loop -------------------------------------------------------------------------------------------------

    def report(self) -> None:
        """Answer what is awaited, once it has come."""
        if self.marker is not None and self.left <= 0:
            self.marker = None
            answer(first_ns=self.first_ns, last_ns=self.last_ns)
        if self.target and self.live >= self.target and len(self.live_at) >= self.need:
            last_ns = self.live_at[-1]
            answer(live=self.live, begun_ns=self.begun_ns, last_ns=last_ns, statuses=dict(self.statuses))
            self.again, self.target = False, 0
        if self.churn and time.monotonic() > self.churn[1]:
            self.churn = None
            answer(churned=self.churned, statuses=dict(self.statuses))

    def turn_over(self) -> None:
        """Close the oldest and open another, where it is time."""
        now = time.monotonic()
        while self.churn and self.next_churn <= now:
            self.next_churn += self.churn[0]
            one = next((one for one in self.by_fd.values() if one.live), None)
            if one is None:
                return
            self.close(one)
            one.id = ""
            self.later(one, 0.0)
            self.churned += 1

    def run(self) -> None:
        stdin = sys.stdin.fileno()
        while True:
            self.open_due()
            self.turn_over()
            ready = self.poll.poll(self.timeout(), 4096)
            for fd, event in ready:
                if fd == stdin:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    self.obey(json.loads(line))
                elif (one := self.by_fd.get(fd)) is not None:
                    if event & select.EPOLLOUT:
                        self.connected(one)
                    else:
                        self.read(one)
            self.report()

    def timeout(self) -> float:
        """How long nothing is to be done."""
        if self.waiting and self.opening < self.in_flight:
            return max(0.0, min(1.0, self.waiting[0][0] - time.monotonic()))
        if self.churn:
            return max(0.0, min(self.next_churn, self.churn[1]) - time.monotonic())
        return 1.0


if __name__ == "__main__":
    Crowd().run()
