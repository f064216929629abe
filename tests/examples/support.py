"""The examples as processes: how each is started, where it answers, and how it ends."""

import json
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery

from tests.cli.commands import Running

EXAMPLES = Path(__file__).parents[2] / "examples"
BIN = Path(sys.executable).parent
GUNICORN = (str(BIN / "gunicorn"), "--bind", "127.0.0.1:0", "--workers", "2", "--graceful-timeout", "5")
DEADLINE_S = 40.0
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Example:
    """One way to run one example."""

    name: str
    command: tuple[str, ...]
    files: tuple[str, ...]
    folder: str = "."
    address: str | None = None
    """A pattern of what it prints when it listens; None where it has no HTTP route."""
    processes: int = 1
    """How many of them answer."""
    exit_code: int = 0
    """After SIGTERM."""


DJANGO = tuple(
    f"django_site/{name}"
    for name in (
        "manage.py",
        "mysite/settings.py",
        "mysite/urls.py",
        "mysite/wsgi.py",
        "shop/live.py",
        "shop/apps.py",
        "shop/views.py",
    )
)
ALL = (
    # A script that takes no care of SIGTERM ends by it, as every Python script does.
    Example("script", (sys.executable, "script.py"), ("script.py",), exit_code=-signal.SIGTERM),
    Example(
        "fastapi",
        (sys.executable, "-m", "uvicorn", "--port", "0", "fastapi_app:app"),
        ("fastapi_app.py",),
        address=r"Uvicorn running on (http://[\d.:]+)",
        # uvicorn ends in good order, and then by the signal that it got.
        exit_code=-signal.SIGTERM,
    ),
    Example(
        "django", (*GUNICORN, "mysite.wsgi"), DJANGO, "django_site", r"Listening at: (http://[\d.:]+)", processes=2
    ),
    Example(
        "django-runserver",
        (sys.executable, "-u", "manage.py", "runserver", "127.0.0.1:0"),
        DJANGO,
        "django_site",
        r"development server at (http://[\d.:]+)",
    ),
    Example(
        "flask", (*GUNICORN, "flask_app:app"), ("flask_app.py",), address=r"Listening at: (http://[\d.:]+)", processes=2
    ),
    Example(
        "flask-preload",
        (*GUNICORN, "--preload", "flask_app:app"),
        ("flask_app.py",),
        address=r"Listening at: (http://[\d.:]+)",
        processes=2,
    ),
    Example(
        "celery",
        (sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--concurrency", "2", "--loglevel", "INFO"),
        ("celery_app.py",),
        processes=2,
    ),
    Example(
        "aiohttp",
        (sys.executable, "-u", "aiohttp_app.py"),
        ("aiohttp_app.py",),
        address=r"Running on (http://[\d.:]+)",
    ),
)


class RunningExample:
    """One that runs. `answer` is one answer: the page size, and which process gave it."""

    def __init__(self, example: Example, running: Running, queue: Path) -> None:
        self.example = example
        self.running = running
        self._url = ""
        self._queue = queue
        self._sender: Celery | None = None
        self._printed = 0

    @property
    def output(self) -> str:
        """All that it has said."""
        return self.running.out + self.running.err

    def wait_started(self) -> None:
        """Wait until it answers."""
        pattern = self.example.address or {"celery": r"( ready\.)", "script": "(page size)"}[self.example.name]
        found = self.running.until("it started", lambda: re.search(pattern, self.output))
        self._url = found[1]

    def answer(self) -> tuple[int | None, int]:
        """The page size now, None before it says one, and the process that says so (0: there is one only)."""
        if self.example.name == "celery":
            return self._from_task()
        if self.example.address is None:
            return self._from_output()
        with _http.open(self._url + "/", timeout=DEADLINE_S) as response:
            got: dict[str, int] = json.load(response)
        return got["page_size"], got.get("pid", 0)

    def _from_output(self) -> tuple[int | None, int]:
        found = re.findall(r"^page size (\d+)$", self.running.out, re.MULTILINE)
        return (int(found[-1]) if found else None), 0

    def _from_task(self) -> tuple[int | None, int]:
        if self._sender is None:
            folders = {"data_folder_in": "messages", "data_folder_out": "messages", "control_folder": "control"}
            self._sender = Celery("sender", broker="filesystem://", backend=f"file://{self._queue / 'results'}")
            self._sender.conf.broker_transport_options = {k: str(self._queue / v) for k, v in folders.items()}
        result: Any = self._sender.send_task("celery_app.page").get(timeout=DEADLINE_S, interval=0.02)
        return result["page_size"], result["pid"]

    def wait_for(self, page_size: int, *, processes: int | None = None) -> None:
        """Ask until every process has answered so; one that has never answers anything else again."""
        wanted = self.example.processes if processes is None else processes
        until = time.monotonic() + DEADLINE_S
        seen: set[int] = set()
        while len(seen) < wanted:
            assert self.running.process.poll() is None, self.output
            assert time.monotonic() < until, f"{page_size} from {seen} only\n{self.output}"
            answer, process = self.answer()
            if answer == page_size:
                seen.add(process)
            else:
                assert process not in seen, f"{process} stepped back to {answer}"
                time.sleep(0.02)

    def wait_said(self, text: str) -> None:
        """Wait until the output has a text as often as there are processes."""
        self.running.until(f"{text!r} is said", lambda: self.output.count(text) >= self.example.processes)

    def stop(self) -> None:
        """End it by SIGTERM, and look at how."""
        assert self.running.stop(signal.SIGTERM) == self.example.exit_code, self.output
        assert "Traceback" not in self.output, self.output


@contextmanager
def started(example: Example, folder: Path, **settings: str) -> Iterator[RunningExample]:
    """A copy of the example, running with its files in `folder`, on a free port."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES / example.folder), str(EXAMPLES.parent)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "QUEUE_DIR": str(folder / "queue"),
        "PORT": "0",
        **settings,
    }
    command = [str(EXAMPLES / example.folder / part) if part.endswith(".py") else part for part in example.command]
    with Running(*command, cwd=folder, **settings) as running:
        yield RunningExample(example, running, folder / "queue")
