"""Asks the service on this machine whether it is well: `python -m configsvc.probe [ready|live]`, exit 0 or 1.

For orchestrators that ask by a command: a container's HEALTHCHECK, an exec probe. It runs every few seconds, often
beside a hundred others, so it imports little and starts in a few hundredths of a second; the image needs no curl. It
asks where `CONFIGSVC_LISTEN` says that the service listens (`127.0.0.1:8080` when that is not set), within one time
limit. Knows nothing of the service but two of its paths, and does not read the settings file: where the address is set
there only, name it in the variable as well (the image does).
"""

import os
import socket
import sys
import time

DEFAULT_LISTEN = "127.0.0.1:8080"
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - an address to recognise, nothing binds to it
TIMEOUT_S = 2.0
HEAD_BYTES = 4096


def address(listen: str) -> tuple[str, int]:
    """Where to connect to for an address to listen on. Raises `ValueError` for one that names no port."""
    host, _, port = listen.strip().rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() else 0
    host = host.removeprefix("[").removesuffix("]")
    if not host or not 0 < number < 65536:
        raise ValueError(f"CONFIGSVC_LISTEN={listen}: no HOST:PORT to connect to")
    return ANYWHERE.get(host, host), number


def ask(host: str, port: int, path: str, timeout_s: float = TIMEOUT_S) -> str:
    """The status line of the answer to a GET. Raises `OSError` where none comes in time."""
    deadline = time.monotonic() + timeout_s
    with socket.create_connection((host, port), timeout_s) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n" not in head and len(head) < HEAD_BYTES:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError("timed out")
            connection.settimeout(left)
            if not (received := connection.recv(HEAD_BYTES)):
                raise ConnectionError("closed without an answer")
            head += received
    return head.split(b"\r\n")[0].decode("ascii", "replace")


def main(arguments: list[str]) -> int:
    """0 if the answer is a 200, else 1 with a line that says why; 2 for a wrong call."""
    what = arguments[0] if arguments else "ready"
    if what not in ("ready", "live") or len(arguments) > 1:
        sys.stderr.write("usage: python -m configsvc.probe [ready|live]\n")
        return 2
    try:
        status = ask(*address(os.environ.get("CONFIGSVC_LISTEN") or DEFAULT_LISTEN), f"/health/{what}")
    except (OSError, ValueError) as error:
        status = str(error)
    well = status.startswith("HTTP/1.") and status.split(" ")[1:2] == ["200"]
    sys.stdout.write(f"{what}: {status}\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
