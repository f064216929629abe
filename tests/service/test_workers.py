"""`configsvc serve` with several workers: real processes on one port, and what happens when one of them ends."""

import http.client
import json
import os
import re
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from configsvc.core.model import Scope
from configsvc.etcd.local import LocalEtcd
from configsvc.settings import SettingsError, parse
from tests.cli.commands import CONFIGSVC, run, until
from tests.support.etcd import newest, options
from tests.support.process import Hand, ServiceProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

CONNECTIONS = 60
TIMEOUT_S = 20.0


@pytest.fixture
def hand(any_etcd: LocalEtcd) -> Hand:
    hand = Hand(any_etcd)
    hand.write({"a": 1})
    return hand


@contextmanager
def serving(folder: Path, scope: Scope, url: str, *, ready: bool = True, **more: str) -> Iterator[ServiceProcess]:
    settings = {"SERVICE_NAME": scope.namespace, "ETCD_ENDPOINTS": url, "CONFIGSVC_HEARTBEAT_S": "0.5"}
    with ServiceProcess(folder, **settings | {"CONFIGSVC_WORKERS": "2"} | more) as service:
        service.start(ready=ready)
        yield service


@pytest.fixture
def service(any_etcd: LocalEtcd, hand: Hand, tmp_path: Path) -> Iterator[ServiceProcess]:
    """Two workers that are ready."""
    with serving(tmp_path, hand.scope, any_etcd.url) as service:
        yield service


# ---- processes ---------------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers(service: ServiceProcess) -> list[int]:
    """The workers' process ids, in no order."""
    return children(service.running.process.pid)


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


# ---- requests ----------------------------------------------------------------------------------------------------


class Connection:
    """One connection that stays open, and the worker that has it."""

    def __init__(self, service: ServiceProcess) -> None:
        host, port = service.url.removeprefix("http://").split(":")
        self._http = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def get(self, path: str) -> tuple[int, bytes]:
        self._http.request("GET", path)
        answer = self._http.getresponse()
        return answer.status, answer.read()

    def worker(self) -> int:
        """The number of the worker that answers here."""
        found = re.search(r"this is number (\d+)", self.get("/health")[1].decode())
        assert found
        return int(found[1])

    def metrics(self) -> dict[str, float]:
        lines = self.get("/metrics")[1].decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def events(self, path: str, **headers: str) -> "Events":
        """Begin a stream."""
        self._http.request("GET", path, headers=headers)
        return Events(self._http.getresponse())


class Events:
    """The events of a stream, as they come."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        assert answer.status == 200
        self._answer = answer

    def next(self, wanted: Callable[[dict[str, str]], bool] = lambda event: True) -> dict[str, str]:
        """The next event that is wanted."""
        event: dict[str, str] = {}
        for line in self._answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                event[name] = value
            elif "event" in event and wanted(event):
                return event
            else:
                event = {}
        raise AssertionError("the stream ended")

    def rest(self) -> bytes:
        return self._answer.read()


def connect(stack: ExitStack, service: ServiceProcess, count: int = CONNECTIONS) -> list[tuple[int, Connection]]:
    """So many connections, each with its worker's number."""
    connections = [stack.enter_context(Connection(service)) for _ in range(count)]
    return [(connection.worker(), connection) for connection in connections]


def one_of_each(stack: ExitStack, service: ServiceProcess) -> dict[int, Connection]:
    """A connection to each of the two workers."""
    found = dict(connect(stack, service))
    assert set(found) == {1, 2}
    return found


def pid_of(service: ServiceProcess, number: int) -> int:
    """The process of a worker, found by making it say which one it is: its descriptors tell whose port it has."""
    with ExitStack() as stack:
        connection = one_of_each(stack, service)[number]
        port = connection._http.sock.getsockname()[1]
        ours = Path("/proc/net/tcp").read_text().splitlines()[1:]
        server = service.url.rpartition(":")[2]
        for line in ours:
            fields = line.split()
            local, remote, inode = fields[1].split(":")[1], fields[2].split(":")[1], fields[9]
            if (int(local, 16), int(remote, 16)) == (int(server), port):
                return next(pid for pid in workers(service) if f"socket:[{inode}]" in links(pid))
    raise AssertionError("no such connection")


def links(pid: int) -> set[str]:
    folder = f"/proc/{pid}/fd"
    found = set()
    for name in os.listdir(folder):
        try:
            found.add(os.readlink(f"{folder}/{name}"))
        except OSError:
            continue
    return found


