"""The network between members, as proxies that know who calls: one member can be cut off while both sides live on."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from configsvc.etcd.local import LocalMember, LocalOptions, free_ports
from tests.cluster.conftest import Act
from tests.support.proxy import TcpProxy, reset

_FROM = re.compile(rb"\r\nX-Server-From: ([0-9a-f]+)\r\n", re.IGNORECASE)


class PeerProxy(TcpProxy):
    """Stands before one member's peer port. Callers whose id `refuses` names are reset; it is empty for some probes."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.refuses: Callable[[str], bool] = lambda caller: False
        self._callers: dict[asyncio.StreamWriter, str] = {}

    async def _pass_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        found = _FROM.search(head)
        caller = found[1].decode() if found else ""
        if self.refuses(caller):
            raise EOFError
        self._callers[writer] = caller
        try:
            writer.write(head)
            await super()._pass_requests(reader, writer, flowing)
        finally:
            del self._callers[writer]

    def enforce(self) -> None:
        """Reset the open connections of those who are refused now."""
        for writer, caller in list(self._callers.items()):
            if self.refuses(caller):
                reset(writer)


class PeerNetwork:
    """Members whose peers reach each other through proxies only."""

    def __init__(self, members: Sequence[LocalMember], proxies: Sequence[PeerProxy]) -> None:
        self.members = members
        self._proxies = proxies

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The clients' URLs."""
        return tuple(member.url for member in self.members)

    async def isolate(self, member: LocalMember, act: Act) -> None:
        """Cut a member off from the others, both ways. Its clients still reach it."""
        status = await act(member.ask, "/v3/maintenance/status", {})
        id = f"{int(status['header']['member_id']):x}"
        for other, proxy in zip(self.members, self._proxies, strict=True):
            proxy.refuses = (lambda caller: True) if other is member else (lambda caller: caller == id)
            proxy.enforce()

    def heal(self) -> None:
        """Everybody reaches everybody."""
        for proxy in self._proxies:
            proxy.refuses = lambda caller: False


@asynccontextmanager
async def peer_network(options: LocalOptions, folder: Path, act: Act) -> AsyncIterator[PeerNetwork]:
    """Three members and their proxies."""
    async with AsyncExitStack() as stack:
        members = [LocalMember(f"m{n}", folder, pair, options) for n, pair in enumerate(free_ports(3))]
        proxies = [await stack.enter_async_context(PeerProxy(member.peer_url)) for member in members]
        for member, proxy in zip(members, proxies, strict=True):
            member.cluster = ",".join(f"{m.name}={p.url}" for m, p in zip(members, proxies, strict=True))
            extra = (*options.extra, f"--initial-advertise-peer-urls={proxy.url}")
            member.options = msgspec.structs.replace(options, extra=extra)
        try:
            for member in members:
                await act(member.start)
            for member in members:
                await act(member.wait_ready)
            yield PeerNetwork(members, proxies)
        finally:
            for member in members:
                await act(member.kill)
