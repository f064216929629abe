"""The file with the token: read anew for each connection, because tokens rotate, and never on the loop.

Where it lies (a network's disk, a pipe that nobody writes to) it may keep its reader waiting.
"""

import asyncio
from pathlib import Path

from configsvc_client.errors import LinkError
from configsvc_client.threads import in_thread

READ_TIMEOUT_S = 2.0
_MAX_TOKEN = 64 * 1024


class TokenFile:
    """One file. Of reads that hang there is one at most."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._reading: asyncio.Future[bytes] | None = None

    async def header(self) -> dict[str, str]:
        """The header that carries the token; raises `LinkError` (`token`) where there is none within two seconds."""
        try:
            # One that hung before is waited for again.
            self._reading = reading = self._reading or in_thread(self._read, "configsvc-token")
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    token = await asyncio.shield(reading)
            finally:
                if reading.done() and self._reading is reading:
                    self._reading = None
        except TimeoutError:
            why = f"token file {self._path}: nothing could be read within {READ_TIMEOUT_S:g} s"
            raise LinkError("token", why) from None
        except OSError as error:
            raise LinkError("token", f"token file {self._path}: {error.strerror or error}") from error
        except ValueError as error:
            raise LinkError("token", f"token file {self._path!r}: {error}") from error
        if not token or len(token) > _MAX_TOKEN or not all(0x21 <= byte <= 0x7E for byte in token):
            raise LinkError("token", f"token file {self._path} does not hold one token")
        return {"Authorization": f"Bearer {token.decode('ascii')}"}

    def _read(self) -> bytes:
        with Path(self._path).open("rb") as file:
            return file.read(_MAX_TOKEN + 1).strip()
