"""The management API for scripts: deploy, look, change, roll back, back up.

    from configsvc_client.admin import AdminClient

    admin = AdminClient("https://config.example", namespace="payments", environment="production")
    text = Path("values.yaml").read_text()
    plan = admin.deploy(text, version="v42", dry_run=True)
    admin.deploy(text, version="v42", digest=plan.digest)

`AdminClient` blocks, `AsyncAdminClient` is its twin for asyncio. Every write carries an `Idempotency-Key`, made for the
call where none is given: when its answer is lost it is sent again, twice at most, and takes place once.
"""

import asyncio
import copy
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from configsvc_client import admin_types as types
from configsvc_client.admin_aio import AsyncAdminClient, WriteOptions
from configsvc_client.admin_types import AdminError

__all__ = ["AdminClient", "AdminError", "AsyncAdminClient", "WriteOptions"]

P = ParamSpec("P")
T = TypeVar("T")


def _sync(
    method: Callable[Concatenate[AsyncAdminClient, P], Coroutine[Any, Any, T]],
) -> "Callable[Concatenate[AdminClient, P], T]":
    @functools.wraps(method)
    def call(self: "AdminClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(lambda twin: method(twin, *args, **kwargs))

    return call


class AdminClient:
    """The same for code without asyncio: each call opens its connection and closes it, so there is nothing to end.

    May be used by several threads at once, after a fork, and within a running loop (which it then blocks).
    """

    def __init__(
        self,
        url: str | Iterable[str] | None = None,
        *,
        namespace: str | None = None,
        environment: str | None = None,
        token_file: str | PathLike[str] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self._twin = AsyncAdminClient(
            url, namespace=namespace, environment=environment, token_file=token_file, timeout_s=timeout_s
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is kept open between calls; here because its twin has it."""

    def at(self, namespace: str | None = None, environment: str | None = None) -> Self:
        """A client for another scope; what is not named stays."""
        other = copy.copy(self)
        other._twin = self._twin.at(namespace, environment)
        return other

    def _run(self, call: Callable[[AsyncAdminClient], Awaitable[T]]) -> T:
        async def once() -> T:
            twin = self._twin.at()
            twin._link = self._twin._link.renewed()
            try:
                async with twin:
                    return await call(twin)
            finally:
                # What was learned from the service is not asked again.
                self._twin._namespace, self._twin._environment = twin._namespace, twin._environment

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(once())
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(once())).result()

    scope = _sync(AsyncAdminClient.scope)
    service = _sync(AsyncAdminClient.service)
    get = _sync(AsyncAdminClient.get)
    entries = _sync(AsyncAdminClient.entries)
    as_of = _sync(AsyncAdminClient.as_of)
    page = _sync(AsyncAdminClient.page)
    release = _sync(AsyncAdminClient.release)
    diff = _sync(AsyncAdminClient.diff)
    key_page = _sync(AsyncAdminClient.key_page)
    drift = _sync(AsyncAdminClient.drift)
    own_keys = _sync(AsyncAdminClient.own_keys)
    status = _sync(AsyncAdminClient.status)
    freshness = _sync(AsyncAdminClient.freshness)
    deploy = _sync(AsyncAdminClient.deploy)
    change = _sync(AsyncAdminClient.change)
    emergency = _sync(AsyncAdminClient.emergency)
    delete = _sync(AsyncAdminClient.delete)
    rollback = _sync(AsyncAdminClient.rollback)
    promote = _sync(AsyncAdminClient.promote)
    set_own_keys = _sync(AsyncAdminClient.set_own_keys)
    freeze = _sync(AsyncAdminClient.freeze)
    unfreeze = _sync(AsyncAdminClient.unfreeze)
    repair = _sync(AsyncAdminClient.repair)
    backup = _sync(AsyncAdminClient.backup)
    restore = _sync(AsyncAdminClient.restore)

    def versions(self) -> Iterator[types.ReleaseRow]:
        """All releases, newest first, asked for page by page."""
        after: int | None = None
        while True:
            found = self.page(limit=500 if after else 50, after=after)
            yield from found.releases
            if (after := found.next) is None:
                return

    def history(self, key: str) -> Iterator[types.KeyRelease]:
        """The releases that changed a key, newest first: who set this value?"""
        after: int | None = None
        while True:
            found = self.key_page(key, after=after)
            yield from found.releases
            if (after := found.next) is None:
                return
