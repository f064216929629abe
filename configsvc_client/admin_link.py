"""Calls of the management API over HTTP: which address is asked, what may be sent again, and what an answer means.

The rules about addresses and tokens are the client's (`link.py`): a token goes to addresses that somebody configured,
and on loopback to what says that it is configsvc; redirects are not followed, proxies of the environment not used.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from random import Random
from typing import Protocol

import aiohttp
import msgspec
from yarl import URL

from configsvc_client.admin_types import AdminError, Service
from configsvc_client.answers import NOT_OURS, mapped_errors, read_body
from configsvc_client.backoff import Backoff
from configsvc_client.errors import LinkError
from configsvc_client.options import Endpoint, Options
from configsvc_client.resolver import DaemonResolver
from configsvc_client.token_file import TokenFile

MAX_ANSWER = 256 * 1024 * 1024
CONNECT_S = 10.0
ROUNDS = 3
"""How often every address is tried with a write that may be sent again."""
MAX_PAUSE_S = 5.0
"""A service that asks for more patience is not waited for."""
_PAUSE = Backoff(base_s=0.2, cap_s=2.0)
_NOT_DONE = frozenset({408, 425, 429, 503})
"""Statuses by which the service says that it did nothing, and perhaps another one would."""


class Sink(Protocol):
    """Takes a long answer piece by piece; `begin` is called before the first, also where another address failed."""

    def begin(self) -> None: ...

    def feed(self, data: bytes) -> None: ...


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request. `path` has its query and is encoded already. `size` is that of a `body` which is made as it is sent.

    `key` is an `Idempotency-Key`. `repeats` says that the call may be sent again when its answer was lost: because of
    its key, or because it sets something to what it says. `writes`: it may change something.
    """

    method: str
    path: str
    body: bytes | Callable[[], AsyncIterator[bytes]] | None = None
    size: int | None = None
    media: str = "application/json"
    accept: str = "application/json"
    key: str | None = None
    repeats: bool = False
    timeout_s: float | None = None
    sink: Sink | None = None
    writes: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A 200: who gave it, its body, and its headers."""

    url: str
    body: bytes
    headers: Mapping[str, str]


class _Failed(Exception):
    """This address gave no answer, another one may. `is_lost`: the call may have been carried out.

    `problem` is what the service itself said, `retry_after_s` how long it asked to wait. `passes`: it may answer later.
    """

    def __init__(
        self,
        detail: str,
        *,
        is_lost: bool = False,
        passes: bool = False,
        problem: AdminError | None = None,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.is_lost = is_lost
        self.passes = passes
        self.problem = problem
        self.retry_after_s = retry_after_s


class _LocalError(Exception):
    """An error of this machine's disk, which says nothing of the address."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def _local_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _LocalError(error) from None


