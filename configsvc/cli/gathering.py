"""Gathers what `configsvc check` judges: from etcd's endpoints, the scope's keys, files, and the service's own port.

Everything at once where it can be, each with its own time limit; changes nothing anywhere. Imported only when it runs.
"""

import asyncio
import difflib
import errno
import os
import re
import socket
import ssl
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from configsvc.checks import Facts, ListenFacts, Reading, Wanted
from configsvc.core.model import META, ROOT, Scope, namespace_prefix, scope_prefix
from configsvc.etcd.facts import Certificate, read_certificate
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.ops import EtcdError, Range, Refused, prefix_end
from configsvc.etcd.survey import Survey
from configsvc.permissions import needed
from configsvc.settings import Settings

T = TypeVar("T")

MAX_NAMES = 64
"""So many names are looked at when one is searched that is like ours."""
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class _Self(msgspec.Struct, frozen=True):
    service: str = ""
    version: str = ""
    mode: str = ""
    namespace: str | None = None


class _Health(msgspec.Struct, frozen=True):
    status: str = ""


async def gather(settings: Settings, *, timeout_s: float, progress_s: float) -> Facts:
    """All facts. Raises `Refused` where a TLS file cannot be used."""
    config = _config(settings)
    wanted = Wanted(
        namespace=settings.service_name,
        environment=settings.default_environment or "development",
        writes=settings.writes,
        user=settings.etcd_user,
    )
    async with Survey(config, timeout_s=timeout_s, progress_s=progress_s) as survey:
        # Where we may read and nothing is ever stored: an event would delay the notice that is listened for.
        quiet = namespace_prefix(settings.service_name) + f"{META}/_".encode()
        surveyed = [asyncio.create_task(survey.endpoint(url, quiet)) for url in config.endpoints]
        listen = asyncio.create_task(_listen(settings, timeout_s))
        endpoints = [await task for task in surveyed]
        told = [endpoint.url for endpoint in endpoints if endpoint.cluster_id is not None]
        reached = told or [endpoint.url for endpoint in endpoints if endpoint.error is None]
        of_etcd: dict[str, Any] = {}
        if reached:
            of_etcd = {"user": await survey.user(reached[0], quiet)}
        if told:
            of_etcd["members"] = await _or_none(survey.members(told[0]))
            of_etcd["alarms"] = await _or_none(survey.alarms(told[0]))
            of_etcd |= await _data(msgspec.structs.replace(config, endpoints=tuple(told)), settings, wanted)
        return Facts(
            wanted=wanted,
            endpoints=endpoints,
            files=_files(settings),
            cache=_cache(settings.cache_dir),
            listen=await listen,
            now=datetime.now(UTC),
            **of_etcd,
        )


def _config(settings: Settings) -> GatewayConfig:
    return GatewayConfig(
        endpoints=settings.etcd_endpoints,
        user=settings.etcd_user,
        password_file=settings.etcd_password_file,
        cacert=settings.etcd_cacert,
        cert=settings.etcd_cert,
        key=settings.etcd_key,
    )


async def _or_none(asked: Awaitable[T]) -> T | None:
    try:
        return await asked
    except EtcdError:
        return None


# ---- keys ------------------------------------------------------------------------------------------------------------


async def _data(config: GatewayConfig, settings: Settings, wanted: Wanted) -> dict[str, Any]:
    """The readings, by the service's own way of reading."""
    data, releases, *_ = needed(settings.service_name, writes=settings.writes)
    async with Gateway(config) as gateway:
        found: dict[str, Any] = {
            "data": await _count(gateway, data.prefix),
            "releases": await _count(gateway, releases.prefix),
        }
        if settings.service_name:
            scope = Scope(settings.service_name, wanted.environment)
            found["scope"] = reading = await _count(gateway, scope_prefix(scope).decode())
            if not reading.count and not reading.error:
                found["near"] = await _near(gateway, scope)
    return found


async def _count(gateway: Gateway, prefix: str) -> Reading:
    key = prefix.encode()
    try:
        answer = await gateway.range(Range(key=key, range_end=prefix_end(key), count_only=True))
    except EtcdError as error:
        return Reading(prefix=prefix, error=error.detail, refused=isinstance(error, Refused))
    return Reading(prefix=prefix, count=answer.count)