def total(metrics: dict[str, float], name: str) -> float:
    return sum(value for sample, value in metrics.items() if sample.partition("{")[0] == name)


def restarted(service: ServiceProcess, times: int = 1) -> Callable[[], bool]:
    """Whether so many workers were replaced, and all are there."""

    def look() -> bool:
        ready = [line for line in service.log() if line["event"].startswith("ready")]
        return len(workers(service)) == 2 and len(ready) >= 2 + times

    return look


# ---- one port, several workers -----------------------------------------------------------------------------------


def test_connections_are_spread_and_each_line_of_the_log_says_whose_it_is(service: ServiceProcess) -> None:
    with ExitStack() as stack:
        shares = Counter(number for number, _ in connect(stack, service, 200))
    assert set(shares) == {1, 2}
    # Half each, by chance: fewer than a quarter happens once in 10^12 runs.
    assert min(shares.values()) >= 50, shares
    assert len(workers(service)) == 2
    assert service.stop() == 0
    lines = service.log()
    assert {line["worker"] for line in lines if line["event"] == "ready"} == {1, 2}
    first, last = lines[0], lines[-1]
    assert ("worker" not in first, first["workers"], first["address"]) == (True, 2, service.url)
    assert (last["event"], last["code"], "worker" in last) == ("stopped", 0, False)


def test_one_worker_has_no_parent(any_etcd: LocalEtcd, hand: Hand, tmp_path: Path) -> None:
    with serving(tmp_path, hand.scope, any_etcd.url, CONFIGSVC_WORKERS="1") as service:
        assert workers(service) == []
        with Connection(service) as connection:
            assert "workers" not in json.loads(connection.get("/health")[1])["checks"]
            assert connection.metrics()["configsvc_workers"] == 1
        assert service.stop() == 0
        assert [line for line in service.log() if "worker" in line] == []


def test_whichever_worker_is_asked_answers_for_all(service: ServiceProcess, hand: Hand) -> None:
    wanted = 'configsvc_http_requests_total{method="GET",route="/v1/config/{ns}/{env}/{key}",status="200"}'
    with ExitStack() as stack:
        both = one_of_each(stack, service)
        sent = 0
        for _ in range(5):
            for connection in both.values():
                for _ in range(3):
                    assert connection.get(f"/v1/config/{hand.scope}/a")[0] == 200
                    sent += 1
                # At once, and at either of them: not only after some interval.
                for asked in both.values():
                    metrics = asked.metrics()
                    assert metrics[wanted] == sent
                    name = "configsvc_http_request_duration_seconds"
                    labels = 'route="/v1/config/{ns}/{env}/{key}",status="200"'
                    assert metrics[f"{name}_count{{{labels}}}"] == sent
        assert metrics["configsvc_workers"] == 2
        assert metrics["configsvc_ready"] == 1
        assert metrics["configsvc_scopes"] == 1, "two workers have the same scope"
        assert total(metrics, "configsvc_build_info") == 1
        proved = {asked.metrics()["configsvc_revision"] for asked in both.values()}
        assert min(proved) >= hand.revisions[-1]

        path = f"/v1/watch/{hand.scope}"
        streams = [stack.enter_context(Connection(service)).events(path) for _ in range(20)]
        for stream in streams:
            stream.next()
        for asked in both.values():
            assert asked.metrics()['configsvc_subscribers{transport="sse"}'] == 20


def test_writes_are_read_at_every_worker(service: ServiceProcess, hand: Hand) -> None:
    with ExitStack() as stack:
        both = one_of_each(stack, service)
        for value in range(30):
            revision = hand.write({"a": value})
            for connection in both.values():
                status, body = connection.get(f"/v1/config/{hand.scope}/a?min_revision={revision}")
                assert (status, json.loads(body)["value"]) == (200, value)


def test_a_stream_that_resumes_at_another_worker_never_goes_back(service: ServiceProcess, hand: Hand) -> None:
    with ExitStack() as stack:
        stream = stack.enter_context(Connection(service)).events(f"/v1/watch/{hand.scope}")
        stream.next(lambda event: event["event"] == "snapshot")
        for value in range(100, 112):
            revision = hand.write({"a": value})
            last = stream.next(lambda event: event["event"] == "change")["id"]
            assert int(last.split(":")[1]) == revision
            for _ in range(2):
                with Connection(service) as other:
                    events = other.events(f"/v1/watch/{hand.scope}", **{"Last-Event-ID": last})
                    # `behind` has no id and may come first; whatever has one is not older.
                    event = events.next(lambda event: "id" in event)
                    assert event["event"] == "status", "it has missed nothing"
                    assert int(event["id"].split(":")[1]) >= revision


