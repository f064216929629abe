"""Tokens for etcd, one per endpoint: a simple token that is renewed by use is renewed on that member only.

Without a user there are none. One authentication per endpoint at a time, others wait for it: each costs the member
some 50 ms of bcrypt. The password is read from its file each time, so a rotated one is found when the old is refused.
"""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from configsvc.etcd import wire
from configsvc.etcd.classify import AuthOff
from configsvc.etcd.ops import EtcdError, Refused, Unavailable, Unreachable

RENEW_AT = 0.8
"""A JWT is renewed when this part of its life is over."""

Send = Callable[[str, bytes], Awaitable[bytes]]
"""POSTs a body to `/v3/auth/authenticate` of an endpoint; raises `EtcdError`."""


class _Token(msgspec.Struct, frozen=True):
    text: str
    renew_at: float | None
    """By the monotonic clock; None for a simple token, which ends without saying when."""


class _Claims(msgspec.Struct):
    exp: float | None = None


class Auth:
    """What goes into `Authorization`. `close` ends what is under way."""

    def __init__(
        self,
        user: str | None,
        password_file: Path | None,
        send: Send,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._user = user
        self._password_file = password_file
        self._send = send
        self._clock = clock
        self._wall = wall
        self._tokens: dict[str, _Token] = {}
        self._flights: dict[str, asyncio.Task[_Token]] = {}

    @property
    def enabled(self) -> bool:
        """Whether there is a user at all."""
        return self._user is not None

    async def token(self, url: str) -> str:
        """The token for an endpoint, empty if none is needed. Raises `Refused`, or `Unreachable` where nobody said no:
        the request that needed the token has not been sent."""
        if self._user is None:
            return ""
        known = self._tokens.get(url)
        if known and (known.renew_at is None or self._clock() < known.renew_at):
            return known.text
        return await self._fetch(url)

    async def renew(self, url: str, refused: str) -> str:
        """A token other than `refused`; one that was fetched meanwhile will do."""
        known = self._tokens.get(url)
        if known and known.text != refused:
            return known.text
        self._tokens.pop(url, None)
        return await self._fetch(url)

    async def close(self) -> None:
        """End what is under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _fetch(self, url: str) -> str:
        flight = self._flights.get(url)
        if flight is None:
            flight = asyncio.create_task(self._authenticate(url), name=f"etcd-authenticate {url}")
            self._flights[url] = flight
            flight.add_done_callback(lambda done: self._land(url, done))
        # Shielded: whoever gives up must not end it for the others.
        return (await asyncio.shield(flight)).text

    def _land(self, url: str, flight: asyncio.Task[_Token]) -> None:
        self._flights.pop(url, None)
        if not flight.cancelled() and flight.exception() is None:
            self._tokens[url] = flight.result()

    async def _authenticate(self, url: str) -> _Token:
        body = wire.encode({"name": self._user, "password": self._password()})
        try:
            text = wire.decode_token(await self._send(url, body))
        except AuthOff:
            return _Token("", None)
        except wire.Malformed as error:
            raise Unreachable(f"authentication: {error}") from error
        except Unavailable as error:
            raise Unreachable(f"authentication: {error.detail}") from error
        except Refused as error:
            raise Refused(f"user {self._user!r}: {error.detail}") from error
        except EtcdError as error:
            raise type(error)(f"authentication: {error.detail}") from error
        life_s = None if (exp := expiry(text)) is None else exp - self._wall()
        return _Token(text, self._clock() + life_s * RENEW_AT if life_s is not None and life_s > 0 else None)

    def _password(self) -> str:
        if self._password_file is None:
            raise Refused(f"user {self._user!r} has no password file")
        try:
            password = self._password_file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"password file {self._password_file}: {error}") from error
        if not password:
            raise Refused(f"password file {self._password_file} is empty")
        return password


def expiry(token: str) -> float | None:
    """When a token ends, in seconds since the epoch, if it is a JWT that says so. It is read, not verified."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=_Claims).exp
    except (binascii.Error, msgspec.DecodeError, ValueError):
        return None
