"""Runs commands as processes of their own, as a shell would, and ends what is left of them."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

DEADLINE_S = 40.0
CONFIGSVC = (sys.executable, "-m", "configsvc")
OURS = ("CONFIG_", "CONFIGSVC_", "ETCD_", "SERVICE_NAME", "COVERAGE_")
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def environ(**settings: str) -> dict[str, str]:
    """The environment without any of our settings, and these."""
    return {k: v for k, v in os.environ.items() if not k.startswith(OURS)} | {"NO_COLOR": "1"} | settings


def run(*command: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command, cwd=cwd, env=environ(**settings), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def at_terminal(
    *command: str, cwd: Path, typed: str = "", columns: int = 80, errors: bool = True, **settings: str
) -> tuple[int, str]:
    """Exit code and everything that a terminal shows of a command, with `typed` on it; stderr only with `errors`."""
    parent, child = pty.openpty()
    os.write(parent, typed.encode())
    seen = bytearray()

    def read() -> None:
        # Linux ends a terminal without writers with an error.
        with suppress(OSError):
            while data := os.read(parent, 65536):
                seen.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environ(**{"TERM": "xterm", "COLUMNS": str(columns), **settings}),
            stdin=child,
            stdout=child,
            stderr=child if errors else subprocess.DEVNULL,
            timeout=DEADLINE_S,
            check=False,
        )
    finally:
        os.close(child)
        reader.join(DEADLINE_S)
        os.close(parent)
    return done.returncode, seen.decode()


class Running:
    """A command that goes on until it is told to stop; its output is on disk."""

    def __init__(self, *command: str, cwd: Path, **settings: str) -> None:
        self.folder = cwd
        self._out, self._err = cwd / "stdout", cwd / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(command, cwd=cwd, env=environ(**settings), stdout=out, stderr=err)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)

    @property
    def out(self) -> str:
        return self._out.read_text("utf-8")

    @property
    def err(self) -> str:
        return self._err.read_text("utf-8")

    def until(self, what: str, condition: Callable[[], Any]) -> Any:
        """Wait for a condition and return what it returns; fails if the command ends before."""

        def alive_or_true() -> Any:
            found = condition()
            if not found and self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode} before {what}:\n{self.out}\n{self.err}")
            return found

        return until(what, alive_or_true)

    def stop(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


def until(what: str, condition: Callable[[], Any]) -> Any:
    """Wait for a condition and return what it returns."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {DEADLINE_S} s: {what}")
        time.sleep(0.05)
    return found


def get(url: str) -> Any:
    """JSON, of an error too; None where nobody answers."""
    try:
        with _http.open(url, timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)
    except OSError:
        return None
