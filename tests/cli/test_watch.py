"""`configsvc watch` as a process: each change once, over restarts of the service, and a quiet end."""

import json
import re
import signal
import subprocess

import pytest

from tests.cli.commands import CONFIGSVC, DEADLINE_S, Running, environ, run, until
from tests.support.process import DELETED, sidecar

WATCH = (*CONFIGSVC, "watch")


@pytest.fixture
def service(any_etcd, tmp_path):
    """A sidecar with one value, and the hand that wrote it."""
    with sidecar(any_etcd, tmp_path / "service", {"limit": 10}) as made:
        yield made


def watching(watch):
    watch.until("it watches", lambda: "configsvc: watching " in watch.err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_line_for_each_change(number, service, tmp_path):
    process, hand = service
    with Running(*WATCH, "--url", process.url, cwd=tmp_path) as watch:
        watching(watch)
        first = hand.put_raw(
            {b"/config/%s/limit" % str(hand.scope).encode(): b'{"value":20,"metadata":{"author":"ann"}}'}
        )
        hand.write({"new\u200b": "a\x1bb"})
        last = hand.delete(["limit"])
        watch.until("three lines", lambda: watch.out.count("\n") == 3)
        assert watch.stop(number) == 0
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    lines = watch.out.splitlines()
    assert re.fullmatch(rf"{time}  limit  10 -> 20  \(revision {first}\)  by ann", lines[0])
    assert re.fullmatch(rf'{time}  new\\u200b  \(none\) -> "a\\u001bb"  \(revision \d+\)', lines[1])
    assert re.fullmatch(rf"{time}  limit  20 -> \(none\)  \(revision {last}\)", lines[2])
    assert watch.err.startswith(f"configsvc: watching {hand.scope} at {process.url}, revision ")
    assert len(watch.err.splitlines()) == 1


def test_some_keys_as_json(service, tmp_path):
    process, hand = service
    with Running(*WATCH, "later", "limit", "--json", "--url", process.url, cwd=tmp_path) as watch:
        watching(watch)
        hand.write({"other": 1})
        hand.write({"later": None})
        hand.delete(["limit"])
        watch.until("two lines", lambda: watch.out.count("\n") == 2)
        assert watch.stop(signal.SIGINT) == 0
    came, went = map(json.loads, watch.out.splitlines())
    assert (came["key"], came["new"], "old" in came, came["revision"]) == ("later", None, False, hand.revisions[-2])
    assert (went["key"], went["old"], "new" in went) == ("limit", 10, False)
    assert "has no key 'later' (waiting for it)" in watch.err


def test_it_outlives_the_service(service, tmp_path):
    process, hand = service
    with Running(*WATCH, "--url", process.url, cwd=tmp_path) as watch:
        watching(watch)
        process.kill()
        watch.until("it says that it is stale", lambda: "configsvc: stale since" in watch.err)
        hand.write({"limit": 11})
        process.start()
        watch.until("it says that it is live", lambda: "configsvc: live again" in watch.err)
        watch.until("what changed meanwhile", lambda: "limit  10 -> 11" in watch.out)
        hand.write({"limit": 12})
        watch.until("the next change", lambda: "limit  11 -> 12" in watch.out)
        assert watch.stop(signal.SIGINT) == 0
    assert len(watch.out.splitlines()) == 2
    assert "Traceback" not in watch.err


def test_nobody_reads_on(service, tmp_path):
    """`configsvc watch | head -1` ends after its line, by itself and quietly."""
    process, hand = service
    errors = tmp_path / "errors"
    with errors.open("wb") as err:
        watch = subprocess.Popen(
            [*WATCH, "--url", process.url], cwd=tmp_path, env=environ(), stdout=subprocess.PIPE, stderr=err
        )
        try:
            until("it watches", lambda: "configsvc: watching " in errors.read_text())
            hand.write({"limit": 11})
            assert b"limit  10 -> 11" in watch.stdout.readline()
            watch.stdout.close()
            assert watch.wait(DEADLINE_S) == 0
        finally:
            watch.kill()
            watch.wait()
    assert len(errors.read_text().splitlines()) == 1


def test_what_a_person_must_put_right_ends_it_at_once(service, tmp_path):
    process, _ = service
    done = run(*WATCH, "--url", "http://127.0.0.1:1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (69, "configsvc: http://127.0.0.1:1: cannot connect: connection refused\n")
    done = run(*WATCH, "--url", process.url, "--namespace", "others", cwd=tmp_path)
    assert done.returncode == 77
    done = run(*WATCH, "a/b", "--url", process.url, cwd=tmp_path)
    assert done.returncode == 2


def test_deleted_and_written_again_is_two_changes(service, tmp_path):
    process, hand = service
    with Running(*WATCH, "limit", "--json", "--url", process.url, cwd=tmp_path) as watch:
        watching(watch)
        hand.write({"limit": DELETED})
        hand.write({"limit": 10})
        watch.until("two lines", lambda: watch.out.count("\n") == 2)
        assert watch.stop(signal.SIGINT) == 0
    went, came = map(json.loads, watch.out.splitlines())
    assert ("new" in went, "old" in came) == (False, False)
