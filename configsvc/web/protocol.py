"""One connection: aiohttp's protocol with the bounds that a server on an open port needs, and errors in our shape.

aiohttp waits without end for the rest of a request's head, answers a malformed one in plain text, and logs a stack
trace for it. Here a head has a deadline, and whatever goes wrong before routing is a problem document and one log line.
The only module that subclasses aiohttp's protocol.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import struct
from typing import Any

import structlog
from aiohttp import http_exceptions, web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from configsvc.errors import ConfigSvcError, HeadersTooLarge, Internal, InvalidRequest, RequestTimeout
from configsvc.metrics import Metrics
from configsvc.web import context, problems
from configsvc.web.memo import Memo, Ticket, is_head

KEEPALIVE_S = 75.0
"""An idle connection is closed after this time: longer than the common proxies keep theirs."""
MAX_LINE_BYTES = 8 * 1024
"""A key of 1,024 bytes, percent-encoded, with the longest scope and parameters, fits."""
MAX_FIELD_BYTES = 16 * 1024
MAX_FIELDS = 100
MAX_UNSENT_BYTES = 128 * 1024
"""What the kernel takes from us beyond what is on its way; by itself it takes megabytes, also for a reader that stands
still."""
LINGER_S = 2.0
"""How long the rest of an unwanted body is read and thrown away, so that the answer is not lost in a reset."""

log = structlog.get_logger("configsvc.http")


def reset(transport: asyncio.Transport) -> None:
    """End a connection at once, with what is unsent: after a plain close the kernel keeps that for minutes."""
    _set(transport, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
    transport.abort()


def _set(transport: asyncio.BaseTransport, level: int, option: int, value: int | bytes) -> None:
    if (sock := transport.get_extra_info("socket")) is not None:
        # Some systems set nothing on a socket whose other side is gone.
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, value)


class Protocol(RequestHandler):
    """A connection with a deadline for each request's head."""

    __slots__ = (
        "_aligned",
        "_caller",
        "_deadline",
        "_first",
        "_head_timeout_s",
        "_listener",
        "_memo",
        "_metrics",
        "_silent_s",
        "_stalled",
        "_stalled_s",
        "_ticket",
        "_unsent",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        head_timeout_s: float,
        stalled_s: float,
        metrics: Metrics,
        silent_s: float = KEEPALIVE_S,
        memo: Memo | None = None,
        listener: str = "",
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=KEEPALIVE_S,
            access_log=None,  # type: ignore[arg-type]  # None is how aiohttp is told to write none
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_FIELDS,
            lingering_time=LINGER_S,
            # A body stays as it was sent: unpacking is how a small request becomes a large one.
            auto_decompress=False,
        )
        self._head_timeout_s = head_timeout_s
        self._metrics = metrics
        self._deadline: asyncio.TimerHandle | None = None
        self._silent_s = silent_s
        self._first: asyncio.TimerHandle | None = None
        self._stalled_s = stalled_s
        self._stalled: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._memo = memo
        self._aligned = memo is not None
        """Whether each segment so far was the head of one request without a body, whole and alone: then the next one
        begins a request, and no half of an earlier one is hidden in the parser. Once lost it stays lost."""
        self._ticket: Ticket | None = None
        self._listener, self._caller = listener, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound what the kernel keeps for a slow reader, and how long a first word may take."""
        super().connection_made(transport)
        # aiohttp counts idle time between requests only.
        self._first = self._loop.call_later(self._silent_s, transport.close)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            _set(transport, socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
        if self._memo is not None:
            tls = transport.get_extra_info("ssl_object")
            certificate = (tls.getpeercert(binary_form=True) if tls else None) or b""
            self._caller = self._memo.caller(self._listener, certificate)

    def data_received(self, data: bytes) -> None:
        """Start the clock with the first byte of a head and stop it with the last."""
        if self._first is not None:
            self._first.cancel()
            self._first = None
        received = self._request_count
        if not self._aligned or not data:
            super().data_received(data)
        elif self._answered_before(data):
            return
        else:
            self._receive_head(data)
        if self._request_count != received:
            self._stop_clock()
            # Of what follows a body we cannot tell whether it is a head.
            begun = self._messages[-1][1] is EMPTY_PAYLOAD and not data.endswith(b"\r\n\r\n")
        else:
            # While a request is being answered, what arrives is its body or belongs to a later one. The task that
            # waits for the first one may not have begun yet.
            begun = self._deadline is None and (self._idle() or not received)
        if begun and data.strip(b"\r\n"):
            self._deadline = self._loop.call_later(self._head_timeout_s, self._head_overdue)

    def _answered_before(self, data: bytes) -> bool:
        """Answer a request at once if its like was answered before and nothing has changed since."""
        # Not the first of a connection, which arms aiohttp's time-outs; nor one that has to wait for its turn or for a
        # slow reader.
        if not self._request_count or self._paused or not self._idle():
            return False
        memo, transport, manager = self._memo, self.transport, self._manager
        assert memo is not None
        assert transport is not None
        assert manager is not None
        answer = memo.get(self._caller + data)
        if answer is None:
            return False
        transport.write(answer.data)
        self._request_count += 1
        manager.requests_count += 1
        self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_S
        return True

    def _receive_head(self, data: bytes) -> None:
        """Let the ordinary path answer, and note what it takes to keep that answer."""
        memo, received = self._memo, self._request_count
        assert memo is not None
        idle = self._idle()
        self._aligned = is_head(data)
        if self._aligned and idle:
            self._ticket = memo.ticket(self._caller + data)
        super().data_received(data)
        if self._request_count != received + 1:
            # The parser sees something else there than we do.
            self._aligned, self._ticket = False, None

    def _idle(self) -> bool:
        """Whether everything that was asked has been answered."""
        return self._waiter is not None and not self._waiter.done()

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Give the connection to `protocol`, from within a handler that has sent all that it will.

        For aiohttp it is lost with that: nothing of this side, its request and its task is kept for it. Raises
        `ConnectionResetError` where it really is.
        """
        transport, self.transport = self.transport, None
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the other side is gone")
        # The handler is to return, not to be cancelled.
        self._task_handler = None
        self.connection_lost(None)
        transport.set_protocol(protocol)
        transport.resume_reading()
        protocol.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clocks."""
        if self._first is not None:
            self._first.cancel()
        self._stop_clock()
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Watch the other side while it is slower than we are."""
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size() if self.transport else 0
        self._stalled = self._loop.call_later(self._stalled_s, self._look_at_writing)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stop_watching()
        super().resume_writing()

    def _look_at_writing(self) -> None:
        """Abort where nothing was taken since the last look: an answer that nobody reads is not kept for ever."""
        self._stalled = None
        if self.transport is None:
            return
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if self._unsent >= before:
            log.info("connection aborted: its reader takes nothing", unsent_bytes=self._unsent)
            reset(self.transport)
        else:
            self._stalled = self._loop.call_later(self._stalled_s, self._look_at_writing)

    def _stop_watching(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _head_overdue(self) -> None:
        self._deadline = None
        if self.transport is None:
            return
        if not self._idle() and self._request_count:
            # The requests before it come first, however long they take.
            self._deadline = self._loop.call_later(self._head_timeout_s, self._head_overdue)
            return
        error = RequestTimeout(f"the request's head was not complete within {self._head_timeout_s:g} s")
        request_id = self._refused(error)
        self.transport.write(_raw(error, request_id))
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached the application, or what it failed to answer."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer broke off")
        if status < 500:
            error = _of_parser(exc)
            request_id = self._refused(error)
        else:
            error = Internal("the service failed; its log has the reason under this request id")
            request_id = secrets.token_hex(8)
            log.error("request failed outside the application", request_id=request_id, exc_info=exc)
        response = problems.response(error, request_id)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; those of aiohttp's that no middleware saw are put in our shape first."""
        if isinstance(resp, web.HTTPException):
            error = problems.of_http_exception(resp, request.method)
            resp = problems.response(error, self._refused(error))
        ticket, self._ticket = self._ticket, None
        # The application is done with it, but it is not sent yet: a stopping service has to wait for that too.
        self._metrics.in_progress += 1
        try:
            sent, reset = await super().finish_response(request, resp, start_time)
        finally:
            self._metrics.in_progress -= 1
        if ticket is not None and not reset:
            self._keep(ticket, request, sent)
        return sent, reset

    def _keep(self, ticket: Ticket, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Hand an answer to the memo, where whoever made it has said what it rests on."""
        ground = request.get(context.GROUND)
        if ground is None or not isinstance(request, web.Request) or not isinstance(response, web.Response):
            return
        row, body = context.route(request), response.body
        if self._memo is None or row is None or not response.keep_alive or not isinstance(body, bytes | None):
            return
        self._memo.admit(
            ticket,
            ground,
            route=row.path,
            status=response.status,
            reason=response.reason,
            headers=response.headers.items(),
            body=body or b"",
        )

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """aiohttp's last resort: something broke outside of any request."""
        log.error("connection failed", exc_info=kw.get("exc_info"))

    def _refused(self, error: ConfigSvcError) -> str:
        """Count and log a request that was refused before routing; returns the id that it gets."""
        request_id = secrets.token_hex(8)
        self._metrics.refused(error.code)
        peer = self.peername[0] if isinstance(self.peername, tuple) else self.peername
        log.info("request refused", code=error.code, detail=error.detail, peer=peer, request_id=request_id)
        return request_id


def _of_parser(exc: BaseException | None) -> ConfigSvcError:
    """Our error for one of the parser's. Its text may repeat the request, so only its kind is told."""
    match exc:
        case http_exceptions.LineTooLong():
            return HeadersTooLarge(
                f"the request line may have {MAX_LINE_BYTES} bytes and each header {MAX_FIELD_BYTES}",
                max_line_bytes=MAX_LINE_BYTES,
                max_header_bytes=MAX_FIELD_BYTES,
            )
        case http_exceptions.BadHttpMessage() if "Too many" in exc.message:
            return HeadersTooLarge(f"at most {MAX_FIELDS} headers may be sent", max_headers=MAX_FIELDS)
        case http_exceptions.BadHttpMessage() if "Host" in exc.message:
            return InvalidRequest("HTTP/1.1 wants one Host header", code="invalid_header")
        case http_exceptions.InvalidURLError():
            return InvalidRequest(
                "the path is malformed; what is not printable ASCII is percent-encoded, as in %C3%A9",
                code="invalid_path",
            )
        case http_exceptions.BadHttpMethod() | http_exceptions.BadStatusLine():
            return InvalidRequest("the request line is not HTTP, such as GET /v1/self HTTP/1.1", code="bad_request")
        case http_exceptions.InvalidHeader():
            return InvalidRequest("a header is malformed: it is name, colon, value on one line", code="invalid_header")
    return InvalidRequest("the request is not well-formed HTTP/1.1", code="bad_request")


def _raw(error: ConfigSvcError, request_id: str) -> bytes:
    """A whole answer as bytes, for when there is no request to answer."""
    body = problems.document(error, request_id)
    head = (
        f"HTTP/1.1 {error.status} {error.title}\r\nContent-Type: {problems.MEDIA_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-Id: {request_id}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