async def _near(gateway: Gateway, scope: Scope) -> list[str]:
    """Scopes that are there: of the same namespace, else of namespaces that are called alike."""
    try:
        environments = await _names(gateway, f"{ROOT}{scope.namespace}/")
        if environments:
            return [f"{scope.namespace}/{name}" for name in _alike(scope.environment, environments)]
        return [f"{name}/…" for name in _alike(scope.namespace, await _names(gateway, ROOT))]
    except EtcdError:
        # Other namespaces are mostly none of our business, and etcd says so.
        return []


async def _names(gateway: Gateway, prefix: str) -> list[str]:
    """The names one level below a prefix, without those that are reserved: one read for each, however many keys."""
    names: list[str] = []
    at, end = prefix.encode(), prefix_end(prefix.encode())
    while len(names) < MAX_NAMES:
        found = (await gateway.range(Range(key=at, range_end=end, limit=1, keys_only=True))).kvs
        if not found:
            break
        name = found[0].key.removeprefix(prefix.encode()).partition(b"/")[0]
        names.append(name.decode("utf-8", "backslashreplace"))
        at = prefix_end(prefix.encode() + name + b"/")
    return [name for name in names if not name.startswith("_")]


def _alike(name: str, names: list[str]) -> list[str]:
    return difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:3]


# ---- files -----------------------------------------------------------------------------------------------------------


def _files(settings: Settings) -> dict[str, Certificate | str]:
    """The certificates that settings name: the client's own, which comes first in its file, and of several authorities
    the one that lasts longest, since any of them may be the one that is needed."""
    found: dict[str, Certificate | str] = {}
    if settings.etcd_cacert:
        authorities = _certificates(settings.etcd_cacert)
        found[f"ETCD_CACERT {settings.etcd_cacert}"] = (
            authorities if isinstance(authorities, str) else max(authorities, key=lambda one: one.not_after)
        )
    if settings.etcd_cert:
        chain = _certificates(settings.etcd_cert)
        found[f"ETCD_CERT {settings.etcd_cert}"] = chain if isinstance(chain, str) else chain[0]
    return found


def _certificates(path: Path) -> list[Certificate] | str:
    """All certificates of a PEM file, at least one; a text where it cannot be read."""
    try:
        blocks = _PEM.findall(path.read_text("ascii", "replace"))
        found = [read_certificate(ssl.PEM_cert_to_DER_cert(block)) for block in blocks]
    except (OSError, ValueError) as error:
        return str(error)
    return found or "there is none in it"


def _cache(folder: Path | None) -> str | None:
    """What keeps the folder, or the one in which it would be made, from being written."""
    if folder is None:
        return None
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{there} is no folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there}: permission denied"


# ---- the service's own port ------------------------------------------------------------------------------------------


async def _listen(settings: Settings, timeout_s: float) -> ListenFacts:
    address = settings.listen
    try:
        with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
            if os.name == "posix":
                # As the service itself does: a port that was served a moment ago is free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        return ListenFacts(address=str(address), state="free")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return ListenFacts(address=str(address), state="unusable", reason=error.strerror or str(error))
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a listener on all addresses is reached
    url = f"http://{address._replace(host=wildcard.get(address.host, address.host))}"
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(trust_env=False, timeout=timeout) as http:
        who = await _ask(http, f"{url}/v1/self", _Self)
        if who is None or who.service != "configsvc":
            return ListenFacts(address=str(address), state="taken")
        health = await _ask(http, f"{url}/health", _Health)
    return ListenFacts(
        address=str(address),
        state="ours",
        version=who.version,
        serves=who.namespace or "every namespace",
        status=health.status if health else "no answer",
        same=not who.mode or (who.mode, who.namespace) == (settings.mode, settings.service_name),
    )


async def _ask(http: aiohttp.ClientSession, url: str, kind: type[T]) -> T | None:
    """An answer of whatever status as `kind`, else None."""
    try:
        async with http.get(url, allow_redirects=False) as answer:
            return msgspec.json.decode(await answer.content.read(64 * 1024), type=kind)
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
