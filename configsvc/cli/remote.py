"""Asks a running service over its HTTP API, by the client's rules about addresses and tokens.

Owns which address is asked and what an answer means for the exit code; knows no command.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from configsvc.cli import exits
from configsvc_client.errors import InvalidOption, printable
from configsvc_client.options import Endpoint, Options, is_name, resolve

MAX_TOKEN = 64 * 1024
_STATUS_EXIT = {400: exits.USAGE, 401: exits.REFUSED, 403: exits.REFUSED, 404: exits.FAILED}


class RemoteError(Exception):
    """Why there is no answer: the command's exit code, and a line for each thing that people should know."""

    def __init__(self, code: int, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.code = code
        self.lines = lines


class Answer(NamedTuple):
    """A 200: who gave it, its body, and how fresh it says that it is."""

    url: str
    body: bytes
    source: str
    staleness_s: str

    @property
    def stale(self) -> str | None:
        """A line for people where the answer is not proved to be the newest."""
        if self.source in ("", "live"):
            return None
        return (
            f"may be out of date: {self.url} answers from its {printable(self.source, 16)}, "
            f"last proved {printable(self.staleness_s, 16)} s ago"
        )


class _Self(msgspec.Struct, frozen=True):
    service: str | None = None
    namespace: str | None = None
    environment: str | None = None


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""
    code: str = ""


class Scope(NamedTuple):
    """Which configuration is meant."""

    namespace: str
    environment: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.environment}"

    def path(self, *key: str) -> str:
        """The path of the scope, or of a key in it."""
        return "/v1/config/" + "/".join(quote(part, safe="") for part in (*self, *key))


class Remote:
    """The first of the addresses that answers; `get` raises `RemoteError` and nothing else."""

    def __init__(self, options: Options, http: aiohttp.ClientSession) -> None:
        self.options = options
        self._http = http
        self._known: dict[str, _Self] = {}

    async def scope(self) -> Scope:
        """The scope that options, environment or the service name, in this order."""
        namespace, environment = self.options.namespace, self.options.environment
        if namespace is None or environment is None:
            said = _decoded(await self.get("/v1/self"))
            namespace, environment = namespace or said.namespace, environment or said.environment
        if not namespace or not is_name(namespace):
            raise RemoteError(exits.USAGE, "which namespace? Name it with --namespace, or set SERVICE_NAME")
        if not environment or not is_name(environment):
            raise RemoteError(exits.USAGE, "which environment? Name it with --environment, or set CONFIG_ENVIRONMENT")
        return Scope(namespace, environment)

    async def get(self, path: str) -> Answer:
        """The answer of the first address that gives one; addresses that fail or have no data yet are passed over."""
        reasons: list[str] = []
        for endpoint in self.options.endpoints:
            try:
                return await self._ask(endpoint, path)
            except RemoteError as error:
                if error.code != exits.UNAVAILABLE:
                    raise
                reasons += error.lines
        hint = () if self.options.endpoints[0].configured else ("name the service with --url or CONFIGSVC_URL",)
        raise RemoteError(exits.UNAVAILABLE, *reasons, *hint)

    async def _ask(self, endpoint: Endpoint, path: str) -> Answer:
        try:
            headers = await self._authorization(endpoint)
            async with self._http.get(
                URL(endpoint.url + path, encoded=True), headers=headers, allow_redirects=False
            ) as response:
                body = await response.read()
                if response.status != 200:
                    raise _refusal(endpoint.url, response.status, body)
                return Answer(
                    endpoint.url,
                    body,
                    response.headers.get("Configsvc-Source", ""),
                    response.headers.get("Configsvc-Staleness", ""),
                )
        except TimeoutError:
            raise RemoteError(exits.UNAVAILABLE, f"{endpoint.url}: no answer in time") from None
        except aiohttp.ClientConnectorError as error:
            raise RemoteError(exits.UNAVAILABLE, f"{endpoint.url}: cannot connect: {_reason(error.os_error)}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            text = printable(str(error) or type(error).__name__)
            raise RemoteError(exits.UNAVAILABLE, f"{endpoint.url}: {text}") from None

    async def _authorization(self, endpoint: Endpoint) -> dict[str, str]:
        """The token goes where somebody named the address, and on loopback to what says that it is configsvc."""
        if not endpoint.configured and endpoint.url not in self._known:
            async with self._http.get(endpoint.self_url, allow_redirects=False) as response:
                self._known[endpoint.url] = _decode_self(endpoint.url, await response.read())
        if self.options.token_file is None or not (endpoint.configured or endpoint.is_loopback):
            return {}
        return {"Authorization": f"Bearer {_token(Path(self.options.token_file))}"}


def _reason(error: OSError) -> str:
    """An error of the operating system in its own words, without addresses and numbers."""
    if (error.errno or 0) > 0 and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(error.errno or 0).lower()
    return error.strerror or str(error) or type(error).__name__


def _decoded(answer: Answer) -> _Self:
    return _decode_self(answer.url, answer.body)


def _decode_self(url: str, body: bytes) -> _Self:
    try:
        said = msgspec.json.decode(body, type=_Self)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = _Self()
    if said.service != "configsvc":
        raise RemoteError(exits.UNAVAILABLE, f"{url}: what answers there is not configsvc")
    return said


def _refusal(url: str, status: int, body: bytes) -> RemoteError:
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        problem = _Problem()
    if not problem.code:
        return RemoteError(exits.UNAVAILABLE, f"{url}: answers HTTP {status}, not as configsvc does")
    code = _STATUS_EXIT.get(status, exits.UNAVAILABLE)
    detail = printable(problem.detail, 2000)
    return RemoteError(code, f"{url}: {detail}" if code == exits.UNAVAILABLE else detail)


def _token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN + 1).strip()
    except OSError as error:
        raise RemoteError(exits.CONFIG, f"token file {path}: {error.strerror}") from None
    if not token or len(token) > MAX_TOKEN or not all(0x21 <= byte <= 0x7E for byte in token):
        raise RemoteError(exits.CONFIG, f"token file {path} does not hold one token")
    return token.decode("ascii")


def resolve_options(
    url: str | None, namespace: str | None, environment: str | None, token_file: Path | None
) -> Options:
    """Options over the environment's variables; ends the command where one cannot be right."""
    try:
        return resolve(os.environ, url=url, namespace=namespace, environment=environment, token_file=token_file)
    except InvalidOption as error:
        exits.fail(exits.USAGE, str(error))


@asynccontextmanager
async def open_remote(options: Options, timeout_s: float) -> AsyncIterator[Remote]:
    """A `Remote`; every answer has to be complete within `timeout_s`."""
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        headers={"User-Agent": "configsvc-cli", "Accept": "application/json"},
    ) as http:
        yield Remote(options, http)


def call(coroutine: Any) -> Any:
    """Run a command's coroutine; a `RemoteError` becomes its lines and exit code."""
    try:
        return asyncio.run(coroutine)
    except RemoteError as error:
        exits.fail(error.code, *error.lines)
