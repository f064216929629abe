"""The link: one connection after another to the service, by the session's decisions.

Owns the sockets and the rules of what goes out over them: which URL, which headers, where the token may go, how long an
answer may take. Foreign exceptions become `LinkError` here and nowhere else. Decides nothing itself: what an event
means and where to go next is `session.py`'s.
"""

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
from yarl import URL

from configsvc_client.errors import LinkError
from configsvc_client.fork import Sockets
from configsvc_client.options import Endpoint, Options, is_name
from configsvc_client.resolver import DaemonResolver
from configsvc_client.session import Attempt, Session
from configsvc_client.snapshot import Snapshot
from configsvc_client.sse import Decoder, EventTooLarge

logger = logging.getLogger("configsvc_client")

_MAX_BODY = 64 * 1024
_MAX_TOKEN = 64 * 1024


class _Self(msgspec.Struct, frozen=True):
    """As much of `/v1/self` as a client needs."""

    service: str | None = None
    namespace: str | None = None
    environment: str | None = None


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""


class Link:
    """Keeps a session up to date until it is cancelled."""

    def __init__(
        self,
        options: Options,
        session: Session,
        sockets: Sockets | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._options = options
        self._session = session
        self._sockets = sockets or Sockets()
        self._clock = clock
        self._sleep = sleep
        self._on_progress = on_progress
        self._is_down = False
        self._was_live = False
        self._said_empty = False

    async def run(self, take: Callable[[Snapshot], None]) -> None:
        """Follow the scope for ever; `take` is called with each new snapshot, in order, and must not block.

        `on_progress` is called after everything that may have moved the session: an event, a heartbeat, a loss.
        No failure of network or service ends this; an exception out of here is a defect.
        """
        try:
            async with self._open_client() as http:
                while True:
                    attempt = self._session.attempt()
                    try:
                        await self._follow(http, attempt, take)
                    except LinkError as error:
                        delay = self._session.lost(error, self._clock())
                        self._log_loss(attempt.endpoint, error, delay)
                        self._on_progress()
                        await self._sleep(delay)
        finally:
            self._session.stopped()

    @asynccontextmanager
    async def _open_client(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(resolver=DaemonResolver(), limit=4, socket_factory=self._sockets.open)
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": "configsvc-client"},
        ) as http:
            yield http

    def _log_loss(self, endpoint: Endpoint, error: LinkError, delay: float) -> None:
        # The first failure is news, the hundredth is not.
        level = logging.DEBUG if self._is_down or error.kind == "draining" else logging.WARNING
        self._is_down = True
        what = "lost" if self._was_live else "failed"
        logger.log(level, "link to %s %s: %s (next attempt in %.1f s)", endpoint.url, what, error.detail, delay)

    # ---- one connection -----------------------------------------------------------------------------------------

    async def _follow(self, http: aiohttp.ClientSession, attempt: Attempt, take: Callable[[Snapshot], None]) -> None:
        async with _mapped_errors():
            try:
                async with asyncio.timeout(self._options.tuning.connect_timeout_s):
                    response = await self._connect(http, attempt)
            except TimeoutError:
                raise LinkError("timeout", f"no answer within {self._options.tuning.connect_timeout_s:g} s") from None
            try:
                await self._read(response, take)
            finally:
                response.close()

    async def _connect(self, http: aiohttp.ClientSession, attempt: Attempt) -> aiohttp.ClientResponse:
        """Open the stream; the scope is learned first where nobody gave it."""
        endpoint, session = attempt.endpoint, self._session
        auth = await self._authorization(http, endpoint)
        if session.namespace is None or session.environment is None:
            said = await self._ask_self(http, endpoint, auth)
            session.learn_scope(said.namespace, said.environment)
            # A state of another scope was forgotten: there is nothing to resume from.
            attempt = session.attempt()
        namespace, environment = session.namespace, session.environment
        if namespace is None or environment is None:
            missing = "namespace (SERVICE_NAME)" if namespace is None else "environment (CONFIG_ENVIRONMENT)"
            raise LinkError("unknown_scope", f"no {missing} was given, and the service has no default")
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-cache", **auth}
        if attempt.last_event_id is not None:
            headers["Last-Event-ID"] = str(attempt.last_event_id)
        response = await _get(http, endpoint.watch_url(namespace, environment), headers)
        try:
            await _check(response)
            if response.content_type != "text/event-stream":
                raise LinkError("not_a_stream", f"the answer is {response.content_type}, not text/event-stream")
        except BaseException:
            response.close()
            raise
        return response

    async def _authorization(self, http: aiohttp.ClientSession, endpoint: Endpoint) -> dict[str, str]:
        """The token's header where it may go: to configured addresses, and on loopback to what says it is configsvc."""
        if endpoint.configured:
            return self._token_header()
        said = await self._ask_self(http, endpoint, {}, allow_unauthorized=True)
        if said.service != "configsvc":
            raise LinkError("not_configsvc", "what answers there is not configsvc")
        return self._token_header() if endpoint.is_loopback else {}

    def _token_header(self) -> dict[str, str]:
        """Read anew for each connection, because tokens rotate."""
        if self._options.token_file is None:
            return {}
        try:
            with Path(self._options.token_file).open("rb") as file:
                token = file.read(_MAX_TOKEN + 1).strip()
        except OSError as error:
            raise LinkError("token", f"token file: {error}") from error
        if not token or len(token) > _MAX_TOKEN or not all(0x21 <= byte <= 0x7E for byte in token):
            raise LinkError("token", f"token file {self._options.token_file} does not hold one token")
        return {"Authorization": f"Bearer {token.decode('ascii')}"}

    async def _ask_self(
        self, http: aiohttp.ClientSession, endpoint: Endpoint, auth: dict[str, str], *, allow_unauthorized: bool = False
    ) -> _Self:
        response = await _get(http, endpoint.self_url, {"Accept": "application/json", **auth})
        try:
            # A service that wants a token says what it is in its refusal too.
            if not (allow_unauthorized and response.status == 401):
                await _check(response)
            said = msgspec.json.decode(await _body(response), type=_Self)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise LinkError("not_configsvc", f"{endpoint.self_url} does not read: {error}") from error
        finally:
            response.close()
        if not all(name is None or is_name(name) for name in (said.namespace, said.environment)):
            raise LinkError("not_configsvc", f"{endpoint.self_url} names no valid scope")
        return said

    async def _read(self, response: aiohttp.ClientResponse, take: Callable[[Snapshot], None]) -> None:
        session, decoder = self._session, Decoder(max_event_bytes=self._options.tuning.max_event_bytes)
        session.opened(self._clock())
        pending = 0
        while True:
            try:
                # The connection's own clock may be another one in tests of time: only differences count.
                async with asyncio.timeout(max(0.0, session.deadline() - self._clock())):
                    chunk = await response.content.readany()
            except TimeoutError:
                raise session.overdue() from None
            if not chunk:
                raise LinkError("ended", "the stream ended")
            now = self._clock()
            for event in decoder.feed(chunk):
                outcome = session.receive(event, now)
                if outcome.notice:
                    logger.warning("%s: %s", session.endpoint.url, outcome.notice)
                if outcome.snapshot is not None:
                    self._look_at(outcome.snapshot)
                    take(outcome.snapshot)
            if decoder.pending_bytes > pending:
                session.active(now)
            pending = decoder.pending_bytes
            self._log_return()
            self._on_progress()

    def _look_at(self, snapshot: Snapshot) -> None:
        """Say once that there is nothing: a misspelt name looks like an application that was never configured."""
        if not self._was_live and not self._said_empty and not snapshot.entries and snapshot.release is None:
            self._said_empty = True
            logger.warning(
                "%s/%s has no value and no release so far; is the name right?",
                snapshot.namespace,
                snapshot.environment,
            )
        self._was_live = True

    def _log_return(self) -> None:
        if self._is_down and self._session.service_state == "live":
            self._is_down = False
            logger.info("link to %s is live again at %s", self._session.endpoint.url, self._session.position)


async def _get(http: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
    return await http.get(URL(url, encoded=True), headers=headers, allow_redirects=False)


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raise for anything but a 200, with the service's own reason where it gave one."""
    status = response.status
    if status == 200:
        return
    if 300 <= status < 400:
        raise LinkError("not_a_stream", f"the answer is a redirect ({status}), which is not followed")
    detail = ""
    if "json" in response.content_type:
        try:
            detail = msgspec.json.decode(await _body(response), type=_Problem).detail
        except (msgspec.MsgspecError, UnicodeDecodeError):
            detail = ""
    retry_after = response.headers.get("Retry-After", "")
    raise LinkError(
        "status",
        f"HTTP {status}" + (f": {detail}" if detail else ""),
        status=status,
        retry_after_s=float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0,
    )


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """A short body, whole; more than that is not from this service."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_BODY:
            raise LinkError("not_configsvc", f"the answer is longer than {_MAX_BODY} bytes")
    return bytes(body)


@asynccontextmanager
async def _mapped_errors() -> AsyncIterator[None]:
    try:
        yield
    except LinkError:
        raise
    except EventTooLarge as error:
        raise LinkError("garbage", str(error)) from error
    except aiohttp.ClientConnectorError as error:
        raise LinkError("unreachable", f"cannot connect: {_reason(error.os_error)}") from error
    except aiohttp.ClientPayloadError as error:
        raise LinkError("ended", "the stream was cut") from error
    except (aiohttp.ClientError, OSError) as error:
        raise LinkError("unreachable", _text(error)) from error


def _reason(error: OSError) -> str:
    """An error of the operating system in its own words, without addresses and numbers."""
    if error.errno is not None and error.errno > 0 and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(error.errno).lower()
    return _text(error)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
