"""The probe: where it asks, what it takes for well, and that it is cheap enough to run every few seconds."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from configsvc import probe
from configsvc.settings_values import ADDRESS

ROOT = Path(__file__).parents[2]


@contextmanager
def answering(answer: bytes, family: socket.AddressFamily = socket.AF_INET) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers one connection; its port, and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], asked
        thread.join(10)


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "configsvc.probe", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, text=True, capture_output=True, timeout=30)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:8080", ("127.0.0.1", 8080)),
        ("[::]:9000", ("::1", 9000)),
        ("[::1]:9000", ("::1", 9000)),
        ("10.1.2.3:80", ("10.1.2.3", 80)),
        ("localhost:8080", ("localhost", 8080)),
        (" 127.0.0.1:8080 ", ("127.0.0.1", 8080)),
    ],
)
def test_it_asks_where_the_service_listens(listen: str, expected: tuple[str, int]) -> None:
    ADDRESS.parse(listen.strip())  # the service takes it
    assert probe.address(listen) == expected


@pytest.mark.parametrize("listen", ["", "8080", ":8080", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "a:b", "a:²"])
def test_an_address_that_nothing_can_connect_to_is_refused(listen: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        probe.address(listen)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 0),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 1),
        (b"HTTP/1.1 404 200\r\n\r\n", 1),
        (b"SSH-2.0 200\r\n", 1),
        (b"\r\n", 1),
        (b"", 1),
        (b"x" * 10_000, 1),
    ],
)
def test_only_a_200_is_well(answer: bytes, code: int) -> None:
    with answering(answer) as (port, asked):
        done = run(CONFIGSVC_LISTEN=f"0.0.0.0:{port}")
    assert done.returncode == code
    assert asked[0].startswith(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n")
    assert done.stdout.startswith("ready: ")
    assert not done.stderr


def test_live_is_another_path_and_ipv6_another_family() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with answering(b"HTTP/1.1 200 OK\r\n\r\n", socket.AF_INET6) as (port, asked):
        done = run("live", CONFIGSVC_LISTEN=f"[::]:{port}")
    assert done.returncode == 0
    assert asked[0].startswith(b"GET /health/live ")


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = run(CONFIGSVC_LISTEN=f"127.0.0.1:{port}")
    assert (done.returncode, done.stderr) == (1, "")
    assert "refused" in done.stdout


def test_a_server_that_says_nothing_or_little_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TimeoutError):
        probe.ask("127.0.0.1", server.getsockname()[1], "/", timeout_s=0.05)


@pytest.mark.parametrize("arguments", [("well",), ("ready", "live"), ("--help",)])
def test_a_wrong_call(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_it_imports_next_to_nothing() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import configsvc.probe;"
        "print(len(sys.modules), *(set(sys.modules) & {'aiohttp', 'asyncio', 'ssl', 'typer'}))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], text=True, capture_output=True)
    count, *heavy = done.stdout.split()
    assert heavy == []
    assert int(count) < 60
