"""`ConfigClient` as an application sees it: from any thread, and until the program's end."""

import asyncio
import gc
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from configsvc_client import ClientClosed, ConfigChange, ConfigClient, ConfigKeyError, LinkFailed
from configsvc_client.link import Link
from tests.client.support import (
    CUT,
    FAST,
    HOLD,
    PATIENT,
    SCOPE,
    Beat,
    Service,
    Wait,
    change,
    eventually_sync,
    snapshot,
    status,
)

NOBODY = "http://127.0.0.1:9"


@contextmanager
def client_of(service: Service | str, **more: Any) -> Iterator[ConfigClient]:
    url = service if isinstance(service, str) else service.url
    with ConfigClient(url, **{"tuning": FAST, **PATIENT, **SCOPE, **more}) as client:
        yield client


def test_the_first_read_waits_and_the_rest_look_up() -> None:
    with (
        Service([0.1, snapshot({"a": 1, "c": {"x": [1]}}, 1), HOLD]).run_in_thread() as service,
        client_of(service) as client,
    ):
        assert client.get("a") == 1
        assert client.get("b", default=2) == 2
        client.get("c")["x"].append(2)
        assert client.get_all() == {"a": 1, "c": {"x": [1]}}
        with pytest.raises(KeyError):
            client.get("b")
        assert client.status.state == "live"


def test_a_read_without_service_is_a_default_or_a_key_error_and_waits_only_once() -> None:
    with client_of(NOBODY, start_timeout_s=0.1) as client:
        with pytest.raises(ConfigKeyError, match="no configuration of payments/production"):
            client.get("a")
        assert client.get("a", default=None) is None
        assert client.get_all() == {}
        assert client.status.state == "connecting"
        with pytest.raises(TimeoutError, match=re.escape(NOBODY)):
            client.wait_ready(0.05)


def test_a_time_may_be_longer_than_anybody_waits() -> None:
    with client_of(NOBODY, start_timeout_s=1e10) as client, ThreadPoolExecutor(2) as pool:
        read, ready = pool.submit(client.get, "a", 1), pool.submit(client.wait_ready, float("inf"))
        eventually_sync(lambda: client.status.last_error)
        assert not read.done()
        client.close()
        assert read.result(20) == 1
        with pytest.raises(ClientClosed):
            ready.result(20)


def test_many_threads_read_whole_values_while_they_change() -> None:
    steps: list[Any] = [change(n, {"a": [n, n]}) for n in range(2, 300)]
    with Service([snapshot({"a": [1, 1]}, 1), *steps, HOLD]).run_in_thread() as service, client_of(service) as client:

        def read() -> list[int]:
            seen = []
            while not seen or seen[-1] < 299:
                one, other = client.get("a")
                assert one == other
                seen.append(one)
            return seen

        with ThreadPoolExecutor(4) as pool:
            for seen in [future.result(30) for future in [pool.submit(read) for _ in range(4)]]:
                assert seen == sorted(seen)


def test_callbacks_run_in_order_on_their_own_thread_and_a_blocked_one_holds_up_nothing() -> None:
    go, block = Wait(), threading.Event()
    steps = [change(n, {"a": n}) for n in range(2, 20)]
    service = Service([snapshot({"a": 1}, 1), go, *steps, Beat(status(20))])
    with service.run_in_thread(), client_of(service) as client:
        seen: list[tuple[Any, str]] = []

        def callback(change: ConfigChange) -> None:
            block.wait(30)
            seen.append((change.new, threading.current_thread().name))
            if change.new == 5:
                raise RuntimeError("from the application")

        client.wait_ready(10)
        client.on_change(callback)
        go.go()
        eventually_sync(lambda: client.get("a") == 19)
        assert seen == []
        assert client.status.state == "live"
        block.set()
        eventually_sync(lambda: len(seen) == 18)
        assert [new for new, _ in seen] == list(range(2, 20))
        assert {name for _, name in seen} == {"configsvc-callbacks"}


class Outcome(BaseException):
    """As test frameworks and greenlets raise it."""


