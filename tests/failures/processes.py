"""Scenarios of real processes: the service and etcd that end, freeze and come back, and an application that sleeps."""

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from typing import Any

from configsvc.etcd.local import LocalEtcd
from configsvc_client.testing import ConfigServer
from tests.cli.commands import DEADLINE_S
from tests.failures.page import AFTER
from tests.failures.world import HEARTBEAT_S, KINDS, NAMES, World, scenario
from tests.support import etcd as support
from tests.support.etcd import ROOT
from tests.support.process import Hand, ServiceProcess, sidecar

Steps = Generator[None, None, None]


def service(world: World, etcd: Any, heartbeat_s: float = HEARTBEAT_S) -> tuple[ServiceProcess, Hand]:
    """A service of its own scope, with both clients, and a hand that writes to its etcd."""
    made = sidecar(etcd, world.folder / "service", {"a": 1}, heartbeat_s)
    process, hand = world.stack.enter_context(made)
    scope = {"namespace": hand.scope.namespace, "environment": hand.scope.environment}
    for kind in KINDS:
        world.connect(kind, process.url, scope=scope, heartbeat_s=heartbeat_s)
    return process, hand


def gone(world: World, end: Callable[[ServiceProcess], Any], back: Callable[[ServiceProcess], Any]) -> Steps:
    process, hand = service(world, world.etcd())
    end(process)
    yield
    hand.write({"a": AFTER})
    back(process)


@scenario("the service stops (`SIGTERM`)")
def stops(world: World) -> Steps:
    yield from gone(world, ServiceProcess.stop, ServiceProcess.start)


@scenario("the service is killed")
def is_killed(world: World) -> Steps:
    yield from gone(world, ServiceProcess.kill, ServiceProcess.start)


@scenario("the service freezes: connections stay open, and silent")
def freezes(world: World) -> Steps:
    def send(number: signal.Signals) -> Callable[[ServiceProcess], None]:
        return lambda process: process.running.process.send_signal(number)

    yield from gone(world, send(signal.SIGSTOP), send(signal.SIGCONT))


@scenario("the service restarts within two heartbeats")
def restarts(world: World) -> Steps:
    process, _ = service(world, world.etcd(), heartbeat_s=3)
    process.stop()
    process.start()
    yield


@scenario("etcd goes away behind the service")
def etcd_goes(world: World) -> Steps:
    etcd = world.stack.enter_context(LocalEtcd(options=support.options(support.newest())))
    _, hand = service(world, etcd)
    etcd.members[0].kill()
    yield
    etcd.members[0].restart()
    hand.write({"a": AFTER})


class Remote:
    """One of the clients of an application in a process of its own; its log lines are logged here again."""

    def __init__(self, ask: Callable[[], Any], number: int) -> None:
        self._ask, self._number = ask, number
        self.changes: list[Any] = []
        self.states: list[str] = []

    def _look(self) -> Any:
        status, read, self.changes, self.states = self._ask()[self._number]
        return status, read

    def status(self) -> Any:
        return self._look()[0]

    def read(self) -> Any:
        return self._look()[1]


@scenario("the application is suspended for longer than two heartbeats, and goes on")
def suspended(world: World) -> Steps:
    servers = [world.stack.enter_context(ConfigServer({"a": 1}, **NAMES, heartbeat_s=HEARTBEAT_S / 4)) for _ in KINDS]
    command = [sys.executable, "-m", "tests.failures.app", str(HEARTBEAT_S), *NAMES.values()]
    app = subprocess.Popen(
        [*command, *(server.url for server in servers)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    world.stack.callback(end, app)
    logged: list[str] = []

    def ask() -> Any:
        assert app.stdin
        assert app.stdout
        print(file=app.stdin, flush=True)
        said = json.loads(app.stdout.readline())
        for line in said["lines"][len(logged) :]:
            logged.append(line)
            level, _, text = line.partition(" ")
            logging.getLogger("configsvc_client").log(logging.getLevelNamesMapping()[level], "%s", text)
        return said["seats"]

    ask()
    world.seats = [Remote(ask, number) for number in range(len(KINDS))]
    app.send_signal(signal.SIGSTOP)
    time.sleep(3 * HEARTBEAT_S)
    for server in servers:
        server.set("a", 2)
    app.send_signal(signal.SIGCONT)
    yield


def end(app: subprocess.Popen[str]) -> None:
    """End it, wherever it is."""
    app.kill()
    app.communicate(timeout=DEADLINE_S)
