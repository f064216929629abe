"""What type checkers see of the client. Checked by mypy (`make check`), never run.

Wrong uses are errors: an `ignore` that is not needed is one too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, assert_type

import msgspec

from config_service import ConfigClient as SameClient
from configsvc_client import (
    AsyncChangeIterator,
    AsyncConfigClient,
    ChangeIterator,
    ClientStatus,
    ConfigChange,
    ConfigClient,
    Sample,
)
from configsvc_client.admin import AdminClient, AsyncAdminClient
from configsvc_client.admin_types import Backup, Changed, Entry, Freeze, Outcome
from configsvc_client.testing import AsyncStaticConfig, StaticConfig


class Pool(msgspec.Struct):
    size: int


@dataclass
class Retry:
    attempts: int = 3


def scalars(config: ConfigClient) -> None:
    assert_type(config.get_str("k"), str)
    assert_type(config.get_str("k", "x"), str)
    assert_type(config.get_str("k", default="x"), str)
    assert_type(config.get_str("k", None), str | None)
    assert_type(config.get_int("k"), int)
    assert_type(config.get_int("k", 5), int)
    assert_type(config.get_int("k", default=5, min_val=1, max_val=9), int)
    assert_type(config.get_int("k", None), int | None)
    assert_type(config.get_int("k", "none"), int | str)
    assert_type(config.get_float("k"), float)
    assert_type(config.get_float("k", 0.5, min_val=0), float)
    assert_type(config.get_float("k", None, max_val=1.0), float | None)
    assert_type(config.get_bool("k"), bool)
    assert_type(config.get_bool("k", False), bool)
    assert_type(config.get_bool("k", None), bool | None)


def anything(config: ConfigClient) -> None:
    assert_type(config.get("k"), Any)
    assert_type(config.get("k", 5), Any)
    assert_type(config.get_all(), dict[str, Any])
    assert_type(config.get_json("k"), Any)
    assert_type(config.get_json("k", {}), Any)
    assert_type(config.get_json("k", type=list[int]), list[int])
    assert_type(config.get_json("k", None, type=list[int]), list[int] | None)
    assert_type(config.get_json("k", type=Pool), Pool)
    assert_type(config.as_struct(Pool), Pool)
    assert_type(config.as_struct(Retry, "http.retry"), Retry)


def rest(config: SameClient) -> None:
    assert_type(config.changes(), ChangeIterator)
    for change in config.changes("k"):
        assert_type(change, ConfigChange)
    assert_type(config.on_change(lambda change: print(change.key)), Callable[[], None])
    assert_type(config.on_status(lambda status: print(status.state)), Callable[[], None])
    assert_type(config.status, ClientStatus)
    assert_type(config.status.transport, Literal["stream", "polling"])
    assert_type(config.status.reads, dict[str, int])
    assert_type(config.metrics(), list[Sample])


async def asynchronous(config: AsyncConfigClient) -> None:
    assert_type(await config.get("k"), Any)
    assert_type(await config.get_all(), dict[str, Any])
    assert_type(await config.get_str("k"), str)
    assert_type(await config.get_str("k", None), str | None)
    assert_type(await config.get_int("k", min_val=1), int)
    assert_type(await config.get_int("k", 5, max_val=9), int)
    assert_type(await config.get_int("k", None), int | None)
    assert_type(await config.get_float("k"), float)
    assert_type(await config.get_float("k", None), float | None)
    assert_type(await config.get_bool("k", True), bool)
    assert_type(await config.get_bool("k", None), bool | None)
    assert_type(await config.get_json("k"), Any)
    assert_type(await config.get_json("k", type=dict[str, Pool]), dict[str, Pool])
    assert_type(await config.get_json("k", None, type=Pool), Pool | None)
    assert_type(await config.as_struct(Pool, "database.pool"), Pool)
    assert_type(config.changes(), AsyncChangeIterator)
    async for change in config.changes():
        assert_type(change, ConfigChange)

    async def heard(change: ConfigChange) -> None: ...

    assert_type(config.on_change(heard, "k"), Callable[[], None])
    assert_type(config.metrics(), list[Sample])


async def in_tests(static: StaticConfig, twin: AsyncStaticConfig) -> None:
    scalars(static)
    anything(static)
    rest(static)
    await asynchronous(twin)
    assert_type(static.update({"k": 1}, ["j"]), None)
    assert_type(await twin.set("k", [1]), None)
    with StaticConfig({"k": 1}) as entered:
        assert_type(entered, StaticConfig)
    async with AsyncStaticConfig() as entered_twin:
        assert_type(entered_twin, AsyncStaticConfig)


async def wrong(config: ConfigClient, twin: AsyncConfigClient) -> None:
    size: int = config.get_int("k", None)  # type: ignore[arg-type]
    text: str = config.get_int("k")  # type: ignore[assignment]
    text = twin.get_str("k")  # type: ignore[assignment]
    text = await twin.get_bool("k")  # type: ignore[assignment]
    config.get_int(5)  # type: ignore[call-overload]
    config.get_int("k", 5, 1)  # type: ignore[call-overload]
    config.get_int("k", 5, min_val="1")  # type: ignore[call-overload]
    config.get_str("k", min_val=1)  # type: ignore[call-overload]
    config.as_struct(Pool(size=1))  # type: ignore[arg-type]
    config.on_change(lambda: None)  # type: ignore[misc, arg-type]
    config.on_status(print, "k")  # type: ignore[call-arg]
    config.status.state = "live"  # type: ignore[misc]
    status: Literal["up"] = config.status.state  # type: ignore[assignment]
    for change in twin.changes():  # type: ignore[attr-defined]
        print(change)
    print(size, text, status)


async def management(admin: AdminClient, twin: AsyncAdminClient) -> None:
    assert_type(admin.get("k"), Entry)
    assert_type(admin.entries().values, dict[str, Any])
    assert_type(admin.deploy({"k": 1}, version="v1", dry_run=True, reason=None), Outcome)
    assert_type(await twin.change({"k": 1}, delete=["l"], ttl_s=5, digest="1-ab"), Outcome)
    assert_type(admin.diff("v1").changes, list[Changed])
    assert_type([one.by for one in admin.versions()], list[str])
    assert_type([one.old async for one in twin.history("k")], list[Any])
    assert_type(admin.freeze(reason="r", ttl_s=60).frozen, Freeze | None)
    assert_type(admin.at(environment="staging"), AdminClient)
    assert_type(await twin.backup("f"), Backup)
    admin.delete("k", dryrun=True)  # type: ignore[call-arg]
    admin.deploy({"k": 1}, overrides="drop")  # type: ignore[arg-type]
    admin.rollback()  # type: ignore[call-arg]
    await admin.get("k")  # type: ignore[misc]
