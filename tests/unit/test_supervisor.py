"""The parent of workers, with workers that do what a test says; each in a process of its own."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Running, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

SCRIPT = """
import json, os, signal, sys, time
from configsvc import logs, supervisor
from configsvc.board import READY, Board

logs.configure("json", "info")
board = Board(2)

def work(number, orders, again):
{work}

{more}
sys.exit(supervisor.Supervisor(board, work, drain_s=0.1).run())
"""
SERVE = "board.set_state(number, READY); os.read(orders, 1); return 0"


def script(work: str, more: str = "") -> tuple[str, ...]:
    lines = "".join(f"    {line}\n" for line in work.splitlines())
    return sys.executable, "-c", SCRIPT.format(work=lines, more=more)


def log(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


QUICK = "supervisor.BACKOFF_S = (0.01, 0.02)"


@pytest.mark.parametrize("how", ["return 1", "raise RuntimeError('a defect')", "os.kill(os.getpid(), signal.SIGSEGV)"])
def test_it_gives_up_where_a_worker_fails_again_and_again_at_its_start(how: str, tmp_path: Path) -> None:
    done = run(*script(f"if number == 2: {how}\n{SERVE}", QUICK), cwd=tmp_path)
    assert done.returncode == 70, done.stderr
    lines = [line for line in log(done.stderr) if line.get("number") == 2]
    assert [line["event"] for line in lines if "takes its place" in line["event"]] == [
        "a worker ended; another takes its place"
    ] * 4
    assert lines[-1]["level"] == "critical"
    pauses = [line["pause_s"] for line in lines if "pause_s" in line]
    assert pauses == [0.01, 0.02, 0.02, 0.02], "longer and longer, up to a limit"


def test_a_worker_that_ends_after_it_had_data_is_replaced_again_and_again(tmp_path: Path) -> None:
    work = f"board.set_state(number, READY)\nif number == 2 and board.restarts < 20: return 70\n{SERVE}"
    with Running(*script(work, QUICK), cwd=tmp_path) as running:
        running.until("twenty ends", lambda: running.err.count("takes its place") == 20)
        assert running.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("code", [69, 78])
def test_what_would_be_the_same_again_is_not_tried_again(code: int, tmp_path: Path) -> None:
    done = run(*script(f"if number == 1: return {code}\n{SERVE}"), cwd=tmp_path)
    assert done.returncode == code
    assert "takes its place" not in done.stderr


def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    work = "board.set_state(number, READY)\nprint(number, flush=True)\nwhile True: time.sleep(60)"
    with Running(*script(work, "supervisor.GRACE_S = 0.2"), cwd=tmp_path) as running:
        running.until("both run", lambda: len(running.out.split()) == 2)
        assert running.stop(signal.SIGTERM) == 70
        killed = [line for line in log(running.err) if line["event"] == "a worker is killed"]
        assert [line["why"] for line in killed] == ["not stopped in time"] * 2


def test_a_worker_without_a_sign_of_life_is_replaced(tmp_path: Path) -> None:
    work = f"""
if number == 1 and not board.restarts:
    board.set_state(number, READY)
    while True: time.sleep(60)
import threading
def beat():
    while True:
        board.write(number, b"x")
        time.sleep(0.02)
threading.Thread(target=beat, daemon=True).start()
{SERVE}"""
    more = "supervisor.STUCK_S, supervisor.LOOK_S = 2.0, 0.1"
    with Running(*script(work, more), cwd=tmp_path) as running:
        running.until("it is replaced", lambda: "takes its place" in running.err)
        [killed] = [line for line in log(running.err) if line["event"] == "a worker is killed"]
        assert (killed["number"], killed["why"]) == (1, "stuck")
        assert running.stop(signal.SIGINT) == 0


def test_a_fork_that_fails_is_tried_again(tmp_path: Path) -> None:
    more = (
        """
fork, left = os.fork, [3]
def failing():
    left[0] -= 1
    if left[0] >= 0:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()
os.fork = failing
"""
        + QUICK
    )
    work = f"print(number, flush=True)\n{SERVE}"
    with Running(*script(work, more), cwd=tmp_path) as running:
        running.until("both run", lambda: sorted(running.out.split()) == ["1", "2"])
        assert sum(line["event"] == "a worker cannot be started" for line in log(running.err)) == 3
        assert running.stop(signal.SIGTERM) == 0
