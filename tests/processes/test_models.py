"""Process models: in every process, however it was made, an update arrives, and nothing of its parent is left in it.

The service is scripted: it counts connections, so that a stream that was disturbed shows as one more.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.client.support import HOLD, Service, Wait, change, eventually_sync, snapshot

BIN = Path(sys.executable).parent
BOTH_THREADS = ["configsvc-callbacks", "configsvc-link"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")


class Run:
    """One application with all its processes, and the service that it follows."""

    def __init__(self, service: Service, go: Wait, folder: Path, process: "subprocess.Popen[str]") -> None:
        self.service = service
        self.process = process
        self._go = go
        self._folder = folder

    def change_when(self, connected: int) -> None:
        """Change the value once so many clients listen."""

        def listen() -> bool:
            assert self.process.poll() is None, self.output()
            return len(self.service.watches) >= connected

        eventually_sync(listen, f"{connected} clients connect")
        self._go.go()

    def reports(self, number: int) -> list[dict[str, Any]]:
        """What so many processes said."""
        eventually_sync(lambda: len(list(self._folder.glob("*.json"))) >= number, f"{number} processes hear of it")
        return [json.loads(file.read_text()) for file in self._folder.glob("*.json")]

    def output(self) -> str:
        return (self._folder / "output").read_text()


@contextmanager
def application(folder: Path, *command: str | Path, **environ: str) -> Iterator[Run]:
    go = Wait()
    service = Service([snapshot({"a": 1}, 1), go, change(2, {"a": 2}), HOLD])
    with service.run_in_thread(), (folder / "output").open("w") as output:
        env = {**os.environ, "TEST_URL": service.url, "TEST_REPORTS": str(folder), "PYTHONWARNINGS": "default"}
        process = subprocess.Popen(
            [str(part) for part in command],
            env=env | environ,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )
        try:
            yield Run(service, go, folder, process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check(
    run: Run,
    processes: int,
    *,
    told: Any = 2,
    threads: list[str] | None = None,
    passing: int = 0,
    connected: int | None = None,
) -> None:
    """In each process the update arrived, over one connection of its own; and nobody had to connect twice.

    `passing` processes may have connected and ended before.
    """
    run.change_when(processes if connected is None else connected)
    reports = run.reports(processes)
    expected = BOTH_THREADS if threads is None else threads
    assert [(one["told"], one["read"], one["streams"], one["threads"]) for one in reports] == [
        (told, 2, 1, expected)
    ] * processes, run.output()
    assert len(run.service.watches) <= processes + passing


def stop(run: Run, *, quiet: bool = True) -> None:
    run.process.terminate()
    assert run.process.wait(20) == 0, run.output()
    assert not quiet or "Traceback" not in run.output()


MODELS = (
    "os.fork",
    "os.fork before first use",
    "os.fork in a thread",
    "a fork of a fork",
    "a child that returns",
    "a daemon",
    "multiprocessing fork",
    "multiprocessing spawn",
    "multiprocessing forkserver",
    "ProcessPoolExecutor",
    "subprocess",
)
PROCESSES = {"subprocess": 1, "a child that returns": 2, "a daemon": 2}


@pytest.mark.parametrize("model", MODELS)
def test_an_update_arrives_in_every_process(tmp_path: Path, model: str) -> None:
    environ = {} if model == "os.fork before first use" else {"TEST_READ_FIRST": "1"}
    with application(tmp_path, sys.executable, "-m", "tests.processes.models", model, **environ) as run:
        check(run, PROCESSES.get(model, 3), passing=model == "a daemon")
        assert run.process.wait(20) == 0, run.output()
        assert "Traceback" not in run.output()


@pytest.mark.parametrize("model", ["os.fork", "multiprocessing fork", "multiprocessing spawn", "ProcessPoolExecutor"])
def test_without_callbacks_a_child_begins_at_its_first_read(tmp_path: Path, model: str) -> None:
    command = [sys.executable, "-m", "tests.processes.models", model]
    with application(tmp_path, *command, TEST_READ_FIRST="1", TEST_CALLBACK="0") as run:
        check(run, 3, told=None, threads=["configsvc-link"])
        assert run.process.wait(20) == 0, run.output()


GUNICORN = [BIN / "gunicorn", "--bind", "127.0.0.1:0", "--workers", "2", "--graceful-timeout", "5"]


@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
def test_gunicorn_with_preload(tmp_path: Path, kind: str) -> None:
    with application(tmp_path, *GUNICORN, "--preload", "-k", kind, "tests.processes.app:wsgi") as run:
        check(run, 3)
        # gevent patches a worker whose threads run already, and then misses them in its own list when they end.
        stop(run, quiet=kind != "gevent")


@pytest.mark.parametrize("kind", ["sync", "gevent"])
def test_gunicorn_without_preload(tmp_path: Path, kind: str) -> None:
    with application(tmp_path, *GUNICORN, "-k", kind, "tests.processes.app:wsgi") as run:
        check(run, 2)
        stop(run)


def test_uvicorn_with_workers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uvicorn", "--port", "0", "--workers", "2", "tests.processes.app:asgi"]
    with application(tmp_path, *command, TEST_CALLBACK="0") as run:
        # Each worker holds the threaded client of the module as well, and so does each one's import.
        eventually_sync(lambda: len(run.service.watches) >= 4, "two workers with two clients each")
        run.change_when(4)
        reports = run.reports(2)
        assert {one["read"] for one in reports} == {one["told"] for one in reports} == {2}
        stop(run)


UWSGI = [BIN / "uwsgi", "--http-socket", "127.0.0.1:0", "--master", "--processes", "2", "--need-app", "--die-on-term"]


UWSGI_APP = ["--home", sys.prefix, "--module", "tests.processes.app:wsgi"]


@pytest.mark.parametrize("reads_first", [False, True])
@pytest.mark.parametrize("options", [[], ["--lazy-apps"], ["--py-call-osafterfork"]], ids=str)
def test_uwsgi(tmp_path: Path, options: list[str], reads_first: bool) -> None:
    environ = {"TEST_READ_FIRST": "1"} if reads_first else {}
    with application(tmp_path, *UWSGI, *UWSGI_APP, "--enable-threads", *options, **environ) as run:
        # The master reads while it loads the application, and has no thread of ours when it forks.
        masters = int(reads_first and "--lazy-apps" not in options)
        check(run, 2, passing=masters, connected=2 + masters)
        assert "RuntimeWarning" not in run.output()
        stop(run)


def test_uwsgi_without_threads_warns_and_says_what_to_set(tmp_path: Path) -> None:
    with application(tmp_path, *UWSGI, *UWSGI_APP) as run:
        eventually_sync(lambda: "set enable-threads = true" in run.output(), "the warning")


def test_gevent_beside_a_patched_application(tmp_path: Path) -> None:
    program = (
        "from gevent import monkey; monkey.patch_all(); import gevent; from tests.processes import app; "
        "ticks = iter(int, 1); gevent.sleep(0); app.config.wait_ready(20); "
        "[gevent.sleep(0.01) for _ in iter(lambda: app.config.get('a'), 2)]; gevent.sleep(0.1); app.config.close()"
    )
    with application(tmp_path, sys.executable, "-W", "error", "-c", program, PYTHONPATH=".") as run:
        check(run, 1)
        assert run.process.wait(20) == 0, run.output()


def test_celery_prefork(tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    queue.mkdir()
    command = [sys.executable, "-m", "celery", "-A", "tests.processes.celery_app", "worker", "--concurrency", "2"]
    options = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with application(tmp_path, *command, *options, TEST_QUEUE=str(queue)) as run:
        check(run, 3)
        stop(run)