@pytest.mark.parametrize("error", [Outcome, asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_a_callback_raises_harms_nothing(error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    go = Wait()
    with (
        Service([snapshot({}, 1), go, change(2, {"a": 1}), change(3, {"a": 2}), HOLD]).run_in_thread() as service,
        client_of(service) as client,
    ):
        client.wait_ready(10)
        seen: list[Any] = []

        def bad(_: ConfigChange) -> None:
            raise error("from the application")

        client.on_change(bad)
        client.on_change(lambda change: seen.append(change.new))
        go.go()
        eventually_sync(lambda: seen == [1, 2])
        assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
        assert {sample.name: sample.value for sample in client.metrics()}["configsvc_client_callback_errors_total"] == 2


def test_a_callback_may_close_its_client_and_the_thread_ends() -> None:
    go = Wait()
    with (
        Service([snapshot({"a": 1}, 1), go, change(2, {"a": 2, "b": 2}), HOLD]).run_in_thread() as service,
        client_of(service) as client,
    ):
        client.wait_ready(10)
        seen = []

        def callback(change: ConfigChange) -> None:
            seen.append((change.key, threading.current_thread()))
            client.close()

        client.on_change(callback)
        go.go()
        eventually_sync(lambda: client.status.state == "closed")
        eventually_sync(lambda: not seen[0][1].is_alive())
        assert [key for key, _ in seen] == ["a"]
        assert client.get("a") == 2


def test_it_resumes_after_a_loss() -> None:
    scripts: list[Any] = [[snapshot({"a": 1}, 1), CUT], [change(2, {"a": 2}), HOLD]]
    with Service(*scripts).run_in_thread() as service, client_of(service) as client:
        eventually_sync(lambda: client.status.revision == 2)
        assert client.get("a") == 2


def test_closing_wakes_who_waits_and_ends_the_thread() -> None:
    with (
        Service([Beat(status(0, "starting", with_id=False))]).run_in_thread() as service,
        client_of(service, start_timeout_s=60) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        reading = pool.submit(client.get, "a", 7)
        waiting = pool.submit(client.wait_ready, 60)
        eventually_sync(lambda: service.watches)
        thread = client._worker._link_thread
        client.close()
        assert not thread.is_alive()
        assert reading.result(10) == 7
        with pytest.raises(ClientClosed):
            waiting.result(10)
        client.close()
        assert client.get("a", default=1) == 1


def test_nothing_is_ready_once_the_client_is_closed() -> None:
    with Service([snapshot({"a": 1}, 1), HOLD]).run_in_thread() as service, client_of(service) as client:
        client.wait_ready(10)
        client.close()
        with pytest.raises(ClientClosed):
            client.wait_ready(10)
        assert client.get("a") == 1


def test_a_client_that_was_dropped_ends_its_thread() -> None:
    with Service([snapshot({"a": 1}, 1), HOLD]).run_in_thread() as service:
        client = ConfigClient(service.url, tuning=FAST, **SCOPE)
        client.on_change(print)
        client.wait_ready(10)
        threads = [client._worker._link_thread, client._worker._callback_thread]
        del client
        gc.collect()
        eventually_sync(lambda: not any(thread and thread.is_alive() for thread in threads))


async def test_a_read_that_waits_inside_a_running_loop_warns_once() -> None:
    with client_of(NOBODY, start_timeout_s=0.05) as client:
        with pytest.warns(RuntimeWarning, match="AsyncConfigClient") as caught:
            client.get("a", default=1)
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            client.get("a", default=1)
    async with Service([snapshot({"a": 1}, 1), HOLD]).run() as service:
        with client_of(service) as client:
            await asyncio.to_thread(client.wait_ready, 10)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert client.get("a") == 1


def test_a_defect_ends_the_link_not_the_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    go = Wait()
    with Service([snapshot({"a": 1}, 1), go, status(1), HOLD]).run_in_thread() as service:
        client = ConfigClient(service.url, tuning=FAST, **SCOPE)
        client.wait_ready(10)

        def broken(_: Link) -> None:
            raise AssertionError("a defect")

        monkeypatch.setattr(Link, "_log_return", broken)
        go.go()
        eventually_sync(lambda: "a defect" in (client.status.last_error or ""))
        assert client.get("a") == 1
        with pytest.raises(LinkFailed, match="a defect"):
            client.wait_ready(1)
        with pytest.raises(LinkFailed, match="a defect"):
            client.close()


def test_a_token_file_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    code = (
        "import sys, time, threading; from configsvc_client import ConfigClient\n"
        "scope = dict(namespace='n', environment='e', cache_dir='off', start_timeout_s=0)\n"
        "clients = [ConfigClient('http://127.0.0.1:9', token_file=sys.argv[1], **scope) for _ in range(5)]\n"
        "until = time.monotonic() + 20\n"
        "def reading(): return [one for one in threading.enumerate() if one.name == 'configsvc-token']\n"
        "while len(reading()) < 5 and time.monotonic() < until: time.sleep(0.01)\n"
        "from configsvc_client import worker; worker._stop_all()\n"
        "print([one.is_alive() for one in threading.enumerate() if one.name == 'configsvc-link'])\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "token")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize("url", ["", "http://does-not-exist.invalid:1", NOBODY])
def test_a_program_that_forgets_to_close_ends_quietly(url: str) -> None:
    with Service([snapshot({"a": 1}, 1), HOLD]).run_in_thread() as service:
        code = (
            "import logging, sys; logging.disable()\n"
            "from configsvc_client import ConfigClient\n"
            "scope = dict(namespace='payments', environment='production')\n"
            "client = ConfigClient(sys.argv[1], start_timeout_s=float(sys.argv[2]), **scope)\n"
            "client.on_change(print)\n"
            "print(client.get('a', default=0))\n"
        )
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", code, url or service.url, "0.5" if url else "30"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == ("1\n" if not url else "0\n")
