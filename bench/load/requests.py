"""Requests over kept connections as fast as their answers come: each connection asks again once it has been answered.

Times are what each answer took, as it was. wrk corrects its own for requests that it would have sent meanwhile at the
rate it saw (coordinated omission): of two servers that stand still for as long, the quicker one then looks worse.

    {"port": 1, "request": base64, "connections": 32, "seconds": 2}
                                        answers {"requests", "seconds", "p99_us", "errors"}
"""

import select
import socket
import time

from bench.load import answer, commands, unpacked
from bench.stats import percentile


class Connection:
    """One that waits for the answer to a request."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.since = time.perf_counter()


def load(port: int, request: str, connections: int, seconds: float) -> dict[str, float]:
    sent = unpacked(request)
    taken: list[float] = []
    errors = usual = 0
    state: dict[int, Connection] = {}
    with select.epoll() as poll:
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(sock.fileno(), select.EPOLLIN)
            state[sock.fileno()] = Connection(sock)
            sock.sendall(sent)
        begun = time.perf_counter()
        while time.perf_counter() < begun + seconds:
            for ready, _ in poll.poll(1):
                one = state[ready]
                if not (received := one.sock.recv(1 << 18)):
                    raise ConnectionError("the other side has closed")
                one.data += received
                # As long as the one before: then it is whole. Looking costs this program more than all the rest.
                if len(one.data) != usual and not complete(one.data):
                    continue
                now = time.perf_counter()
                taken.append((now - one.since) * 1e6)
                errors += one.data[9:10] not in b"23"
                usual, one.data, one.since = len(one.data), b"", now
                one.sock.sendall(sent)
        spent = time.perf_counter() - begun
    for one in state.values():
        one.sock.close()
    return {"requests": len(taken), "seconds": spent, "p99_us": percentile(taken, 0.99), "errors": errors}


def complete(data: bytes) -> bool:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    _, found, rest = data[:end].lower().partition(b"content-length:")
    return len(data) >= end + 4 + (int(rest.partition(b"\r")[0]) if found else 0)


if __name__ == "__main__":
    for command in commands():
        answer(**load(**command))
