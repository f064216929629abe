"""Writers that end, or stand still, before the Nth thing that they ask of etcd: `python -m tests.writes.mortal URL`.

Each line of the standard input is one `Order`, as JSON; a process is forked for it, so that a SIGKILL costs no start of
an interpreter. What becomes of it is told in lines of JSON: `stopped` with the process's id, then `ended` with its exit
code (negative: the signal) and, where it lived to tell, the release that it made or the error's code.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from configsvc.core.commands import About, Command, Deploy, View
from configsvc.core.guards import Guards
from configsvc.core.model import Scope, canonical
from configsvc.errors import ConfigSvcError
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.writes import txns
from configsvc.writes.writer import Writer

GUARDS = Guards(max_deleted=0, max_growth=0, max_releases_per_min=0, max_scope_bytes=0)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One release: all keys of `scope` get the value `number`. At call `at` comes `signal`; never for 0."""

    namespace: str
    number: int
    keys: int
    large: int = 0
    """How many of the keys have a value of 1 MB."""
    max_steps: int = 100
    at: int = 0
    signal: int = int(signal.SIGKILL)

    @property
    def scope(self) -> Scope:
        return Scope(self.namespace, "prod")

    def command(self) -> Deploy:
        filler = "x" * (1024 * 1024 - 1024)
        values = {f"k{n:04}": f"{self.number}|{filler if n < self.large else ''}" for n in range(self.keys)}
        return Deploy(values={key: canonical(value) for key, value in values.items()}, overrides="discard")


class Mortal:
    """A gateway's calls, counted."""

    def __init__(self, gateway: Gateway, order: Order) -> None:
        self._gateway = gateway
        self._order = order
        self.calls = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._gateway, name)

        async def counted(*arguments: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls == self._order.at:
                os.kill(os.getpid(), self._order.signal)
            return await call(*arguments, **more)

        return counted


def new_writer(etcd: Any, order: Order, by: str) -> Writer:
    return Writer(etcd, by=by, guards=GUARDS, max_steps=order.max_steps, chunk_records=1 if order.keys < 10 else 100)


async def release(etcd: Any, order: Order, by: str) -> str:
    """Make the release; its number, or the error's code."""
    command = order.command()

    async def prepare(view: View) -> Command:
        return command

    writer = new_writer(etcd, order, by)
    try:
        about = About(by=by, at=writer.now(), id=txns.new_id())
        return str((await writer.write(order.scope, prepare, about)).release)
    except ConfigSvcError as error:
        return error.code


async def live(url: str, order: Order) -> dict[str, object]:
    async with Gateway(GatewayConfig(endpoints=(url,))) as gateway:
        mortal = Mortal(gateway, order)
        answer = await release(mortal, order, f"writer-{os.getpid()}")
        return {"answer": answer, "calls": mortal.calls}


def tell(**what: object) -> None:
    print(msgspec.json.encode(what).decode(), flush=True)


def main(url: str) -> None:
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(writing, msgspec.json.encode(asyncio.run(live(url, order))))
            os._exit(0)
        os.close(writing)
        status = os.waitpid(pid, os.WUNTRACED)[1]
        if os.WIFSTOPPED(status):
            tell(stopped=pid)
            status = os.waitpid(pid, 0)[1]
        said = os.read(reading, 65536)
        os.close(reading)
        tell(ended=os.waitstatus_to_exitcode(status), **(msgspec.json.decode(said) if said else {}))


if __name__ == "__main__":
    main(sys.argv[1])
