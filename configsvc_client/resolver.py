"""Name look-ups that never delay the end of a program.

The loop's own resolver uses a thread pool that the interpreter joins before it exits, so one name server that does not
answer would hold the application for as long as the system's time-out. Here each look-up has a daemon thread.
"""

import asyncio
import contextlib
import socket
import threading

from aiohttp.abc import AbstractResolver, ResolveResult


class DaemonResolver(AbstractResolver):
    """Resolves by the system's `getaddrinfo`. A cancelled look-up ends by itself, unheard."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Look a name up; raises `OSError` where it is not known."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def finish(found: list[ResolveResult], error: OSError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(found)
            else:
                future.set_exception(error)

        def look_up() -> None:
            found: list[ResolveResult] = []
            error: OSError | None = None
            try:
                found = _addresses(host, port, family)
            except (OSError, UnicodeError) as failure:
                error = failure if isinstance(failure, OSError) else OSError(f"{host!r} is no host name")
            # The loop may be closed by now, and then nobody waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, found, error)

        threading.Thread(target=look_up, name="configsvc-resolve", daemon=True).start()
        return await future

    async def close(self) -> None:
        """Nothing is kept between look-ups."""


def _addresses(host: str, port: int, family: int) -> list[ResolveResult]:
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return [
        ResolveResult(hostname=host, host=str(address[0]), port=int(address[1]), family=kind, proto=proto, flags=flags)
        for kind, _, proto, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
    ]
