"""Name look-ups that never delay the end of a program."""

import socket
from functools import partial

from aiohttp.abc import AbstractResolver, ResolveResult

from configsvc_client.threads import in_thread


class DaemonResolver(AbstractResolver):
    """Resolves by the system's `getaddrinfo`. A cancelled look-up ends by itself, unheard."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Look a name up; raises `OSError` where it is not known."""
        try:
            return await in_thread(partial(_addresses, host, port, family), "configsvc-resolve")
        except UnicodeError:
            raise OSError(f"{host!r} is no host name") from None

    async def close(self) -> None:
        """Nothing is kept between look-ups."""


def _addresses(host: str, port: int, family: int) -> list[ResolveResult]:
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return [
        ResolveResult(hostname=host, host=str(address[0]), port=int(address[1]), family=kind, proto=proto, flags=flags)
        for kind, _, proto, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
    ]