# ---- a worker ends -----------------------------------------------------------------------------------------------


def test_a_killed_worker_harms_no_other_and_is_replaced(service: ServiceProcess, hand: Hand) -> None:
    path = f"/v1/config/{hand.scope}"
    stop, refused, broken = threading.Event(), [], []
    totals: list[float] = []

    def load() -> None:
        while not stop.is_set():
            try:
                with Connection(service) as connection:
                    for _ in range(10):
                        assert connection.get(path)[0] == 200
            except ConnectionRefusedError as error:
                refused.append(error)
            except (OSError, http.client.HTTPException) as error:
                broken.append(error)

    def scrape() -> None:
        while not stop.is_set():
            try:
                with Connection(service) as connection:
                    totals.append(total(connection.metrics(), "configsvc_http_requests_total"))
            except (OSError, http.client.HTTPException) as error:
                broken.append(error)

    with ExitStack() as stack:
        both = one_of_each(stack, service)
        stream = stack.enter_context(Connection(service))
        while stream.worker() != 2:
            stream = stack.enter_context(Connection(service))
        events = stream.events(f"/v1/watch/{hand.scope}")
        victim, other = pid_of(service, 1), pid_of(service, 2)
        threads = [threading.Thread(target=one) for one in (load, load, load, scrape)]
        for thread in threads:
            thread.start()
        service.running.until("there is load", lambda: len(totals) > 5)
        before = len(totals)
        os.kill(victim, signal.SIGKILL)
        service.running.until("it is replaced", restarted(service))
        service.running.until("there were scrapes since", lambda: len(totals) > before + 10)
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT_S)

        assert refused == [], "nobody is sent away"
        # Each thread has one connection at a time, and the victim had some of them.
        assert len(broken) <= len(threads), broken
        assert totals == sorted(totals), "totals never go back"
        assert other in workers(service)
        assert both[2].get(path)[0] == 200, "the same connection as before"
        revision = hand.write({"a": 2})
        assert events.next(lambda event: event["event"] == "change")["id"].endswith(f":{revision}")
        metrics = both[2].metrics()
        assert (metrics["configsvc_workers"], metrics["configsvc_worker_restarts_total"]) == (2, 1)
    [line] = [line for line in service.log() if "takes its place" in line["event"]]
    assert (line["level"], line["number"], line["how"]) == ("error", 1, "signal 9")
    assert service.stop() == 0


def test_who_waits_in_a_dead_workers_queue_is_answered_by_its_successor(service: ServiceProcess, hand: Hand) -> None:
    victim = pid_of(service, 1)
    os.kill(victim, signal.SIGSTOP)
    host, port = service.url.removeprefix("http://").split(":")
    request = f"GET /v1/config/{hand.scope}/a?raw=true HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode()
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection((host, int(port)), TIMEOUT_S)) for _ in range(40)]
        for sock in sockets:
            sock.sendall(request)
        waiting = [sock for sock in sockets if not answered_within(sock, 0.2)]
        assert waiting, "some of forty come to the one that stands still"
        os.kill(victim, signal.SIGKILL)
        for sock in waiting:
            answer = b""
            while chunk := sock.recv(4096):
                answer += chunk
            assert answer.startswith(b"HTTP/1.1 200"), answer
            assert answer.endswith(b"\r\n\r\n1"), answer


def answered_within(sock: socket.socket, timeout_s: float) -> bool:
    sock.settimeout(timeout_s)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        sock.settimeout(TIMEOUT_S)


def test_what_a_dead_worker_had_counted_stays(service: ServiceProcess, hand: Hand) -> None:
    name = 'configsvc_http_requests_total{method="GET",route="/v1/config/{ns}/{env}/{key}",status="200"}'
    with ExitStack() as stack:
        both = one_of_each(stack, service)
        for connection in both.values():
            for _ in range(10):
                assert connection.get(f"/v1/config/{hand.scope}/a")[0] == 200
        assert both[2].metrics()[name] == 20
        for times, number in enumerate((1, 1, 2), 1):
            os.kill(pid_of(service, number), signal.SIGKILL)
            service.running.until("it is replaced", restarted(service, times))
            with ExitStack() as again:
                seen = {asked.metrics()[name] for asked in one_of_each(again, service).values()}
            assert seen == {20}


