"""Requests over kept connections as fast as one process can send them: what stands in where wrk is not to be had.

Slower than a quick server, so that it shows what a request costs the server, and not how many it could answer.

    {"port": 1, "request": base64, "connections": 32, "seconds": 2}
                                        answers {"requests", "seconds", "p99_us", "errors"}
"""

import selectors
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
    selector = selectors.DefaultSelector()
    sent = unpacked(request)
    taken: list[float] = []
    errors = 0
    state: dict[int, Connection] = {}
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        selector.register(sock, selectors.EVENT_READ)
        state[sock.fileno()] = Connection(sock)
        sock.sendall(sent)
    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds:
        for ready, _ in selector.select(1):
            one = state[ready.fd]
            one.data += one.sock.recv(1 << 18)
            if not complete(one.data):
                continue
            now = time.perf_counter()
            taken.append((now - one.since) * 1e6)
            errors += one.data[9:10] not in b"23"
            one.data, one.since = b"", now
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
