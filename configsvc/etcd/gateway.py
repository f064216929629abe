"""The `Etcd` protocol over etcd's JSON gateway: deadlines, failover, tokens, breakers.

Reads go on to other endpoints while they fail with `Unreachable` or `Unavailable`; writes are sent once, elsewhere
only where nothing was sent. Every request carries a deadline for etcd too, a little below our own, and asks the
member to have a leader, so that one that is cut off says so instead of waiting or serving the past. Formats are in
`wire`, errors in `classify`, HTTP in `transport`.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from configsvc.etcd import limits, wire
from configsvc.etcd.auth import Auth
from configsvc.etcd.breaker import Breaker
from configsvc.etcd.classify import TokenRefused, classify, classify_reason
from configsvc.etcd.endpoints import Endpoint, Endpoints, Observer, Silent
from configsvc.etcd.ops import (
    CANCELED,
    LIST_RESTARTS,
    Ambiguous,
    Compacted,
    Compare,
    Delete,
    EtcdError,
    Invalid,
    LeftAlone,
    Member,
    MemberStatus,
    NotFound,
    Oversized,
    Put,
    Range,
    RangeResult,
    Txn,
    TxnResult,
    Unavailable,
    Unreachable,
    WatchBatch,
    prefix_end,
)
from configsvc.etcd.reader import MAX_JOINED_BYTES, MAX_LINE_BYTES, WatchReader
from configsvc.etcd.stream import WatchStream
from configsvc.etcd.tls import TlsFiles
from configsvc.etcd.transport import Transport

T = TypeVar("T")

FIRST_PAGE = 32
"""Keys in a list's first page; the next ones are sized by what the keys before them took."""
MAX_PAGE = 10_000
IMMEDIATE_S = 1.0
"""A member without a leader refuses within this time; later, the words may come from a write that was taken."""
_LEADER = {"Grpc-Metadata-hasleader": "true"}


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach etcd. Times in seconds, for one attempt each."""

    endpoints: tuple[str, ...]
    user: str | None = None
    password_file: Path | None = None
    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    breaker_failures: int = 5
    breaker_open_s: float = 2.0
    connect_s: float = 1.0
    read_s: float = 2.0
    write_s: float = 2.0
    page_s: float = 10.0
    """A list's page may be large."""
    authenticate_s: float = 3.0
    created_s: float = 2.0
    """A watch that is not confirmed by then never will be: there are bodies that etcd does not answer at all."""
    backoff_s: float = 0.05
    backoff_cap_s: float = 1.0
    read_rounds: int = 2
    """How often a read goes through all endpoints, at least three attempts in all."""
    pool_size: int = 64
    page_bytes: int = 4 * 1024 * 1024
    """What a list's page aims at: more costs etcd memory, and other requests their time."""
    max_answer_bytes: int = 64 * 1024 * 1024
    max_line_bytes: int = MAX_LINE_BYTES
    max_joined_bytes: int = MAX_JOINED_BYTES


