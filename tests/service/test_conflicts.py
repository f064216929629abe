"""Who wins where two want different things: each cell of the table in the decision record, on a real etcd."""

import asyncio
import itertools
import json
import re
import secrets
from pathlib import Path
from typing import Any

import pytest

from configsvc.core.commands import About, Command, Expire, View
from configsvc.core.model import Scope
from configsvc.writes.writer import Writer
from tests.support.writing import NOTHING, Answer, Api, Store

PAGE = Path(__file__).parents[2] / "docs/decisions/017-concurrent-updates.md"
KINDS = ("deploy", "emergency", "rollback", "delete", "expiry", "hand")
GONE = NOTHING


def table() -> dict[tuple[str, str], str]:
    """The table as the page has it."""
    rows = re.findall(r"^\| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    head, *lines = (row.split(" | ") for row in rows if not row.startswith("---"))
    return {(line[0], column): word for line in lines for column, word in zip(head[1:], line[1:], strict=True)}


TABLE = table()


def test_the_page_has_every_cell() -> None:
    assert set(TABLE) == set(itertools.product(KINDS, KINDS))


class Key:
    """One key, `k`, that was 0 in release 1 and is 1 by release 2; and all that can happen to it."""

    def __init__(self, api: Api, store: Store) -> None:
        self.api = api
        self.store = store
        self.timer = 0
        """The release that set an override with a time."""

    async def start(self, *, timed: bool) -> None:
        await self.api.deploy({"k": 0, "other": 1})
        await self.api.deploy({"k": 1, "other": 1})
        if timed:
            self.timer = (await self.api.emergency("k", "timed", ttl_s=3600))["release"]

    async def do(self, kind: str, value: Any, **more: Any) -> Answer | None:
        """One of the kinds, with a value of its own where it can have one."""
        match kind:
            case "deploy":
                return await self.api.deploy({"k": value, "other": 1}, **more)
            case "emergency":
                return await self.api.emergency("k", value)
            case "rollback":
                return await self.api.rollback("@1", **more)
            case "delete":
                return await self.api.delete("k")
            case "expiry":
                await self.expire()
            case _:
                await self.store.hand("k", value)
        return None

    async def expire(self) -> None:
        """What the janitor does when the time is over."""

        async def prepare(view: View) -> Command:
            return Expire(keys={"k": self.timer})

        writer = Writer(self.store.gateway, by="test")
        about = About(by="janitor", at=writer.now(), id=secrets.token_hex(16))
        await writer.write(Scope(self.api.namespace, "production"), prepare, about)

    def outcome(self, kind: str, value: Any) -> Any:
        """What the key is where it got its way."""
        return {"rollback": 0, "delete": GONE, "expiry": 1}.get(kind, value)

    async def now(self) -> Any:
        """What is stored."""
        raw = (await self.store.entries()).get("k")
        return GONE if raw is None else json.loads(raw)["value"]


@pytest.fixture
def key(api: Api, store: Store) -> Key:
    return Key(api, store)


@pytest.mark.parametrize(("first", "then"), sorted(TABLE))
async def test_one_after_the_other(key: Key, first: str, then: str) -> None:
    await key.start(timed="expiry" in (first, then))
    # Past an override with a time, deploys and rollbacks have to say what becomes of it.
    how = {"overrides": "discard"} if then == "expiry" and first in ("deploy", "rollback") else {}
    answer = await key.do(first, "first", **how)
    assert answer is None or answer.status == 200, answer
    earlier = await key.now()
    assert earlier == key.outcome(first, "first")
    answer = await key.do(then, "then")
    found = await key.now()
    match TABLE[first, then]:
        case "later":
            assert answer is None or answer.status == 200, answer
            assert found == key.outcome(then, "then")
        case "earlier":
            assert answer is None or answer.status == 200, answer
            assert found == earlier
        case "refused":
            assert answer is not None
            assert (answer.status, answer.code) == (409, "override_pending")
            assert [one["key"] for one in answer.json["overrides"]] == ["k"]
            assert found == earlier
            kept = await key.do(then, "then", overrides="keep")
            assert kept is not None
            assert kept.status == 200
            assert await key.now() == earlier
            gone = await key.do(then, "then", overrides="discard")
            assert gone is not None
            assert gone.status == 200
            assert await key.now() == key.outcome(then, "then")
        case word:
            assert word == "nothing"
            assert answer is not None
            assert (answer.status, answer.code, found) == (404, "key_not_found", earlier)


@pytest.mark.parametrize("first", ["deploy", "rollback"])
async def test_what_was_kept_ends_with_its_timer(key: Key, first: str) -> None:
    await key.start(timed=True)
    kept = await key.do(first, "first", overrides="keep")
    assert kept is not None
    assert kept.status == 200
    assert await key.now() == "timed"
    (pending,) = (await key.api.drift())["overrides"]
    assert pending["returns"] == key.outcome(first, "first")
    await key.expire()
    assert await key.now() == key.outcome(first, "first")
    assert (await key.api.drift())["overrides"] == []


@pytest.mark.parametrize("kind", ["emergency", "hand"])
async def test_a_deploy_with_the_same_outcome_settles_it(key: Key, kind: str) -> None:
    await key.start(timed=False)
    await key.do(kind, "same")
    settled = await key.do("deploy", "same")
    assert settled is not None
    assert settled.status == 200
    assert (await key.api.drift())["overrides"] == []
    assert (await key.api.drift())["hand"] == []


async def test_a_timer_whose_key_is_what_it_returns_to_does_nothing(key: Key) -> None:
    await key.start(timed=True)
    await key.expire()
    releases = await key.api.kinds()
    await key.expire()
    assert await key.api.kinds() == releases


# ---- at the same time ------------------------------------------------------------------------------------------------

TOGETHER = ("deploy", "emergency", "rollback", "delete")


@pytest.mark.parametrize(("one", "two"), sorted(itertools.combinations_with_replacement(TOGETHER, 2)))
async def test_at_the_same_time_one_is_first(key: Key, other: Api, one: str, two: str) -> None:
    await key.start(timed=False)
    second = Key(other, key.store)
    answers = await asyncio.gather(key.do(one, "one"), second.do(two, "two"))
    done = []
    for kind, value, answer in zip((one, two), ("one", "two"), answers, strict=True):
        assert answer is not None
        if answer.status == 200:
            done.append((answer["release"], key.outcome(kind, value)))
        else:
            assert TABLE[(two, one) if kind == one else (one, two)] in ("refused", "nothing")
            assert answer.code in ("override_pending", "key_not_found")
    done.sort(key=lambda pair: pair[0])
    releases = (await key.api.ask("GET", "/v1/versions/{ns}/production"))["releases"]
    assert [row["release"] for row in releases] == list(range(len(releases), 0, -1))
    assert await key.now() == done[-1][1]


async def test_by_hand_between_plan_and_transaction(key: Key) -> None:
    """The hand is first: the deploy is planned anew, and finds an override."""
    await key.start(timed=False)
    planned = await key.api.deploy({"k": "then", "other": 1}, dry_run="true")
    tag = (await key.api.read()).headers["ETag"]
    await key.do("hand", "hand")
    for refused, code in (
        (await key.api.deploy({"k": "then", "other": 1}), "override_pending"),
        (await key.api.deploy({"k": "then", "other": 1}, digest=planned["digest"]), "plan_changed"),
        (await key.api.deploy({"k": "then", "other": 1}, headers={"If-Match": tag}), "precondition_failed"),
    ):
        assert refused.code == code
    assert await key.now() == "hand"
