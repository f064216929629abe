"""Python's own ways to make a process, each as a program: `python -m tests.processes.models NAME`."""

import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.processes.app import FOLDER, config, report

WAIT_S = 30.0


def wait_told() -> None:
    """Until this process has left its report."""
    until = time.monotonic() + WAIT_S
    while not (FOLDER / f"{os.getpid()}.json").exists() and time.monotonic() < until:
        time.sleep(0.01)


def read_until_changed() -> None:
    """For a process without callbacks: it only reads."""
    until = time.monotonic() + WAIT_S
    while config.get("a") != 2 and time.monotonic() < until:
        time.sleep(0.01)
    report(None, config.get("a"))


def child(_: int = 0) -> int:
    """What each child does."""
    if config.status.state == "closed":
        raise AssertionError("the client is closed")
    if os.environ.get("TEST_CALLBACK", "1") == "1":
        wait_told()
    else:
        read_until_changed()
    return os.getpid()


def end(number: int) -> None:
    """The end of a child, in its parent."""
    _, status = os.waitpid(number, 0)
    if status:
        raise SystemExit(f"a child ended with {status}")


def forked(act: object) -> int:
    """Fork as programs do: the child runs something and ends."""
    if number := os.fork():
        return number
    status = 1
    try:
        act()  # type: ignore[operator]
        status = 0
    finally:
        os._exit(status)


def os_fork() -> None:
    children = [forked(child) for _ in range(2)]
    child()
    for number in children:
        end(number)


def fork_of_a_fork() -> None:
    def middle() -> None:
        number = forked(child)
        child()
        end(number)

    number = forked(middle)
    child()
    end(number)


def daemon() -> None:
    """A child that outlives its parent, as daemons are made."""

    def leave() -> None:
        os.setsid()
        if os.fork() == 0:
            child()
            os._exit(0)

    end(forked(leave))
    child()


def fork_before_first_use() -> None:
    os_fork()


def fork_in_thread() -> None:
    from threading import Thread

    thread = Thread(target=os_fork)
    thread.start()
    thread.join()


def child_that_returns() -> None:
    """A child that ends by itself, through the interpreter's exit."""
    number = os.fork()
    child()
    if number:
        end(number)


def multiprocess(method: str) -> None:
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=child) for _ in range(2)]
    for process in processes:
        process.start()
    child()
    for process in processes:
        process.join(WAIT_S)
        if process.exitcode:
            raise SystemExit(f"a process ended with {process.exitcode}")


def executor() -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        # Two processes, because each is busy until it has heard.
        list(pool.map(child, range(2)))
        child()


def subprocess_beside() -> None:
    """A program started in between takes nothing along."""
    import subprocess

    config.get("a")
    code = (
        "import os; numbers = [int(name) for name in os.listdir('/proc/self/fd')]; "
        "print([n for n in numbers if n > 2 and os.path.exists(f'/proc/self/fd/{n}')])"
    )
    if subprocess.check_output([sys.executable, "-c", code], text=True).strip() != "[]":
        raise SystemExit("a subprocess has inherited descriptors")
    child()


MODELS = {
    "os.fork": os_fork,
    "os.fork before first use": fork_before_first_use,
    "os.fork in a thread": fork_in_thread,
    "a fork of a fork": fork_of_a_fork,
    "a child that returns": child_that_returns,
    "a daemon": daemon,
    "multiprocessing fork": lambda: multiprocess("fork"),
    "multiprocessing spawn": lambda: multiprocess("spawn"),
    "multiprocessing forkserver": lambda: multiprocess("forkserver"),
    "ProcessPoolExecutor": executor,
    "subprocess": subprocess_beside,
}

if __name__ == "__main__":
    # A child that hangs must not outlive the test.
    signal.alarm(60)
    MODELS[sys.argv[1]]()