class AdminLink:
    """The addresses of one service. Bound to the loop of its first call until it is closed."""

    def __init__(self, options: Options, timeout_s: float) -> None:
        self._options = options
        self._timeout_s = timeout_s
        self._token_file = None if options.token_file is None else TokenFile(options.token_file)
        self._known: dict[str, Service] = {}
        self._http: aiohttp.ClientSession | None = None

    def renewed(self) -> "AdminLink":
        """The same for another loop: what was learned about the addresses is shared, connections are not."""
        other = AdminLink(self._options, self._timeout_s)
        other._known = self._known
        return other

    async def close(self) -> None:
        """Close the connections; a later call opens others."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def ask(self, call: Call) -> Answer:
        """The answer of the first address that gives one. Raises `AdminError`.

        Addresses that cannot be reached, are not configsvc's or say that they cannot answer now are passed over. A
        write whose answer was lost is sent again if that is harmless, and else ends this with `outcome_unknown`.
        """
        failed, lost = dict[str, _Failed](), dict[str, _Failed]()
        for tries in range(ROUNDS if call.repeats else 1):
            for endpoint in self._options.endpoints:
                try:
                    return await self._ask(endpoint, call)
                except _Failed as error:
                    failed[endpoint.url] = error
                    if error.is_lost and call.writes:
                        lost[endpoint.url] = error
                        if not call.repeats:
                            raise self._error(lost, is_lost=True) from None
            asked_s = max(error.retry_after_s for error in failed.values())
            may_pass = any(error.is_lost or error.passes for error in failed.values())
            if tries == ROUNDS - 1 or asked_s > MAX_PAUSE_S or not (call.repeats and may_pass):
                break
            await asyncio.sleep(_PAUSE.delay_s(tries, Random(), floor_s=asked_s))
        # Where an answer was lost, that is what happened; that a later try was refused says nothing of it.
        raise self._error(lost or failed, is_lost=bool(lost))

    def _error(self, failed: Mapping[str, _Failed], *, is_lost: bool) -> AdminError:
        """Why no address gave an answer: in the words of a service, where one said anything."""
        lines = tuple(f"{url}: {error.detail}" for url, error in failed.items())
        told = [error.problem for error in failed.values() if error.problem and error.is_lost == is_lost]
        if told:
            told[0].reasons = lines
            return told[0]
        if is_lost:
            text = "it is not known whether the write took place; look at the releases before you repeat it"
            return AdminError("outcome_unknown", f"{text} ({'; '.join(lines)})", reasons=lines)
        if not self._options.endpoints[0].configured:
            lines += ("name the service by its URL, or set CONFIGSVC_URL",)
        return AdminError("unreachable", "; ".join(lines), reasons=lines)

    # ---- one address ------------------------------------------------------------------------------------------------

    async def _ask(self, endpoint: Endpoint, call: Call) -> Answer:
        timeout_s, sent = call.timeout_s or self._timeout_s, False
        try:
            async with asyncio.timeout(None if call.sink else timeout_s), mapped_errors():
                headers = await self._headers(endpoint, call)
                sent = True
                return await self._send(endpoint, call, headers, timeout_s)
        except _LocalError as local:
            raise local.error from None
        except TimeoutError:
            raise _Failed("no answer in time", is_lost=sent) from None
        except LinkError as error:
            if error.kind == "token":
                raise AdminError("token", error.detail) from None
            if isinstance(error.__cause__, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
                sent = False
            raise _Failed(error.detail, is_lost=sent) from None

    async def _send(self, endpoint: Endpoint, call: Call, headers: dict[str, str], timeout_s: float) -> Answer:
        body = call.body() if callable(call.body) else call.body
        async with self._session().request(
            call.method,
            URL(endpoint.url + call.path, encoded=True),
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=min(0.9 * timeout_s, CONNECT_S), sock_read=timeout_s if call.sink else None
            ),
        ) as response:
            if response.status != 200:
                raise await _refusal(response, call)
            if response.content_type != call.accept:
                # What was meant for us may have been done all the same, behind whatever answers here.
                raise _Failed("what answers there is not configsvc", is_lost=call.writes)
            if call.sink is None:
                found = await read_body(response, MAX_ANSWER)
            else:
                found = b""
                with _local_errors():
                    call.sink.begin()
                async for chunk in response.content.iter_any():
                    with _local_errors():
                        call.sink.feed(chunk)
            return Answer(url=endpoint.url, body=found, headers=response.headers)

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=DaemonResolver(), limit=16),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                headers={"User-Agent": "configsvc-admin"},
            )
        return self._http

    async def _headers(self, endpoint: Endpoint, call: Call) -> dict[str, str]:
        headers = {"Accept": call.accept}
        if call.body is not None:
            headers["Content-Type"] = call.media
        if call.size is not None:
            headers["Content-Length"] = str(call.size)
        if call.key is not None:
            headers["Idempotency-Key"] = call.key
        if not endpoint.configured and endpoint.url not in self._known:
            self._known[endpoint.url] = await self._ask_self(endpoint)
        if self._token_file is not None and (endpoint.configured or endpoint.is_loopback):
            headers |= await self._token_file.header()
        return headers

    async def _ask_self(self, endpoint: Endpoint) -> Service:
        """What a default address says of itself, before anything else is told to it."""
        async with self._session().get(URL(endpoint.self_url, encoded=True), allow_redirects=False) as response:
            said = Service()
            # A service that wants a token says what it is in its refusal too.
            if response.status in (200, 401):
                with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    said = msgspec.json.decode(await read_body(response), type=Service)
        if said.service != "configsvc":
            raise LinkError("not_configsvc", "what answers there is not configsvc")
        return said


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""
    code: str = ""


async def _refusal(response: aiohttp.ClientResponse, call: Call) -> Exception:
    """What an answer that is no 200 means."""
    status = response.status
    if 300 <= status < 400:
        return _Failed(f"the answer is a redirect ({status}), which is not followed")
    body = await read_body(response, MAX_ANSWER)
    try:
        problem = msgspec.json.decode(body, type=_Problem)
        fields = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        problem, fields = _Problem(), None
    if call.method == "HEAD" and status < 500:
        return AdminError("refused", f"HTTP {status}", status=status)
    if not problem.code:
        # A proxy that lost the service behind it.
        is_lost = status >= 500 and status != 503
        return _Failed(f"HTTP {status}: {NOT_OURS}", is_lost=is_lost, passes=is_lost)
    error = AdminError(problem.code, problem.detail, status=status, fields=fields)
    asked = response.headers.get("Retry-After", "")
    retry_after_s = float(asked) if asked.isascii() and asked.isdigit() else 0.0
    if status in _NOT_DONE or (status >= 500 and not call.writes):
        return _Failed(error.detail, passes=True, problem=error, retry_after_s=retry_after_s)
    if status == 504 and call.repeats:
        return _Failed(error.detail, is_lost=True, passes=True, problem=error, retry_after_s=retry_after_s)
    return error
