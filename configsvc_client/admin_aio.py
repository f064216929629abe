"""The management API for asyncio: deploy, look, change, roll back, back up. Scripts have the same in `admin.py`.

Owns what each call is on the wire. Which address is asked and what is sent again is `admin_link.py`'s to say.
"""

import copy
import os
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import msgspec

from configsvc_client import admin_types as types
from configsvc_client import backup_file
from configsvc_client.admin_arguments import as_list, as_object, as_release, as_text, check_text, encoded, with_query
from configsvc_client.admin_link import AdminLink, Answer, Call
from configsvc_client.admin_types import AdminError
from configsvc_client.errors import InvalidOption
from configsvc_client.options import is_name, resolve

Overrides = Literal["refuse", "keep", "discard"]
T = TypeVar("T")
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}", re.ASCII)


class WriteOptions(TypedDict, total=False):
    """What may be said about any write.

    `dry_run`: only plan it. `digest`: apply that plan and no other, else 409 `plan_changed`. `base_release`: refuse
    unless the scope is at this release. `reason` is kept in the history. `force`: why the guards against accidents do
    not apply this time. `idempotency_key`: the same key and call within 24 hours are answered as the first time, from
    other processes too.
    """

    dry_run: bool
    digest: str | None
    base_release: int | None
    reason: str | None
    force: str | None
    idempotency_key: str | None


