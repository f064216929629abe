"""Asks each endpoint by itself what an operator would ask: version, status, alarms, permissions, progress notices.

For `configsvc check` only: nothing here retries, fails over or keeps state, because what fails is the news. Changes
nothing in etcd. What the answers mean is not decided here (`configsvc/checks.py`).
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from configsvc.etcd import wire
from configsvc.etcd.auth import Auth
from configsvc.etcd.classify import NotEtcd, TokenRefused
from configsvc.etcd.facts import (
    Alarm,
    Certificate,
    ClusterMember,
    EndpointFacts,
    Permission,
    Progress,
    UserFacts,
    decoded,
    metrics,
    read_certificate,
)
from configsvc.etcd.gateway import GatewayConfig
from configsvc.etcd.ops import CREATED, PROGRESS, EtcdError, Header, Refused
from configsvc.etcd.reader import WatchReader
from configsvc.etcd.stream import WatchStream
from configsvc.etcd.tls import TlsFiles
from configsvc.etcd.transport import answer_error, translated

CREATED_S = 2.0
QUOTA, COMPACTED, CURRENT = (
    "etcd_server_quota_backend_bytes",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_current_revision",
)


class _Status(msgspec.Struct, frozen=True, kw_only=True):
    header: Header
    leader: str = "0"
    db_size: int = msgspec.field(default=0, name="dbSize")
    db_used: int | None = msgspec.field(default=None, name="dbSizeInUse")
    quota: int | None = msgspec.field(default=None, name="dbSizeQuota")
    learner: bool = msgspec.field(default=False, name="isLearner")


class _Members(msgspec.Struct, frozen=True):
    members: list[ClusterMember] = []


class _Alarms(msgspec.Struct, frozen=True):
    alarms: list[Alarm] = []


class _User(msgspec.Struct, frozen=True):
    roles: list[str] = []


class _Role(msgspec.Struct, frozen=True):
    perm: list[Permission] = []


class Survey:
    """An async context manager; entering reads the TLS files and raises `Refused` where that fails.

    `timeout_s` is for each answer, `progress_s` for listening to progress notices (0: not at all).
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        timeout_s: float,
        progress_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._progress_s = progress_s
        self._clock = clock
        self._wall = wall
        self._auth = Auth(config.user, config.password_file, self._authenticate, clock=clock, wall=wall)
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> "Survey":
        context = self._tls.context()
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            headers={"Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._auth.close()
        await self._http.close()

    @property
    def _tls(self) -> TlsFiles:
        return TlsFiles(cacert=self._config.cacert, cert=self._config.cert, key=self._config.key)

    # ---- one endpoint ------------------------------------------------------------------------------------------------

    async def endpoint(self, url: str, quiet: bytes) -> EndpointFacts:
        """What one endpoint says. `quiet` is a prefix that we may watch and where nothing is stored."""
        certificate = await self._certificate(url) if url.startswith("https:") else None
        try:
            version, skew_s = await self._version(url)
        except EtcdError as error:
            # Who is silent or not there at all would be so by the other scheme too.
            hopeless = "no answer in time" in error.detail or "refused" in error.detail
            other = not hopeless and await self._other_scheme(url)
            return EndpointFacts(url=url, error=error.detail, other_scheme=other, certificate=certificate)
        known = EndpointFacts(url=url, version=version, skew_s=skew_s, certificate=certificate)
        try:
            status: _Status = await self._ask(url, "/v3/maintenance/status", {}, _Status)
        except NotEtcd as error:
            return msgspec.structs.replace(known, version=None, error=error.detail)
        except EtcdError as error:
            return msgspec.structs.replace(known, refused=error.detail)
        samples, progress = await asyncio.gather(
            self._metrics(url), self._progress(url, quiet, max(1, status.header.revision))
        )
        history = None
        if CURRENT in samples and COMPACTED in samples:
            history = int(samples[CURRENT] - max(0.0, samples[COMPACTED]))
        return msgspec.structs.replace(
            known,
            cluster_id=status.header.cluster_id,
            member_id=status.header.member_id,
            revision=status.header.revision,
            leader=status.leader,
            learner=status.learner,
            db_size=status.db_size,
            db_used=status.db_used,
            quota=status.quota or int(samples.get(QUOTA, 0)) or None,
            history=history,
            progress=progress,
        )

    async def _version(self, url: str) -> tuple[str, float | None]:
        before = self._wall()
        body, date = await self._send(url, "/version", None)
        try:
            version = wire.decode_version(body)
        except wire.Malformed as error:
            raise Refused(f"does not answer like etcd: {error}") from error
        try:
            theirs = parsedate_to_datetime(date).timestamp() + 0.5
        except ValueError:
            return version, None
        return version, theirs - (before + self._wall()) / 2

    async def _metrics(self, url: str) -> dict[str, float]:
        """etcd's metrics; none where they are not served here, which is no fault."""
        try:
            body, _ = await self._send(url, "/metrics", None)
        except EtcdError:
            return {}
        return metrics(body.decode("utf-8", "replace"))

    async def _progress(self, url: str, quiet: bytes, revision: int) -> Progress | None:
        """Listen on an idle watch for `progress_s`, or until its first progress notice."""
        if not self._progress_s:
            return None
        try:
            stream = await self._open_watch(url, wire.encode_watch(quiet, revision))
        except EtcdError as error:
            return Progress(state="failed", reason=error.detail)
        except TimeoutError:
            return Progress(state="failed", reason="the watch was not confirmed in time")
        began, busy = self._clock(), False
        try:
            async with asyncio.timeout(self._progress_s):
                async for batch in stream:
                    if batch.kind == PROGRESS:
                        return Progress(state="heard", seconds=self._clock() - began)
                    if batch.reason:
                        return Progress(state="failed", reason=batch.reason)
                    busy = busy or batch.kind != CREATED
            return Progress(state="failed", reason="the watch ended")
        except TimeoutError:
            return Progress(state="busy" if busy else "silent", seconds=self._progress_s)
        except EtcdError as error:
            return Progress(state="failed", reason=error.detail)
        finally:
            stream.close()

    async def _open_watch(self, url: str, body: bytes) -> WatchStream:
        headers = await self._headers(url)
        async with asyncio.timeout(CREATED_S):
            with translated(is_write=False):
                response = await self._http.post(
                    url + "/v3/watch",
                    data=body,
                    headers=headers | {"Grpc-Metadata-hasleader": "true"},
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s),
                    allow_redirects=False,
                )
                if response.status != 200:
                    answer = await response.read()
                    response.close()
                    raise answer_error(response, answer, is_write=False)
        return WatchStream(response, WatchReader(), url)

    async def _certificate(self, url: str) -> Certificate | None:
        """The certificate that the server shows, trusted or not; None where there is none to be had."""
        try:
            shown = await self._handshake(url)
            return read_certificate(shown) if shown else None
        except (OSError, TimeoutError, ValueError):
            return None

    async def _handshake(self, url: str) -> bytes | None:
        """Make a TLS connection, whatever the URL's scheme, and return the certificate that was shown."""
        context = self._tls.context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # only its dates are read, and nothing is sent
        parts = urlsplit(url)
        async with asyncio.timeout(self._timeout_s):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
        shown: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return shown

    async def _other_scheme(self, url: str) -> bool:
        """Whether the same address answers by the other of http and https."""
        scheme, _, rest = url.partition("://")
        try:
            if scheme == "https":
                await self._send(f"http://{rest}", "/version", None)
            else:
                await self._handshake(url)
        except ssl.SSLError as error:
            # It wants a certificate of ours: only TLS says so.
            return "ALERT" in (error.reason or "")
        except (EtcdError, OSError, TimeoutError):
            return False
        return True

    # ---- the cluster, and who we are in it ---------------------------------------------------------------------------

    async def members(self, url: str) -> list[ClusterMember]:
        """The members that the cluster lists."""
        found: _Members = await self._ask(url, "/v3/cluster/member/list", {}, _Members)
        return found.members

    async def alarms(self, url: str) -> list[Alarm]:
        """Alarms that are raised."""
        found: _Alarms = await self._ask(url, "/v3/maintenance/alarm", {"action": "GET"}, _Alarms)
        return [alarm for alarm in found.alarms if alarm.alarm != "NONE"]

    async def user(self, url: str, key: bytes) -> UserFacts:
        """Whether etcd wants a user at all (asked by reading `key` without one), and what ours may do."""
        on = await self._authentication(url, key)
        name = self._config.user
        if name is None or on is False:
            return UserFacts(authentication=on)
        try:
            roles = (await self._ask(url, "/v3/auth/user/get", {"name": name}, _User)).roles
            if "root" in roles or name == "root":
                return UserFacts(authentication=on, roles=["root"])
            permissions: list[Permission] = []
            for role in roles:
                permissions += (await self._ask(url, "/v3/auth/role/get", {"role": role}, _Role)).perm
        except EtcdError as error:
            return UserFacts(authentication=on, reason=error.detail)
        return UserFacts(authentication=on, roles=roles, permissions=permissions)

    async def _authentication(self, url: str, key: bytes) -> bool | None:
        body = msgspec.json.encode({"key": key, "keys_only": True, "limit": "1"})
        try:
            await self._send(url, "/v3/kv/range", body)
        except TokenRefused:
            return True
        except EtcdError as error:
            # A client certificate with a common name is refused in these words, and only where there are users.
            return True if "CommonName" in error.detail else None
        return False

    # ---- requests ----------------------------------------------------------------------------------------------------

    async def _ask(self, url: str, path: str, fields: dict[str, Any], kind: type[Any]) -> Any:
        body, _ = await self._send(url, path, wire.encode(fields), await self._headers(url))
        try:
            return decoded(body, kind)
        except msgspec.MsgspecError as error:
            raise Refused(f"{path} does not answer like etcd: {error}") from error

    async def _headers(self, url: str) -> dict[str, str]:
        token = await self._auth.token(url)
        return {"Authorization": token} if token else {}

    async def _authenticate(self, url: str, body: bytes) -> bytes:
        answer, _ = await self._send(url, "/v3/auth/authenticate", body)
        return answer

    async def _send(
        self, url: str, path: str, body: bytes | None, headers: dict[str, str] | None = None
    ) -> tuple[bytes, str]:
        """The body of a 200 and its date; everything else is raised."""
        deadline = {"Grpc-Timeout": f"{max(1, int(self._timeout_s * 950))}m"}
        with translated(is_write=False):
            async with self._http.request(
                "GET" if body is None else "POST",
                url + path,
                data=body,
                headers=deadline | (headers or {}),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=self._timeout_s * 0.9),
                allow_redirects=False,
            ) as response:
                answer = await response.read()
                if response.status != 200:
                    raise answer_error(response, answer, is_write=False)
                return answer, response.headers.get("Date", "")