def test_a_worker_told_to_stop_leaves_in_good_order_and_is_replaced(service: ServiceProcess, hand: Hand) -> None:
    with ExitStack() as stack:
        stream = one_of_each(stack, service)[1].events(f"/v1/watch/{hand.scope}")
        victim = pid_of(service, 1)
        os.kill(victim, signal.SIGTERM)
        assert b'"state":"draining"' in stream.rest()
        service.running.until("it is replaced", restarted(service))
        assert victim not in workers(service)
    [line] = [line for line in service.log() if "takes its place" in line["event"]]
    assert (line["level"], line["how"]) == ("warning", "exit code 0")
    assert service.stop() == 0


def test_restarts_leave_nothing_behind(any_etcd: LocalEtcd, hand: Hand, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with serving(tmp_path, hand.scope, any_etcd.url, TMPDIR=str(temporary)) as service:
        parent = service.running.process.pid
        until("idle", lambda: len({descriptors(pid) for pid in workers(service)}) == 1)
        before, each = descriptors(parent), descriptors(workers(service)[0])
        for times in range(1, 7):
            os.kill(workers(service)[0], signal.SIGKILL)
            service.running.until("it is replaced", restarted(service, times))
        assert descriptors(parent) == before
        service.running.until("they are as before", lambda: {descriptors(pid) for pid in workers(service)} == {each})
        assert list(temporary.iterdir()) == []
        assert service.stop() == 0
        assert list(temporary.iterdir()) == []


# ---- the service ends --------------------------------------------------------------------------------------------


def test_no_worker_outlives_its_parent(service: ServiceProcess, hand: Hand) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(Connection(service)).events(f"/v1/watch/{hand.scope}") for _ in range(10)]
        for stream in streams:
            stream.next()
        orphans = workers(service)
        service.kill()
        until("they are gone", lambda: not any(alive(pid) for pid in orphans))
        # Told, not cut off.
        assert all(b'"state":"draining"' in stream.rest() for stream in streams)
    service.start()
    assert service.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_all_workers(number: signal.Signals, service: ServiceProcess, hand: Hand) -> None:
    with ExitStack() as stack:
        streams = [c.events(f"/v1/watch/{hand.scope}") for c in one_of_each(stack, service).values()]
        for stream in streams:
            stream.next()
        assert service.stop(number) == 0
        assert all(b'"state":"draining"' in stream.rest() for stream in streams)
    assert [line for line in service.log() if line["level"] in ("error", "critical")] == []
    assert sorted(line.get("worker", 0) for line in service.log() if line["event"] == "stopped") == [0, 1, 2]


def test_a_terminals_interrupt_reaches_all_and_counts_once(service: ServiceProcess, hand: Hand) -> None:
    with ExitStack() as stack:
        streams = [c.events(f"/v1/watch/{hand.scope}") for c in one_of_each(stack, service).values()]
        for pid in workers(service):
            os.kill(pid, signal.SIGINT)
        for pid in workers(service):
            # As a service manager does that signals every process of the group.
            os.kill(pid, signal.SIGTERM)
        assert service.stop(signal.SIGTERM) == 0
        assert all(b'"state":"draining"' in stream.rest() for stream in streams)
    assert [line for line in service.log() if "at once" in line["event"]] == []


