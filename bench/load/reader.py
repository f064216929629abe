"""Reads over one kept connection at a steady pace and times each.

A read that was due while the one before was still under way is timed from when it was due: a service that stands still
delays all that come meanwhile, not one.

    {"port": 1, "path": "/…", "rate": 200, "seconds": 5}     answers {"count", "p50_us", "p99_us", "max_us", "errors"}
"""

import contextlib
import os
import socket
import time

from bench.load import answer, commands
from bench.stats import percentile


def read(port: int, path: str, rate: float, seconds: float) -> dict[str, float]:
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    taken, errors = [], 0
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun = done = time.perf_counter()
        for number in range(max(1, round(rate * seconds))):
            due = begun + number / rate
            if done < due:
                time.sleep(max(0.0, due - time.perf_counter()))
                due = time.perf_counter()
            sock.sendall(request)
            errors += not one(sock).startswith(b"HTTP/1.1 200")
            done = time.perf_counter()
            taken.append((done - due) * 1e6)
    return {
        "count": len(taken),
        "p50_us": percentile(taken, 0.5),
        "p99_us": percentile(taken, 0.99),
        "max_us": max(taken),
        "errors": errors,
    }


def one(sock: socket.socket) -> bytes:
    """One answer, its end found by its Content-Length."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += received(sock)
    head = data[:end].lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
    while len(data) < end + 4 + length:
        data += received(sock)
    return data


def received(sock: socket.socket) -> bytes:
    if not (data := sock.recv(1 << 18)):
        raise ConnectionError("the other side has closed")
    return data


if __name__ == "__main__":
    # Other load runs on this core too; what is timed shall be the service. Only root may do so.
    with contextlib.suppress(OSError):
        os.nice(-10)
    for command in commands():
        answer(**read(**command))
