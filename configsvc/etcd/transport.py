"""HTTP to etcd's gateway: two sessions, TLS, deadlines; foreign exceptions become ours here and nowhere else.

Requests and watches have sessions of their own, because a watch holds its connection for as long as it lives. No
redirects and no proxies from the environment: a token goes to the configured URL or nowhere. Knows nothing of what
the bodies mean, but for errors.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType

import aiohttp

from configsvc.etcd import wire
from configsvc.etcd.classify import NotEtcd, classify
from configsvc.etcd.ops import EtcdError, Oversized
from configsvc.etcd.tls import TlsFiles

WATCH_BUFFER_BYTES = 128 * 1024
MAX_ERROR_BYTES = 64 * 1024
_NO_COMPRESSION = {"Accept-Encoding": "identity", "Content-Type": "application/json"}


class Transport:
    """The sessions. An async context manager; entering opens no connection."""

    def __init__(self, tls: TlsFiles, *, pool_size: int, connect_s: float) -> None:
        self._tls = tls
        self._pool_size = pool_size
        self._connect_s = connect_s
        self._stack = AsyncExitStack()
        self._requests: aiohttp.ClientSession
        self._watches: aiohttp.ClientSession

    async def __aenter__(self) -> "Transport":
        context = self._tls.context()
        self._requests = await self._session(context, limit=self._pool_size)
        self._watches = await self._session(context, limit=0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _session(self, context: ssl.SSLContext, *, limit: int) -> aiohttp.ClientSession:
        return await self._stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=limit),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_NO_COMPRESSION,
                trust_env=False,
            )
        )

    async def request(
        self,
        url: str,
        body: bytes | None,
        *,
        timeout_s: float,
        headers: Mapping[str, str],
        is_write: bool,
        max_bytes: int,
    ) -> bytes:
        """POST `body` (GET without one) and return the body of a 200.

        Everything else is raised: `Oversized` for an answer over `max_bytes`, the rest as `classify` says. A read
        whose pooled connection turns out to be closed is sent once more; a write is not.
        """
        try:
            return await self._request(url, body, timeout_s, headers, is_write, max_bytes)
        except EtcdError as error:
            if is_write or not stale(error):
                raise
        return await self._request(url, body, timeout_s, headers, is_write, max_bytes)

    async def _request(
        self, url: str, body: bytes | None, timeout_s: float, headers: Mapping[str, str], is_write: bool, max_bytes: int
    ) -> bytes:
        # Getting a connection has limits of its own, below the whole: so a timeout tells whether anything was sent.
        before_s = timeout_s * 0.9
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=before_s, sock_connect=min(self._connect_s, before_s))
        method = "GET" if body is None else "POST"
        with translated(is_write=is_write):
            async with self._requests.request(
                method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                answer = await _read(response, max_bytes)
                if response.status != 200:
                    raise answer_error(response, answer, is_write=is_write)
                return answer

    async def open_stream(self, url: str, body: bytes, *, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """POST `body` and return the answer with its body unread; the caller closes it and sets the deadline."""
        try:
            return await self._open_stream(url, body, headers)
        except EtcdError as error:
            if not stale(error):
                raise
        return await self._open_stream(url, body, headers)

    async def _open_stream(self, url: str, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(total=None, connect=self._connect_s)
        with translated(is_write=False):
            response = await self._watches.post(
                url,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                read_bufsize=WATCH_BUFFER_BYTES,
            )
            if response.status == 200:
                return response
            try:
                answer = await _read(response, MAX_ERROR_BYTES)
            finally:
                response.close()
            raise answer_error(response, answer, is_write=False)


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    if (response.content_length or 0) > max_bytes:
        response.close()
        raise Oversized(f"the answer has {response.content_length} bytes, over {max_bytes}")
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > max_bytes:
            response.close()
            raise Oversized(f"the answer is over {max_bytes} bytes")
    return bytes(body)


def answer_error(response: aiohttp.ClientResponse, body: bytes, *, is_write: bool) -> EtcdError:
    """The error that an answer other than 200 is."""
    code, message = wire.decode_error(body)
    kind = classify(is_write=is_write, status=response.status, code=code, message=message)
    if 300 <= response.status < 400:
        message = f"redirects to {response.headers.get('Location', 'nowhere')}, which is not followed"
    if kind is NotEtcd:
        message = (
            f"does not answer like etcd's gateway (HTTP {response.status}: {message!r}); "
            "is this a client URL of etcd, 3.4 or newer?"
        )
    return kind(message or f"HTTP {response.status}", status=response.status, code=code)


def stale(error: EtcdError) -> bool:
    """Whether the connection was closed before an answer began: mostly an idle one, closed while nobody looked."""
    return bool(error.fields.get("stale"))


@contextmanager
def translated(*, is_write: bool) -> Iterator[None]:
    """Raise what aiohttp raises as an `EtcdError`; the text is the transport's."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        kind = classify(is_write=is_write, transport="not_sent")
        raise kind(f"its certificate is not trusted: {error.certificate_error}") from error
    except aiohttp.ClientConnectorError as error:
        kind = classify(is_write=is_write, transport="not_sent")
        raise kind(f"cannot connect: {reason(error.os_error)}") from error
    except aiohttp.ConnectionTimeoutError as error:
        kind = classify(is_write=is_write, transport="not_sent")
        raise kind("cannot connect: no answer in time") from error
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        kind = classify(is_write=is_write, transport="broken")
        raise kind(f"closed the connection without an answer ({error})", stale=True) from error
    except TimeoutError as error:
        kind = classify(is_write=is_write, transport="timeout")
        raise kind("no answer in time") from error
    except aiohttp.InvalidURL as error:
        kind = classify(is_write=is_write, transport="not_sent")
        raise kind(f"not a URL: {error}") from error
    except aiohttp.ClientPayloadError as error:
        kind = classify(is_write=is_write, transport="broken")
        raise kind("the connection ended in the middle of an answer") from error
    except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
        kind = classify(is_write=is_write, transport="broken")
        raise kind(f"{type(error).__name__}: {error}") from error


def reason(error: OSError) -> str:
    """An error of the operating system in its own words, without addresses and numbers."""
    if error.errno is not None and error.errno > 0 and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(error.errno).lower()
    return error.strerror or str(error) or type(error).__name__