class Gateway:
    """Implements `ops.Etcd`. An async context manager; entering opens no connection, leaving closes all."""

    def __init__(
        self,
        config: GatewayConfig,
        *,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._observer = observer or Silent()
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._endpoints = Endpoints(
            Endpoint(url.rstrip("/"), Breaker(config.breaker_failures, config.breaker_open_s), clock, self._observer)
            for url in config.endpoints
        )
        tls = TlsFiles(cacert=config.cacert, cert=config.cert, key=config.key)
        self._transport = Transport(tls, pool_size=config.pool_size, connect_s=config.connect_s)
        self._auth = Auth(config.user, config.password_file, self._authenticate, clock=clock, wall=wall)
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"Gateway({self._endpoints!r})"

    async def __aenter__(self) -> "Gateway":
        await self._stack.enter_async_context(self._transport)
        self._stack.push_async_callback(self._auth.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    # ---- which member ------------------------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[Endpoint, ...]:
        """All endpoints, in the order of the configuration."""
        return self._endpoints.all

    def next_member(self, after: Member | None = None) -> Endpoint:
        """See `Etcd.next_member`."""
        return self._endpoints.next(after)

    async def readmit(self, key: bytes) -> None:
        """Ask members that were left alone, once their time is over, for `key`, for ever; never returns.

        While another member answers nobody else would, and they would count as left alone for good. A linearizable
        read, so that a member without a quorum stays out; without a token, so that one that is back has not to log in
        every service at once: a refusal is an answer.
        """
        body = wire.encode_range(Range(key=key, count_only=True))
        while True:
            await self._sleep(self._config.breaker_open_s * self._rng.uniform(1.0, 2.0))
            for endpoint in self.members:
                others_answer = any(member.breaker == "closed" for member in self.members)
                if endpoint.breaker == "half-open" and others_answer:
                    with suppress(EtcdError):
                        await self._tried(endpoint, "probe", partial(self._send, endpoint, "/v3/kv/range", body))

    # ---- reads -------------------------------------------------------------------------------------------------------

    async def range(
        self, request: Range, *, member: Member | None = None, timeout_s: float | None = None
    ) -> RangeResult:
        """See `Etcd.range`. `timeout_s` is for each attempt."""
        body = wire.encode_range(request)
        answer = await self._read("range", "/v3/kv/range", body, member, timeout_s or self._config.read_s)
        return self._decoded(wire.decode_range, answer)

    async def list(self, prefix: bytes, *, revision: int = 0) -> RangeResult:
        """See `Etcd.list`. Pages are sized by bytes, so that large values and many keys both fit."""
        for left in reversed(range(LIST_RESTARTS)):
            try:
                pages = [page async for page in self.pages(prefix, revision=revision)]
            except Oversized:
                raise
            except Compacted:
                if revision or not left:
                    raise
            else:
                kvs = [kv for page in pages for kv in page.kvs]
                return RangeResult(header=pages[0].header, kvs=kvs, count=pages[0].count)
        raise AssertionError("unreachable")

    async def pages(self, prefix: bytes, *, revision: int = 0) -> AsyncGenerator[RangeResult, None]:
        """See `Etcd.pages`."""
        end = prefix_end(prefix)
        key, limit, pinned = prefix or b"\0", FIRST_PAGE, revision
        first: RangeResult | None = None
        while True:
            request = Range(key=key, range_end=end, revision=pinned, limit=limit)
            try:
                body = await self._read("list", "/v3/kv/range", wire.encode_range(request), None, self._config.page_s)
            except Oversized:
                if limit == 1:
                    raise
                limit = max(1, limit // 8)
                continue
            page = self._decoded(wire.decode_range, body)
            first = first or page
            if page.header.cluster_id != first.header.cluster_id:
                raise Unavailable("the pages of a list came from two clusters; not all endpoints are of one")
            pinned = pinned or page.header.revision
            yield page
            if not page.more or not page.kvs:
                return
            key = page.kvs[-1].key + b"\0"
            limit = next_limit(limit, len(body), self._config.page_bytes)

    async def status(self, *, member: Member | None = None) -> MemberStatus:
        """See `Etcd.status`."""
        answer = await self._read("status", "/v3/maintenance/status", b"{}", member, self._config.read_s)
        return self._decoded(wire.decode_status, answer)

    async def version(self, *, member: Member | None = None) -> str:
        """etcd's version, such as `3.6.16`; answered without a token and without a leader."""
        answer = await self._read("version", "/version", None, member, self._config.read_s)
        return self._decoded(wire.decode_version, answer)

    # ---- writes ------------------------------------------------------------------------------------------------------

    async def txn(self, txn: Txn) -> TxnResult:
        """See `Etcd.txn`. What etcd could not take is `Invalid` before anything is sent."""
        limits.check_txn(txn)
        body = wire.encode_txn(txn)
        if all(isinstance(one, Range) for one in (*txn.success, *txn.failure)):
            answer = await self._read("txn", "/v3/kv/txn", body, None, self._config.read_s)
            return self._decoded(wire.decode_txn, answer)
        answer = await self._write("txn", "/v3/kv/txn", body)
        return self._decoded(wire.decode_txn, answer, is_write=True)

    async def put(self, key: bytes, value: bytes, *, expected: int, lease: int = 0) -> TxnResult:
        """Store `value` if the key is still at `mod_revision` `expected` (0: missing); `succeeded` tells."""
        compare = Compare(key=key, target="MOD", value=expected)
        return await self.txn(Txn(compare=(compare,), success=(Put(key=key, value=value, lease=lease),)))

    async def delete(self, key: bytes, *, expected: int) -> TxnResult:
        """Remove a key if it is still at `mod_revision` `expected`; `succeeded` tells."""
        compare = Compare(key=key, target="MOD", value=expected)
        return await self.txn(Txn(compare=(compare,), success=(Delete(key=key),)))

    async def lease_grant(self, ttl_s: int) -> int:
        """A new lease's id. etcd may make it longer than asked. An `Ambiguous` one ends by itself."""
        answer = await self._write("lease_grant", "/v3/lease/grant", wire.encode({"TTL": str(ttl_s)}))
        return self._decoded(wire.decode_lease, answer, is_write=True)[0]

    async def lease_keepalive(self, lease: int) -> int:
        """Renew a lease and return its TTL in seconds. Raises `NotFound` where it is gone; may be repeated."""
        body = wire.encode({"ID": str(lease)})
        answer = await self._read("lease_keepalive", "/v3/lease/keepalive", body, None, self._config.read_s)
        if not (ttl_s := self._decoded(wire.decode_keepalive, answer)):
            raise NotFound(f"lease {lease} has expired or was revoked")
        return ttl_s

    async def lease_revoke(self, lease: int) -> None:
        """End a lease, and with it the keys that hang on it. Raises `NotFound` where it is gone."""
        await self._write("lease_revoke", "/v3/lease/revoke", wire.encode({"ID": str(lease)}))

    # ---- watch -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def watch(
        self, prefix: bytes, start_revision: int, *, member: Member
    ) -> AsyncIterator[AsyncIterator[WatchBatch]]:
        """See `Etcd.watch`. Raises `Refused` where a new token does not help."""
        if start_revision < 1:
            raise Invalid(f"a watch starts at revision 1 or later, not {start_revision}")
        endpoint = self._endpoints.get(member)
        body = wire.encode_watch(prefix, start_revision)

        async def attempt(token: str) -> WatchStream:
            return await self._open_watch(endpoint, body, token)

        stream = await self._attempt(endpoint, "watch", attempt)
        try:
            yield stream
        finally:
            stream.close()

    async def _open_watch(self, endpoint: Endpoint, body: bytes, token: str) -> WatchStream:
        reader = WatchReader(max_line_bytes=self._config.max_line_bytes, max_joined_bytes=self._config.max_joined_bytes)
        stream: WatchStream | None = None
        try:
            async with asyncio.timeout(self._config.created_s):
                response = await self._transport.open_stream(
                    endpoint.url + "/v3/watch", body, headers=_LEADER | _authorization(token)
                )
                stream = WatchStream(response, reader, endpoint.url)
                first = await anext(stream)
        except TimeoutError:
            if stream:
                stream.close()
            raise Unavailable(f"the watch was not confirmed within {self._config.created_s} s") from None
        except BaseException:
            if stream:
                stream.close()
            raise
        if first.kind == CANCELED:
            stream.close()
            raise classify_reason(first.reason)(first.reason or "the watch was canceled at once")
        stream.push_back(first)
        return stream

    # ---- one attempt, and more than one ------------------------------------------------------------------------------

    async def _read(
        self, operation: str, path: str, body: bytes | None, member: Member | None, timeout_s: float
    ) -> bytes:
        """Ask `member`, or one endpoint after the other until one answers or the attempts are used up."""
        if member is not None:
            return await self._post(self._endpoints.get(member), operation, path, body, timeout_s, is_write=False)
        attempts = max(3, self._config.read_rounds * len(self.members))
        endpoint = self._endpoints.next()
        for attempt in range(attempts):
            try:
                return await self._post(endpoint, operation, path, body, timeout_s, is_write=False)
            except (Unreachable, Unavailable):
                if attempt == attempts - 1 or not any(other.available for other in self.members):
                    raise
            await self._sleep(backoff(attempt, self._config.backoff_s, self._config.backoff_cap_s, self._rng))
            following = self._endpoints.next(endpoint)
            endpoint = following if following.available else endpoint
        raise AssertionError("unreachable")

    async def _write(self, operation: str, path: str, body: bytes) -> bytes:
        """Send once; to the next endpoint only where nothing was sent."""
        failures: list[Unreachable] = []
        for endpoint in self._endpoints.order():
            try:
                return await self._post(endpoint, operation, path, body, self._config.write_s, is_write=True)
            except Unreachable as error:
                failures.append(error)
        # One that was asked says more than one that was left alone.
        raise next((error for error in failures if not isinstance(error, LeftAlone)), failures[0])

    async def _post(
        self, endpoint: Endpoint, operation: str, path: str, body: bytes | None, timeout_s: float, *, is_write: bool
    ) -> bytes:
        async def attempt(token: str) -> bytes:
            started = self._clock()
            try:
                return await self._send(endpoint, path, body, token, timeout_s=timeout_s, is_write=is_write)
            except Unavailable as error:
                if is_write and "no leader" in error.detail and self._clock() - started > IMMEDIATE_S:
                    raise Ambiguous(error.detail, **error.fields) from error
                raise

        return await self._attempt(endpoint, operation, attempt)

    async def _send(
        self,
        endpoint: Endpoint,
        path: str,
        body: bytes | None,
        token: str = "",
        *,
        timeout_s: float | None = None,
        is_write: bool = False,
    ) -> bytes:
        timeout_s = timeout_s or self._config.read_s
        return await self._transport.request(
            endpoint.url + path,
            body,
            timeout_s=timeout_s,
            headers=_LEADER | _deadline(timeout_s) | _authorization(token),
            is_write=is_write,
            max_bytes=self._config.max_answer_bytes,
        )

    async def _attempt(self, endpoint: Endpoint, operation: str, attempt: Callable[[str], Awaitable[T]]) -> T:
        """One request with a token, twice where the token was refused; who answers it is preferred from then on."""
        result = await self._tried(endpoint, operation, partial(self._with_token, endpoint, attempt))
        self._endpoints.prefer(endpoint)
        return result

    async def _tried(self, endpoint: Endpoint, operation: str, send: Callable[[], Awaitable[T]]) -> T:
        """One request, where the breaker lets it pass; tells breaker and observer how it ended."""
        if not endpoint.admit():
            raise LeftAlone("left alone after failures (circuit breaker open)", endpoint=endpoint.url)
        started = self._clock()
        outcome = "cancelled"
        try:
            result = await send()
        except EtcdError as error:
            outcome = type(error).__name__.lower()
            self._endpoints.failed(endpoint, error)
            raise _located(error, endpoint.url) from error.__cause__
        except BaseException:
            endpoint.abandoned()
            raise
        else:
            outcome = "ok"
            endpoint.answered()
            return result
        finally:
            self._observer.etcd_call(operation, outcome, self._clock() - started, endpoint.url)

    async def _with_token(self, endpoint: Endpoint, attempt: Callable[[str], Awaitable[T]]) -> T:
        token = await self._auth.token(endpoint.url)
        try:
            return await attempt(token)
        except TokenRefused:
            if not self._auth.enabled:
                raise
        return await attempt(await self._auth.renew(endpoint.url, token))

    async def _authenticate(self, url: str, body: bytes) -> bytes:
        timeout_s = self._config.authenticate_s
        return await self._transport.request(
            url + "/v3/auth/authenticate",
            body,
            timeout_s=timeout_s,
            headers=_deadline(timeout_s),
            is_write=False,
            max_bytes=self._config.max_answer_bytes,
        )

    def _decoded(self, decode: Callable[[bytes], T], body: bytes, *, is_write: bool = False) -> T:
        try:
            return decode(body)
        except wire.Malformed as error:
            raise classify(is_write=is_write, status=200)(f"not an answer of etcd's: {error}") from error


def _located(error: EtcdError, url: str) -> EtcdError:
    return type(error)(error.detail, endpoint=url, **error.fields)


def _deadline(timeout_s: float) -> dict[str, str]:
    """etcd's own deadline, so that it stops trying; it goes on for 7 to 14 s otherwise."""
    return {"Grpc-Timeout": f"{max(1, int(timeout_s * 950))}m"}


def _authorization(token: str) -> dict[str, str]:
    return {"Authorization": token} if token else {}


def backoff(attempt: int, base_s: float, cap_s: float, rng: random.Random) -> float:
    """Full jitter: anything up to `base_s` doubled per attempt, `cap_s` at most."""
    return rng.uniform(0, min(cap_s, base_s * 2.0 ** min(attempt, 30)))


def next_limit(limit: int, page_bytes: int, aim_bytes: int) -> int:
    """How many keys the next page asks for: as many as fit, grown by 16 times at most."""
    fitting = limit * aim_bytes // max(1, page_bytes)
    return max(1, min(fitting, limit * 16, MAX_PAGE))
