"""Writes that meet what happened a moment ago: the other one's step is made to fall into the gap, on a real etcd."""

import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from configsvc.core.commands import About, Change, Command, Deploy, View
from configsvc.core.model import Scope, overrides_prefix
from configsvc.core.retention import Retention
from configsvc.etcd.gateway import Gateway
from configsvc.etcd.ops import Range, RangeResult
from configsvc.writes.janitor import Janitor
from configsvc.writes.writer import Key, Outcome, Writer
from configsvc_client.protocol import EventId
from tests.support.etcd import delete, put
from tests.support.writing import Api, Store

ids = map("id{}".format, itertools.count())


class Meanwhile:
    """etcd as it is; right after the first range or list that `is_due` is true of, something else happens."""

    def __init__(self, gateway: Gateway, is_due: Callable[[Any], bool], step: Callable[[], Awaitable[Any]]) -> None:
        self._gateway = gateway
        self._is_due = is_due
        self._step: Callable[[], Awaitable[Any]] | None = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gateway, name)

    async def range(self, ask: Range, **more: Any) -> RangeResult:
        return await self._then(ask, await self._gateway.range(ask, **more))

    async def list(self, prefix: bytes, **more: Any) -> RangeResult:
        return await self._then(prefix, await self._gateway.list(prefix, **more))

    async def _then(self, asked: Range | bytes, answer: RangeResult) -> RangeResult:
        if self._step and self._is_due(asked):
            step, self._step = self._step, None
            await step()
        return answer


def write(writer: Any, scope: Scope, command: Command, **more: Any) -> Awaitable[Outcome]:
    async def prepare(view: View) -> Command:
        return command

    wanted = {name: more.pop(name) for name in ("base_release", "digest") if name in more}
    about = About(by="alice", at=writer.now(), id=next(ids), **wanted)
    found: Awaitable[Outcome] = writer.write(scope, prepare, about, **more)
    return found


@pytest.mark.parametrize("refusal", ["key_not_found", "base_moved", "plan_changed", "if_match"])
async def test_a_request_that_the_same_one_overtakes_has_its_answer(
    any_gateway: Gateway, namespace: str, refusal: str
) -> None:
    scope = Scope(namespace, "production")
    one = Writer(any_gateway, by="one")
    began = await write(one, scope, Deploy(values={"a": b"1", "b": b"1"}))
    command: Command = Deploy(values={"a": b"2"})
    more: dict[str, Any] = {}
    match refusal:
        case "key_not_found":
            command = Change(kind="delete", delete=("a",))
        case "base_moved":
            more["base_release"] = began.release
        case "plan_changed":
            planned = (await write(one, scope, command, dry_run=True)).plan
            assert planned is not None
            more["digest"] = planned.digest
        case "if_match":
            more["if_match"] = EventId(began.epoch, began.revision)
    key = Key("alice", namespace, "the same request")

    def again(writer: Writer) -> Awaitable[Outcome]:
        return write(writer, scope, command, key=key, **more)

    looks = Meanwhile(any_gateway, lambda asked: getattr(asked, "key", None) == key.path, lambda: again(one))
    found = await again(Writer(looks, by="two"))  # type: ignore[arg-type]
    assert (found.release, found.plan) == (2, None)
    assert found.changes == (await again(one)).changes
    assert (await one.newest(scope)).number == 2


async def test_overrides_that_were_set_together_end_together(api: Api, store: Store) -> None:
    """A janitor that looked while a window was still writing their records has seen only some of them."""
    scope = Scope(api.namespace, "production")
    await api.deploy({"a": 1, "b": 1, "c": 1})
    await api.change({"a": 2, "b": 2, "c": 2}, emergency="true", reason="x", ttl_s=1)
    gateway = store.gateway
    gone = [overrides_prefix(scope) + key for key in (b"b", b"c")]
    records = {key: (await gateway.range(Range(key=key))).kvs[0].value for key in gone}
    for key in gone:
        await delete(gateway, key)

    async def rest() -> None:
        for key, value in records.items():
            await put(gateway, key, value)

    timers = f"/configsvc/overrides/{api.namespace}/".encode()
    looks: Any = Meanwhile(gateway, lambda asked: asked == timers, rest)
    writer = Writer(looks, by="janitor", now=lambda: datetime(2999, 1, 1, tzinfo=UTC))
    janitor = Janitor(looks, writer, namespace=api.namespace, open_scopes=list, retention=Retention())
    await janitor.work()
    assert await api.values() == {"a": 1, "b": 1, "c": 1}
    assert await api.kinds() == ["deploy", "emergency", "expiry"]
