"""The link: one connection after another to the service, by the session's decisions.

Owns the sockets and the rules of what goes out over them: which URL, which headers, where the token may go, how long an
answer may take. Foreign exceptions become `LinkError` in `answers.py` and nowhere else. Decides nothing itself: what
an event means and where to go next is `session.py`'s.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from configsvc_client.addresses import Attempt
from configsvc_client.answers import check, get, mapped_errors, read_body
from configsvc_client.errors import LinkError
from configsvc_client.fork import Sockets
from configsvc_client.freshness import read_staleness
from configsvc_client.options import Endpoint, Options, is_name
from configsvc_client.outcome import Outcome
from configsvc_client.poll import Answer, Ask, read_answer, unpacked
from configsvc_client.resolver import DaemonResolver
from configsvc_client.session import Session
from configsvc_client.snapshot import Snapshot
from configsvc_client.sse import Decoder
from configsvc_client.token_file import TokenFile

logger = logging.getLogger("configsvc_client")


class _Self(msgspec.Struct, frozen=True):
    """As much of `/v1/self` as a client needs."""

    service: str | None = None
    namespace: str | None = None
    environment: str | None = None


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
        self._token_file = None if options.token_file is None else TokenFile(options.token_file)
        self._session = session
        self._sockets = sockets or Sockets()
        self._clock = clock
        self._sleep = sleep
        self._on_progress = on_progress
        self._is_down = False
        self._was_live = False
        self._said_empty = False
        self._polled_urls: set[str] = set()
        self._moved = asyncio.Event()
        """Set when a poll may be due earlier than it was."""
        self._idle = asyncio.Event()
        """Set while no poll is under way."""

    async def run(self, take: Callable[[Snapshot], None]) -> None:
        """Follow the scope for ever; `take` is called with each new snapshot, in order, and must not block.

        `on_progress` is called after everything that may have moved the session: an event, a heartbeat, a loss.
        No failure of network or service ends this; an exception out of here is a defect.
        """
        try:
            async with self._open_client() as http:
                while True:
                    endpoint = self._session.endpoint
                    try:
                        await self._visit(http, take)
                    except LinkError as error:
                        delay = self._session.lost(error, self._clock())
                        self._log_loss(endpoint, error, delay)
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
        # The first failure is news, the hundredth is not; at the start not before no address was left to try.
        is_news = self._was_live or self._session.addresses.all_failed
        level = logging.WARNING if is_news and not self._is_down and error.kind != "draining" else logging.DEBUG
        self._is_down = self._is_down or is_news
        to, what, why = endpoint.url, "lost" if self._was_live else "failed", error.detail
        if level == logging.WARNING and not self._was_live and len(self._options.endpoints) > 1:
            to, why = "every address", self._session.last_error or why
        following = f"in {delay:.1f} s" if delay >= 0.05 else "at once"
        logger.log(level, "link to %s %s: %s (next attempt %s)", to, what, why, following)

    # ---- one address --------------------------------------------------------------------------------------------

    async def _visit(self, http: aiohttp.ClientSession, take: Callable[[Snapshot], None]) -> None:
        """Follow the scope at the session's address, by stream and by polls, until one of them says to leave it."""
        tasks = [
            asyncio.create_task(self._stream(http, take), name="configsvc-stream"),
            asyncio.create_task(self._poll(http, take), name="configsvc-poll"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if task in done:
                task.result()

    async def _stream(self, http: aiohttp.ClientSession, take: Callable[[Snapshot], None]) -> None:
        """One stream after another, where polls are answered and only the stream is not."""
        session = self._session
        while True:
            if (delay := session.stream_at() - self._clock()) > 0:
                await self._sleep(delay)
            session.asked(self._clock())
            self._moved.set()
            try:
                await self._follow(http, session.attempt(), take)
            except LinkError as error:
                if error.kind in ("timeout", "stalled"):
                    # Whether a poll is answered tells a silent stream from a frozen service.
                    await self._idle.wait()
                delay_s = session.stream_lost(error, self._clock())
                if delay_s is None:
                    raise
                self._log_transport(error)
                self._moved.set()
                self._on_progress()
                await self._sleep(delay_s)

    async def _poll(self, http: aiohttp.ClientSession, take: Callable[[Snapshot], None]) -> None:
        """One poll after another, whenever the session wants one."""
        session = self._session
        self._idle.set()
        while True:
            delay = session.poll_at() - self._clock()
            if delay > 0:
                await self._wait_moved(delay)
                continue
            self._idle.clear()
            try:
                await self._poll_once(http, take)
            except LinkError as error:
                logger.debug("poll of %s failed: %s", session.endpoint.url, error.detail)
                if session.poll_failed(error, self._clock()):
                    raise
            finally:
                self._idle.set()

    async def _wait_moved(self, timeout_s: float) -> None:
        self._moved.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._moved.wait()

    async def _poll_once(self, http: aiohttp.ClientSession, take: Callable[[Snapshot], None]) -> None:
        timeout_s = self._session.polls(self._clock())
        async with mapped_errors():
            try:
                async with asyncio.timeout(timeout_s):
                    ask, answer = await self._ask_state(http)
            except TimeoutError:
                raise LinkError("timeout", f"no answer within {timeout_s:g} s") from None
        self._took(self._session.polled(ask, answer, self._clock()), take)
        self._on_progress()

    async def _ask_state(self, http: aiohttp.ClientSession) -> tuple[Ask, Answer]:
        session, endpoint = self._session, self._session.endpoint
        auth = await self._authorization(http, endpoint)
        scope = await self._scope(http, endpoint, auth)
        ask = session.ask()
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "Cache-Control": "no-cache", **auth}
        if ask.etag is not None:
            headers["If-None-Match"] = ask.etag
        # Unpacked here, within bounds.
        response = await get(http, endpoint.state_url(*scope), headers, auto_decompress=False)
        try:
            if response.status not in (200, 304, 404):
                await check(response)
            max_bytes = self._options.tuning.max_event_bytes
            packed = await read_body(response, max_bytes, "garbage")
            body = unpacked(packed, response.headers.get("Content-Encoding", ""), max_bytes)
        finally:
            response.close()
        answer = read_answer(ask, response.status, response.content_type, response.headers, body, scope=scope)
        if answer is None:
            raise LinkError("status", f"HTTP {response.status}", status=response.status)
        return ask, answer

    # ---- one connection -----------------------------------------------------------------------------------------

    async def _follow(self, http: aiohttp.ClientSession, attempt: Attempt, take: Callable[[Snapshot], None]) -> None:
        async with mapped_errors():
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
        namespace, environment = await self._scope(http, endpoint, auth)
        # A state of another scope may have been forgotten: then there is nothing to resume from.
        last_event_id = session.attempt().last_event_id
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-cache", **auth}
        if last_event_id is not None:
            headers["Last-Event-ID"] = str(last_event_id)
        response = await get(http, endpoint.watch_url(namespace, environment), headers)
        try:
            await check(response)
            if response.content_type != "text/event-stream":
                raise LinkError("not_a_stream", f"the answer is {response.content_type}, not text/event-stream")
        except BaseException:
            response.close()
            raise
        return response

    async def _scope(self, http: aiohttp.ClientSession, endpoint: Endpoint, auth: dict[str, str]) -> tuple[str, str]:
        """The scope; learned from the service where nobody gave it."""
        session = self._session
        if session.namespace is None or session.environment is None:
            said = await self._ask_self(http, endpoint, auth)
            session.learn_scope(said.namespace, said.environment)
        if session.namespace is None or session.environment is None:
            missing = "namespace (SERVICE_NAME)" if session.namespace is None else "environment (CONFIG_ENVIRONMENT)"
            raise LinkError("unknown_scope", f"no {missing} was given, and the service has no default")
        return session.namespace, session.environment

    async def _authorization(self, http: aiohttp.ClientSession, endpoint: Endpoint) -> dict[str, str]:
        """The token's header where it may go: to configured addresses, and on loopback to what says it is configsvc."""
        if endpoint.configured:
            return await self._token_header()
        said = await self._ask_self(http, endpoint, {}, allow_unauthorized=True)
        if said.service != "configsvc":
            raise LinkError("not_configsvc", "what answers there is not configsvc")
        return await self._token_header() if endpoint.is_loopback else {}

    async def _token_header(self) -> dict[str, str]:
        return {} if self._token_file is None else await self._token_file.header()

    async def _ask_self(
        self, http: aiohttp.ClientSession, endpoint: Endpoint, auth: dict[str, str], *, allow_unauthorized: bool = False
    ) -> _Self:
        response = await get(http, endpoint.self_url, {"Accept": "application/json", **auth})
        try:
            # A service that wants a token says what it is in its refusal too.
            if not (allow_unauthorized and response.status == 401):
                await check(response)
            said = msgspec.json.decode(await read_body(response), type=_Self)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise LinkError("not_configsvc", f"{endpoint.self_url} does not read: {error}") from error
        finally:
            response.close()
        if not all(name is None or is_name(name) for name in (said.namespace, said.environment)):
            raise LinkError("not_configsvc", f"{endpoint.self_url} names no valid scope")
        return said

    async def _read(self, response: aiohttp.ClientResponse, take: Callable[[Snapshot], None]) -> None:
        session, decoder = self._session, Decoder(max_event_bytes=self._options.tuning.max_event_bytes)
        session.opened(self._clock(), read_staleness(response.headers.get("Configsvc-Staleness")))
        pending = 0
        while True:
            is_late = False
            try:
                # The connection's own clock may be another one in tests of time: only differences count.
                async with asyncio.timeout(max(0.0, session.deadline() - self._clock())):
                    chunk = await response.content.readany()
            except TimeoutError:
                # After this process or its loop has slept the time is over, although what came meanwhile lies here.
                chunk, is_late = response.content.read_nowait(), True
                if not chunk:
                    raise session.overdue() from None
            if not chunk:
                raise LinkError("ended", "the stream ended")
            now = self._clock()
            for event in decoder.feed(chunk):
                self._took(session.receive(event, now), take)
            if decoder.pending_bytes > pending:
                session.active(now, decoder.pending_bytes)
            pending = decoder.pending_bytes
            if is_late and session.deadline() <= self._clock():
                # Bytes without end that tell nothing would never let it be silent.
                raise session.overdue()
            self._log_transport()
            self._log_return()
            self._on_progress()

    def _took(self, outcome: Outcome, take: Callable[[Snapshot], None]) -> None:
        if outcome.notice:
            logger.warning("%s: %s", self._session.endpoint.url, outcome.notice)
        if outcome.snapshot is not None:
            self._look_at(outcome.snapshot)
            take(outcome.snapshot)

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

    def _log_transport(self, error: LinkError | None = None) -> None:
        """Say once for each address that streams do not get through, and what to do; and once that they do."""
        url, is_polling = self._session.endpoint.url, self._session.transport == "polling"
        if is_polling and error is not None and url not in self._polled_urls:
            self._polled_urls.add(url)
            logger.warning(
                "streams from %s do not get through (%s), though requests are answered: polling once per heartbeat "
                "instead. A proxy seems to buffer; switch that off for /v1/watch (nginx: proxy_buffering off, or let "
                "it honour X-Accel-Buffering), or set heartbeat_s where the service's heartbeat is a longer one",
                url,
                error.detail,
            )
        elif not is_polling and url in self._polled_urls:
            self._polled_urls.discard(url)
            logger.info("streams from %s get through again: no more polling", url)

    def _log_return(self) -> None:
        if self._is_down and self._session.service_state == "live":
            self._is_down = False
            logger.info("link to %s is live again at %s", self._session.endpoint.url, self._session.position)