def test_a_second_signal_ends_the_waiting(any_etcd: LocalEtcd, hand: Hand, tmp_path: Path) -> None:
    hand.write({f"large-{number}": "x" * 900_000 for number in range(1)})
    with (
        serving(tmp_path, hand.scope, any_etcd.url, CONFIGSVC_DRAIN_S="3600") as service,
        ExitStack() as stack,
    ):
        host, port = service.url.removeprefix("http://").split(":")
        for _ in range(10):
            sock = stack.enter_context(socket.socket())
            # An answer that its reader does not take: the drain waits for it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((host, int(port)))
            sock.sendall(f"GET /v1/config/{hand.scope} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            assert sock.recv(1)
        service.running.process.send_signal(signal.SIGTERM)
        service.running.until("both drain", lambda: sum(line["event"] == "stopping" for line in service.log()) == 3)
        assert service.running.process.poll() is None
        assert service.stop(signal.SIGTERM) == 0
        assert any(line["event"] == "stopping at once" for line in service.log())


# ---- the start ---------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_told_once(service: ServiceProcess, hand: Hand, tmp_path: Path) -> None:
    """Also by a service that shares it among its own workers."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        addresses = [f"127.0.0.1:{taken.getsockname()[1]}", service.url.removeprefix("http://")]
        for workers_wanted in ("1", "2"):
            for address in addresses:
                more = {"CONFIGSVC_LISTEN": address, "CONFIGSVC_WORKERS": workers_wanted}
                done = run(*CONFIGSVC, "serve", cwd=tmp_path, SERVICE_NAME="demo", **more)
                assert done.returncode == 69, done.stderr
                assert done.stderr.count(f"cannot listen on {address}") == 1


@pytest.mark.parametrize("wrong", ["0", "65", "two", "-1", ""])
def test_a_wrong_number_is_a_wrong_setting(wrong: str, tmp_path: Path) -> None:
    done = run(*CONFIGSVC, "serve", cwd=tmp_path, SERVICE_NAME="demo", CONFIGSVC_WORKERS=wrong)
    assert done.returncode == 78
    assert [line for line in done.stderr.splitlines() if line.startswith("configsvc: CONFIGSVC_WORKERS: ")]


def test_more_than_one_is_a_wrong_setting_where_the_system_cannot_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("configsvc.settings.sys.platform", "darwin")
    assert parse({"SERVICE_NAME": "demo", "CONFIGSVC_WORKERS": "1"}).workers == 1
    with pytest.raises(SettingsError) as error:
        parse({"SERVICE_NAME": "demo", "CONFIGSVC_WORKERS": "2"})
    assert error.value.problems == [
        "CONFIGSVC_WORKERS: more than one process on a port needs Linux; leave it at 1 on this system"
    ]


def test_what_only_shows_in_use_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("garbage")
    more = {"ETCD_ENDPOINTS": "127.0.0.1:1", "ETCD_CACERT": "ca.pem", "CONFIGSVC_WORKERS": "2"}
    done = run(*CONFIGSVC, "serve", cwd=tmp_path, SERVICE_NAME="demo", CONFIGSVC_LISTEN="127.0.0.1:0", **more)
    assert done.returncode == 78
    assert done.stderr.count("ca.pem") == 1
    assert "Traceback" not in done.stderr


def test_no_data_in_time_is_exit_69(tmp_path: Path) -> None:
    more = {"ETCD_ENDPOINTS": "127.0.0.1:1", "CONFIGSVC_WORKERS": "2", "CONFIGSVC_START_TIMEOUT_S": "0.2"}
    done = run(*CONFIGSVC, "serve", cwd=tmp_path, SERVICE_NAME="demo", CONFIGSVC_LISTEN="127.0.0.1:0", **more)
    assert done.returncode == 69, done.stderr
    assert "nothing could be read from etcd within 0.2 s" in done.stderr
    assert "takes its place" not in done.stderr
    assert "Traceback" not in done.stderr


def test_it_waits_for_etcd_and_a_later_restart_has_no_time_limit(tmp_path: Path) -> None:
    with LocalEtcd(options=options(newest())) as etcd:
        hand = Hand(etcd)
        hand.write({"a": 1})
        cache = tmp_path / "cache"
        more = {"CONFIGSVC_CACHE_DIR": str(cache), "CONFIGSVC_START_TIMEOUT_S": "30"}
        with serving(tmp_path, hand.scope, etcd.url, **more) as service:
            service.running.until("it is on disk", lambda: any(cache.rglob("*.cache")))
            etcd.members[0].kill()
            for pid in workers(service):
                os.kill(pid, signal.SIGKILL)
            service.running.until("both are replaced", restarted(service, 2))
            with ExitStack() as stack:
                for connection in one_of_each(stack, service).values():
                    status, body = connection.get(f"/v1/config/{hand.scope}")
                    assert (status, json.loads(body)["values"]) == (200, {"a": 1})
            etcd.members[0].restart()
            hand.write({"a": 2})
            with ExitStack() as stack:
                for connection in one_of_each(stack, service).values():
                    until("it is live", lambda c=connection: b'"a":2' in c.get(f"/v1/config/{hand.scope}")[1])
            assert service.stop() == 0


def test_it_is_alive_and_not_ready_while_etcd_is_away(tmp_path: Path) -> None:
    with serving(tmp_path, Scope("demo", "production"), "127.0.0.1:1", ready=False) as service:
        with ExitStack() as stack:
            for connection in one_of_each(stack, service).values():
                assert connection.get("/health/live")[0] == 200
                status, body = connection.get("/health/ready")
                checks: dict[str, Any] = json.loads(body)["checks"]
                assert (status, checks["workers"]["status"]) == (503, "degraded")
                assert checks["workers"]["detail"].startswith("0 of 2 have data")
        assert service.stop() == 0
