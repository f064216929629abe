"""Many streams and many reads at once: nothing is lost, refused or left behind. How fast it is, the bench says.

`CONFIGSVC_TEST_LOAD` says how many streams (300; up to 9,000, with files to match: `ulimit -n`).
"""

import json
import os
import re
import resource
import sys
import threading
import time
import urllib.request

import pytest

from bench.processes import Child, peak_mib, rss_mib
from tests.cli.commands import until
from tests.support.process import ServiceProcess, sidecar

STREAMS = int(os.environ.get("CONFIGSVC_TEST_LOAD", "300"))
KEY = "counter"
MOST_KIB = 64.0
"""For each stream: three times what the documentation says, because small numbers are coarse."""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="epoll, /proc"),
    pytest.mark.timeout(600),
]


@pytest.fixture(autouse=True)
def many_files():
    """As many descriptors as the system lets us have, for service and load alike."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < STREAMS + 200:
        pytest.fail(f"{STREAMS} streams need more files than the {before[1]} that a process may open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def metric(process: ServiceProcess, name: str) -> dict[str, float]:
    """The samples of a metric, by their labels."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(process.url + "/metrics") as answer:
        text = answer.read().decode()
    return {labels: float(value) for labels, value in re.findall(rf"^{name}(\S*) (\S+)$", text, re.MULTILINE)}


def descriptors(process: ServiceProcess) -> int:
    return len(os.listdir(f"/proc/{process.running.process.pid}/fd"))


def port(process: ServiceProcess) -> int:
    return int(process.url.rpartition(":")[2])


def test_every_stream_has_every_change_and_leaves_nothing_behind(any_etcd, tmp_path):
    with sidecar(any_etcd, tmp_path, {KEY: "before"}, heartbeat_s=5) as (process, hand):
        pid, files = process.running.process.pid, descriptors(process)
        alone_mib = rss_mib(pid)
        with Child("subscribers", tmp_path / "crowd") as crowd:
            live = crowd.ask(connect=STREAMS, port=port(process), path=f"/v1/watch/{hand.scope}")
            assert live["statuses"] == {"200": STREAMS}
            assert (rss_mib(pid) - alone_mib) * 1024 / STREAMS < MOST_KIB
            for number in range(20):
                marker = f"change-{number}-of-{time.monotonic_ns()}"
                assert crowd.ask(expect=marker)["armed"] == STREAMS
                hand.write({KEY: marker})
                assert crowd.answer()["last_ns"] > 0
            assert metric(process, "configsvc_subscribers")['{transport="sse"}'] == STREAMS
        until("all streams are gone", lambda: not any(metric(process, "configsvc_subscribers").values()))
        until("their descriptors are free", lambda: descriptors(process) <= files + 1)
        assert not any(metric(process, "configsvc_slow_streams_closed_total").values())


def test_a_crowd_comes_back_after_a_restart_and_nobody_is_turned_away(any_etcd, tmp_path):
    values = {f"key-{n}": "x" * 2000 for n in range(100)}
    with sidecar(any_etcd, tmp_path, values, heartbeat_s=5) as (process, hand):
        with Child("subscribers", tmp_path / "crowd") as crowd:
            crowd.ask(connect=STREAMS, port=port(process), path=f"/v1/watch/{hand.scope}")
            crowd.ask(again=True)
            process.kill()
            hand.write({"key-0": "meanwhile"})
            process.start()
            live = crowd.answer()
            assert live["live"] == STREAMS
            # Who knocks at a process that dies or is not there yet is told so by the system; an answer is a 200.
            assert {status: many for status, many in live["statuses"].items() if status.isdigit()} == {"200": STREAMS}
        # All of the scope for each at once: what is shared is not held for each.
        scope_mib = sum(map(len, values.values())) / 2**20
        assert peak_mib(process.running.process.pid) < 120 + STREAMS * min(scope_mib, MOST_KIB / 1024)


def test_reads_meanwhile_are_answered_with_what_was_written(any_etcd, tmp_path):
    with sidecar(any_etcd, tmp_path, {KEY: 0}, heartbeat_s=5) as (process, hand):
        url = f"{process.url}/v1/config/{hand.scope}/{KEY}?raw=true"
        over, wrong = threading.Event(), []

        def read() -> None:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            seen = 0
            while not over.is_set():
                with opener.open(url) as answer:
                    value = json.load(answer)
                if value < seen:
                    wrong.append((seen, value))
                seen = value

        readers = [threading.Thread(target=read) for _ in range(8)]
        with Child("subscribers", tmp_path / "crowd") as crowd:
            crowd.ask(connect=STREAMS, port=port(process), path=f"/v1/watch/{hand.scope}")
            for one in readers:
                one.start()
            try:
                for number in range(1, 101):
                    hand.write({KEY: number})
            finally:
                over.set()
                for one in readers:
                    one.join()
        assert wrong == []
        revision = hand.write({KEY: 101})
        with urllib.request.urlopen(f"{url}&min_revision={revision}") as answer:
            assert json.load(answer) == 101
        counts = metric(process, "configsvc_http_requests_total")
        # Whoever waited for it to be ready was told that it was not yet.
        assert [labels for labels in counts if 'status="5' in labels and "/health" not in labels] == []