class AsyncAdminClient:
    """Manages one scope. All methods raise `AdminError`, and `InvalidOption` for arguments that cannot be right.

    Unset, `url`, `namespace`, `environment` and `token_file` are what `CONFIGSVC_URL`, `SERVICE_NAME`,
    `CONFIG_ENVIRONMENT` and `CONFIG_TOKEN_FILE` say, else what the service says is its own. `timeout_s` is how long
    each attempt waits for its answer. Connections belong to the loop of the first call; end them by `close` or
    `async with`.
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
        urls = url if url is None or isinstance(url, str) else list(url)
        options = resolve(
            os.environ, url=urls, namespace=namespace, environment=environment, token_file=token_file, cache_dir="off"
        )
        waits: Any = timeout_s
        if isinstance(waits, bool) or not isinstance(waits, int | float) or not 0 < waits <= 86_400:
            raise InvalidOption(f"timeout_s must be a number of seconds above 0, a day at most, not {timeout_s!r}")
        self._link = AdminLink(options, timeout_s)
        self._namespace = options.namespace
        self._environment = options.environment

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a later call opens others."""
        await self._link.close()

    def at(self, namespace: str | None = None, environment: str | None = None) -> Self:
        """A client for another scope, by the same connections; what is not named stays."""
        other = copy.copy(self)
        names: tuple[tuple[str, Any], ...] = (("namespace", namespace), ("environment", environment))
        for name, value in names:
            if value is not None:
                if not (isinstance(value, str) and is_name(value)):
                    raise InvalidOption(f"{name} {value!r} must be letters, digits, '.', '_' and '-'")
                setattr(other, f"_{name}", value)
        return other

    # ---- reading ----------------------------------------------------------------------------------------------------

    async def scope(self) -> tuple[str, str]:
        """The namespace and environment that are meant; the service is asked where nobody said."""
        namespace, environment = self._namespace, self._environment
        if namespace is None or environment is None:
            said = await self.service()
            namespace, environment = namespace or said.namespace, environment or said.environment
        if namespace is None or not is_name(namespace):
            raise AdminError("unknown_scope", "no namespace was given, and the service has no default")
        if environment is None or not is_name(environment):
            raise AdminError("unknown_scope", "no environment was given, and the service has no default")
        self._namespace, self._environment = namespace, environment
        return namespace, environment

    async def service(self) -> types.Service:
        """What the service says of itself and of who asks."""
        return await self._get("/v1/self", types.Service)

    async def get(self, key: str) -> types.Entry:
        """What applies under a key; 404 `key_not_found`."""
        return await self._get(await self._path("config", key), types.Entry)

    async def entries(self) -> types.Entries:
        """Everything that applies, each with where it comes from; `.values` are the plain values."""
        return await self._get(await self._path("config", view="entries"), types.Entries)

    async def as_of(self, release: int | str) -> types.PastValues:
        """The stored values as a release left them: a number, `@number` or a label."""
        return await self._get(await self._path("config", release=as_release(release)), types.PastValues)

    async def page(self, *, limit: int = 50, after: int | None = None) -> types.Releases:
        """Some releases, newest first; `after` is the `next` of the page before."""
        return await self._get(await self._path("versions", limit=limit, after=after), types.Releases)

    async def versions(self) -> AsyncIterator[types.ReleaseRow]:
        """All releases, newest first, asked for page by page."""
        after: int | None = None
        while True:
            found = await self.page(limit=500 if after else 50, after=after)
            for one in found.releases:
                yield one
            if (after := found.next) is None:
                return

    async def release(self, version: int | str) -> types.Release:
        """One release with what it changed; 404 `release_not_found` or `release_pruned`."""
        return await self._get(await self._path("versions", as_release(version)), types.Release)

    async def diff(self, before: int | str, after: int | str | None = None) -> types.Difference:
        """What differs between two releases; the second is the newest where none is named."""
        to = None if after is None else as_release(after)
        return await self._get(await self._path("diff", **{"from": as_release(before), "to": to}), types.Difference)

    async def key_page(self, key: str, *, limit: int = 50, after: int | None = None) -> types.KeyReleases:
        """Some releases that changed a key, newest first. A page may have fewer than `limit`, and another follow."""
        return await self._get(await self._path("history", key, limit=limit, after=after), types.KeyReleases)

    async def history(self, key: str) -> AsyncIterator[types.KeyRelease]:
        """The releases that changed a key, newest first: who set this value?"""
        after: int | None = None
        while True:
            found = await self.key_page(key, after=after)
            for one in found.releases:
                yield one
            if (after := found.next) is None:
                return

    async def drift(self) -> types.Drift:
        """What differs from the newest release: keys changed by hand, and overrides that a deploy would undo."""
        return await self._get(await self._path("drift"), types.Drift)

    async def own_keys(self) -> list[str]:
        """Patterns of the keys that a promotion leaves as they are here."""
        return (await self._get(await self._path("own-keys"), types.OwnKeys)).patterns

    async def status(self) -> types.Status:
        """How the scope is: its newest release, what is pending, frozen or changed by hand, and how fresh reads are.

        503 `store_unavailable` while etcd is away; `freshness` is answered then too.
        """
        service, drift = await self.service(), await self.drift()
        # A release that is still being applied is listed before it is the scope's.
        newest = await self.page(limit=1, after=(drift.release or 0) + 1)
        reads = await self.freshness()
        return types.Status(
            namespace=drift.namespace,
            environment=drift.environment,
            newest=newest.releases[0] if newest.releases else None,
            revision=drift.revision,
            frozen=drift.frozen,
            overrides=drift.overrides,
            hand=drift.hand,
            source=reads.source,
            staleness_s=reads.staleness_s,
            service=service,
        )

    async def freshness(self) -> types.Freshness:
        """How fresh what this service serves is. Needs no etcd, and raises nothing where there is nothing to read."""
        path = await self._path("config")
        try:
            headers = (await self._ask(Call(method="HEAD", path=path))).headers
        except AdminError:
            return types.Freshness()
        staleness, revision = headers.get("Configsvc-Staleness", ""), headers.get("Configsvc-Revision", "")
        return types.Freshness(
            source=headers.get("Configsvc-Source", "none"),
            staleness_s=float(staleness) if staleness.replace(".", "", 1).isdigit() else 0.0,
            revision=int(revision) if revision.isascii() and revision.isdigit() else 0,
        )

    # ---- writing ----------------------------------------------------------------------------------------------------

    async def deploy(
        self,
        values: Mapping[str, Any] | str | bytes,
        *,
        version: str | None = None,
        overrides: Overrides = "refuse",
        git_commit: str | None = None,
        approved_by: str | None = None,
        media: Literal["application/json", "application/yaml"] | None = None,
        **about: Unpack[WriteOptions],
    ) -> types.Outcome:
        """Make the scope exactly these values: what is not among them is deleted.

        `values` is a mapping, or the text of a file: `media`, else JSON where it begins with a brace, and YAML where it
        does not. Names nest or are dotted. `overrides` says what becomes of pending ones: with `refuse` a deploy that
        would change one is a 409.
        """
        named = {"version": version, "overrides": overrides, "git_commit": git_commit, "approved_by": approved_by}
        body = as_text(values)
        guessed = "application/json" if body.lstrip()[:1] == b"{" else "application/yaml"
        return await self._write("POST", "deploy", about=about, query=named, body=body, media=media or guessed)

    async def change(
        self,
        set: Mapping[str, Any] | None = None,
        delete: Iterable[str] = (),
        *,
        emergency: bool = False,
        ttl_s: float | None = None,
        **about: Unpack[WriteOptions],
    ) -> types.Outcome:
        """Set and delete some keys in one release; with `ttl_s` what was there before returns after so many seconds.

        An `emergency` needs a `reason`, and that permission.
        """
        body = b'{"set":%b,"delete":%b}' % (as_object({} if set is None else set), as_list("a key", delete))
        query = {"emergency": emergency or None, "ttl_s": ttl_s}
        return await self._write("PATCH", "config", about=about, query=query, body=body)

    async def emergency(
        self, key: str, value: Any, *, ttl_s: float | None = None, **about: Unpack[WriteOptions]
    ) -> types.Outcome:
        """Set one key at once, past review; `reason` is needed."""
        body = encoded(value, key)
        return await self._write("PUT", "emergency", key, about=about, query={"ttl_s": ttl_s}, body=body)

    async def delete(self, key: str, **about: Unpack[WriteOptions]) -> types.Outcome:
        """Delete one key; 404 `key_not_found`."""
        return await self._write("DELETE", "config", key, about=about)

    async def rollback(
        self, version: int | str, *, overrides: Overrides = "refuse", **about: Unpack[WriteOptions]
    ) -> types.Outcome:
        """Make the scope what a release left, byte for byte, as a new release."""
        return await self._write("POST", "rollback", as_release(version), about=about, query={"overrides": overrides})

    async def promote(
        self,
        source: str,
        *,
        version: str | None = None,
        overrides: Overrides = "refuse",
        approved_by: str | None = None,
        **about: Unpack[WriteOptions],
    ) -> types.Outcome:
        """Make the scope what was deployed to the environment `source`, but for the keys of its own."""
        query = {"from": source, "version": version, "overrides": overrides, "approved_by": approved_by}
        return await self._write("POST", "promote", about=about, query=query)

    async def set_own_keys(self, patterns: Iterable[str]) -> list[str]:
        """Name the keys that differ by environment on purpose: `database.host`, `*.url`."""
        body = as_list("a pattern", patterns)
        call = Call(method="PUT", path=await self._path("own-keys"), body=body, repeats=True, writes=True)
        return (await self._decoded(call, types.OwnKeys)).patterns

    async def freeze(self, *, reason: str, ttl_s: float) -> types.Frozen:
        """Refuse deploys and promotions for so many seconds."""
        path = await self._path("freeze", reason=reason, ttl_s=ttl_s)
        return await self._decoded(Call(method="PUT", path=path, repeats=True, writes=True), types.Frozen)

    async def unfreeze(self) -> types.Frozen:
        """Take deploys again."""
        call = Call(method="DELETE", path=await self._path("freeze"), repeats=True, writes=True)
        return await self._decoded(call, types.Frozen)

    async def repair(self, *, reason: str | None = None) -> types.Outcome:
        """Make a release of what is there, where a scope's history cannot be used any more."""
        call = Call(method="POST", path=await self._path("repair", reason=reason), writes=True)
        return await self._decoded(call, types.Outcome)

    # ---- backups ----------------------------------------------------------------------------------------------------

    async def backup(
        self,
        path: str | PathLike[str],
        *,
        namespace: str | None = None,
        overwrite: bool = False,
        timeout_s: float = 60.0,
        on_progress: Callable[[int], None] = lambda size: None,
    ) -> types.Backup:
        """Save everything, or one namespace, to a file, or under the service's name for it to a folder.

        A path that ends with a separator is a folder, and is made where it is not there; its parents are not. The file
        is there when it is whole: it is checked to its last byte before it gets its name. Only its owner may read it.
        A namespace in which nothing is stored is `scope_not_found`. `timeout_s` is how long the service may be silent.
        Raises `FileExistsError`, `OSError`.
        """
        saving = backup_file.Saving(path, overwrite=overwrite, on_progress=on_progress, namespace=namespace)
        call = Call(
            method="POST",
            path=with_query("/v1/backup", {"namespace": namespace}),
            accept="application/gzip",
            repeats=True,
            timeout_s=timeout_s,
            sink=saving,
        )
        try:
            answer = await self._ask(call)
            return saving.finish(answer.headers.get("Content-Disposition", ""))
        finally:
            saving.close()

    async def restore(
        self,
        path: str | PathLike[str],
        *,
        namespace: str | None = None,
        dry_run: bool = False,
        reason: str | None = None,
        force: str | None = None,
        timeout_s: float = 600.0,
        on_progress: Callable[[int], None] = lambda size: None,
    ) -> types.Restored:
        """Make each scope what a backup has, as a new release; `namespace` means only those of one.

        The file is checked before anything is sent. `timeout_s` is for all of it. Raises `OSError` too.
        """
        file = Path(path)
        found = backup_file.check(file)

        async def body() -> AsyncIterator[bytes]:
            sent = 0
            for block in backup_file.blocks(file):
                yield block
                sent += len(block)
                on_progress(sent)

        query = {"namespace": namespace, "dry_run": dry_run or None, "reason": reason, "force": force}
        call = Call(
            method="POST",
            path=with_query("/v1/restore", query),
            body=body,
            size=found.size,
            media="application/gzip",
            repeats=dry_run,
            writes=not dry_run,
            timeout_s=timeout_s,
        )
        return await self._decoded(call, types.Restored)

    # ---- how --------------------------------------------------------------------------------------------------------

    async def _path(self, route: str, *rest: str, **query: Any) -> str:
        for part in rest:
            check_text("a key", part)
        scope = await self.scope()
        try:
            parts = "/".join(quote(part, safe="") for part in (*scope, *rest))
            return with_query(f"/v1/{route}/{parts}", query)
        except UnicodeEncodeError as error:
            raise InvalidOption(f"{error.object!a} is no text that can be sent") from None

    async def _get(self, path: str, kind: type[T]) -> T:
        return await self._decoded(Call(method="GET", path=path), kind)

    async def _write(
        self,
        method: str,
        route: str,
        *rest: str,
        about: WriteOptions,
        query: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        media: str = "application/json",
    ) -> types.Outcome:
        said: dict[str, Any] = dict(about)
        if unknown := said.keys() - WriteOptions.__annotations__.keys():
            raise TypeError(f"unexpected argument: {', '.join(sorted(unknown))}")
        key = said.pop("idempotency_key", None)
        if key is None:
            key = str(uuid.uuid4())
        elif not (isinstance(key, str) and _IDEMPOTENCY_KEY.fullmatch(key)):
            raise InvalidOption(f"idempotency_key must be 1 to 255 visible ASCII characters, not {key!a}")
        dry_run = said.pop("dry_run", False)
        path = await self._path(route, *rest, **{**(query or {}), **said, "dry_run": dry_run or None})
        call = Call(
            method=method,
            path=path,
            body=body,
            media=media,
            key=None if dry_run else key,
            repeats=True,
            writes=not dry_run,
        )
        return await self._decoded(call, types.Outcome)

    async def _decoded(self, call: Call, kind: type[T]) -> T:
        answer = await self._ask(call)
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise AdminError("unreachable", f"{answer.url}: its answer is not as configsvc's: {error}") from None

    async def _ask(self, call: Call) -> Answer:
        return await self._link.ask(call)
