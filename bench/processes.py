"""Processes that are measured or make load: on which core they run, what they used, and how they are spoken to.

Linux only: it reads /proc and binds processes to cores.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from configsvc.core.model import Scope
from configsvc.etcd.local import free_ports

DEADLINE_S = 60.0
PAGE = os.sysconf("SC_PAGE_SIZE") if sys.platform != "win32" else 4096
TICKS_S = os.sysconf("SC_CLK_TCK") if sys.platform != "win32" else 100
_OURS = ("CONFIG_", "CONFIGSVC_", "ETCD_", "SERVICE_NAME")
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))

CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
SERVICE_CORE = CORES[0]
LOAD_CORE = CORES[1] if len(CORES) > 1 else CORES[0]


class BenchError(Exception):
    """Something that is needed for a measurement did not work; the text says what."""


def environ(**settings: str) -> dict[str, str]:
    """The environment without any of our settings, and these.

    Python keeps bytecode, whatever the shell says: what is installed has it, and compiling is no part of a start.
    """
    left = {k: v for k, v in os.environ.items() if not k.startswith(_OURS) and k != "PYTHONDONTWRITEBYTECODE"}
    return left | settings


@contextmanager
def on_cores(*cores: int) -> Iterator[None]:
    """Let what is started within the block run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tree(pid: int) -> list[int]:
    """A process and all that it has started."""
    found = [pid]
    for parent in found:
        for task in _entries(f"/proc/{parent}/task"):
            children = _read(f"/proc/{parent}/task/{task}/children")
            found += [int(child) for child in children.split()]
    return found


def cpu_s(pid: int) -> float:
    """CPU time of a process, its children and their threads so far, user and system, in seconds.

    By the scheduler's nanoseconds where the kernel keeps them, else by its ticks.
    """
    total = 0.0
    for one in tree(pid):
        fields = [_read(f"/proc/{one}/task/{task}/schedstat").split() for task in _entries(f"/proc/{one}/task")]
        exact = sum(int(field[0]) for field in fields if field) / 1e9
        total += exact or _ticks_s(one)
    return total


def _ticks_s(pid: int) -> float:
    text = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(text[11]) + int(text[12])) / TICKS_S if text else 0.0


def rss_mib(pid: int) -> float:
    """Resident memory of a process and its children, in MiB; what they share counts for each."""
    return sum(int((_read(f"/proc/{one}/statm") or "0 0").split()[1]) * PAGE for one in tree(pid)) / 2**20


def peak_mib(pid: int) -> float:
    """The most resident memory that a process had since its start, in MiB."""
    line = next((line for line in _read(f"/proc/{pid}/status").splitlines() if line.startswith("VmHWM:")), "VmHWM: 0")
    return int(line.split()[1]) / 1024


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""


def until(what: str, condition: Callable[[], Any], timeout_s: float = DEADLINE_S, every_s: float = 0.01) -> Any:
    """Wait for a condition and return what it returns; raises `BenchError`."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise BenchError(f"not within {timeout_s:g} s: {what}")
        time.sleep(every_s)
    return found


def status_of(url: str) -> int:
    """The status that a GET answers, 0 where nobody does."""
    try:
        with _http.open(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


class Process:
    """A program on one core (or several), as a context manager that kills it at the end. Its output is on disk."""

    def __init__(self, command: list[str], folder: Path, *, cores: tuple[int, ...], **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._err = folder / f"{Path(command[-1]).name[:40]}.err"
        with on_cores(*cores), self._err.open("ab") as err:
            self.process = self._spawn(command, err, environ(**settings))

    def _spawn(self, command: list[str], err: IO[bytes], env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=err, stderr=err, env=env)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._err.read_text("utf-8", "replace")

    def until(self, what: str, condition: Callable[[], Any], timeout_s: float = DEADLINE_S) -> Any:
        """Wait for a condition; raises `BenchError`, also where the process ends before."""

        def look() -> Any:
            found = condition()
            if not found and self.process.poll() is not None:
                raise BenchError(f"ended with {self.process.returncode} before {what}:\n{self.log[-2000:]}")
            return found

        return until(what, look, timeout_s)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class Child(Process):
    """One of `bench/load`: takes commands as lines of JSON and answers each with one."""

    def __init__(self, module: str, folder: Path, *arguments: str, cores: tuple[int, ...] = (LOAD_CORE,)) -> None:
        super().__init__([sys.executable, "-m", f"bench.load.{module}", *arguments], folder, cores=cores)

    def _spawn(self, command: list[str], err: IO[bytes], env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        # Unbuffered: a line that is written has been sent.
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, env=env, bufsize=0, cwd=_ROOT
        )

    def tell(self, **command: Any) -> None:
        """Send a command."""
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
        except BrokenPipeError:
            raise BenchError(f"a load program has ended:\n{self.log[-2000:]}") from None

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer."""
        assert self.process.stdout
        line = b""
        while not line.endswith(b"\n"):
            more = self.process.stdout.readline()
            if not more:
                raise BenchError(f"a load program has ended:\n{self.log[-2000:]}")
            line += more
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.tell(**command)
        return self.answer()


_ROOT = Path(__file__).parent.parent


class Service(Process):
    """`configsvc serve` as the sidecar of a scope, on one core or on several, on a port that was free a moment ago."""

    def __init__(
        self,
        folder: Path,
        endpoint: str,
        scope: Scope,
        *,
        port: int = 0,
        cores: tuple[int, ...] = (SERVICE_CORE,),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        ours = {
            "SERVICE_NAME": scope.namespace,
            "CONFIG_ENVIRONMENT": scope.environment,
            "CONFIGSVC_LISTEN": f"127.0.0.1:{self.port}",
            "CONFIGSVC_LOG_FORMAT": "json",
            "CONFIGSVC_LOG_LEVEL": "warning",
            "CONFIGSVC_CACHE_DIR": "off",
            "ETCD_ENDPOINTS": endpoint,
        }
        super().__init__(
            [sys.executable, "-m", "configsvc", "serve"], folder, cores=cores, **{**ours, **(settings or {})}
        )

    def wait_ready(self) -> None:
        """Wait until traffic may come."""
        self.until("the service is ready", lambda: status_of(self.url + "/health/ready") == 200)


def free_port() -> int:
    """One that nobody listens on."""
    return free_ports(1)[0][0]
