"""What comes back over HTTP: requests as this client makes them, refusals and foreign exceptions as `LinkError`, and
bodies within bounds. Knows nothing of states, streams and tokens (`link.py`).
"""

import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from yarl import URL

from configsvc_client.errors import PASSING_STATUS, Kind, LinkError
from configsvc_client.sse import EventTooLarge

MAX_BODY = 64 * 1024
"""Of answers that are neither a state nor a stream."""


NOT_OURS = "it answers, but not as configsvc does; another program, or a proxy, is there"


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""
    code: str = ""


async def get(
    http: aiohttp.ClientSession, url: str, headers: dict[str, str], *, auto_decompress: bool = True
) -> aiohttp.ClientResponse:
    """Ask; redirects are never followed, since the token must not go elsewhere."""
    return await http.get(
        URL(url, encoded=True), headers=headers, allow_redirects=False, auto_decompress=auto_decompress
    )


async def check(response: aiohttp.ClientResponse) -> None:
    """Raise for anything but a 200, with the service's own reason where it gave one."""
    status = response.status
    if status == 200:
        return
    if 300 <= status < 400:
        raise LinkError("not_a_stream", f"the answer is a redirect ({status}), which is not followed")
    problem = _Problem()
    if "json" in response.content_type:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            problem = msgspec.json.decode(await read_body(response), type=_Problem)
    is_refusal = 400 <= status < 500 and status not in PASSING_STATUS
    said = problem.detail or ("" if problem.code or not is_refusal else NOT_OURS)
    retry_after = response.headers.get("Retry-After", "")
    raise LinkError(
        "status",
        f"HTTP {status}" + (f": {said}" if said else ""),
        status=status,
        retry_after_s=float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0,
        is_final=is_refusal and bool(problem.code),
    )


async def read_body(response: aiohttp.ClientResponse, max_bytes: int = MAX_BODY, kind: Kind = "not_configsvc") -> bytes:
    """A body, whole; more than that is not from this service."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            raise LinkError(kind, f"the answer is longer than {max_bytes} bytes")
    return bytes(body)


@asynccontextmanager
async def mapped_errors() -> AsyncIterator[None]:
    """Turn what sockets and HTTP raise into `LinkError`."""
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
