"""Many writers of all kinds on one scope, as fast as they can: the history they leave is exactly what they were told.

Ten seconds, or `CONFIGSVC_TEST_RACE_S`.
"""

import asyncio
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from configsvc.core.commands import About, Change, Command, Deploy, Rollback, View
from configsvc.core.model import Scope, canonical, decode_head, entry_path, head_path, manifests_prefix
from configsvc.core.plan import change_of
from configsvc.core.release import Manifest, decode_manifest, entries_of, replay
from configsvc.core.retention import Retention
from configsvc.errors import Conflict, NotFound
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.ops import Range
from configsvc.writes import txns
from configsvc.writes.janitor import Janitor
from configsvc.writes.reading import Reading
from configsvc.writes.writer import Outcome, Writer
from configsvc_client.protocol import format_time
from tests.writes.mortal import GUARDS
from tests.writes.naming import asked

RACE_S = float(os.environ.get("CONFIGSVC_TEST_RACE_S", "10"))
WRITERS = 32
PROCESSES = 8
"""Gateways and writers of their own; each has some of the writers, as a service has many requests at once."""
KEYS = [f"k{n}" for n in range(12)]


class Race:
    """What was written, and what became of it."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.until = time.monotonic() + RACE_S
        self.accepted: dict[str, Outcome] = {}
        self.refused: set[str] = set()
        self.kinds: Counter[str] = Counter()

    async def run(self, writer: Writer, number: int) -> None:
        rng = random.Random(number)
        for turn in range(1_000_000):
            if time.monotonic() > self.until:
                return
            about = About(by=f"w{number}", at=writer.now(), id=txns.new_id(), reason="a race", force="a race")
            kind, value = (
                rng.choice(("deploy", "wide", "change", "emergency", "delete", "rollback")),
                f"{number}.{turn}",
            )

            async def prepare(view: View) -> Command:
                return await self.command(writer, view, kind, value, rng)  # noqa: B023

            try:
                found = await writer.write(self.scope, prepare, about)
            except (Conflict, NotFound) as error:
                self.refused.add(about.id)
                self.kinds[error.code] += 1
                await asyncio.sleep(rng.uniform(0, 0.05))
            else:
                self.kinds[kind] += 1
                if not found.unchanged:
                    self.accepted[about.id] = found

    async def command(self, writer: Writer, view: View, kind: str, value: str, rng: random.Random) -> Command:
        if kind in ("deploy", "wide"):
            # A wide one goes through a window.
            keys = KEYS if kind == "wide" else rng.sample(KEYS, 6)
            return Deploy(values=dict.fromkeys(keys, canonical(value)), overrides=rng.choice(("keep", "discard")))
        if kind == "rollback":
            target = rng.randint(max(1, view.release - 20), max(1, view.release))
            return Rollback(entries=await writer.state_at(self.scope, target), target=target, overrides="discard")
        if kind == "delete":
            return Change(kind="delete", delete=(rng.choice(KEYS),))
        ends = datetime.now(UTC) + timedelta(seconds=rng.choice((1, 2, 60)))
        return Change(
            kind="emergency" if kind == "emergency" else "change",
            set={rng.choice(KEYS): canonical(value)},
            expires_at=format_time(ends) if kind == "emergency" else None,
        )


@pytest.mark.timeout(120 + 4 * RACE_S)
async def test_many_writers_of_all_kinds_on_one_scope(store: LocalEtcd) -> None:
    race = Race(Scope(f"ns-{uuid.uuid4().hex[:12]}", "prod"))
    async with AsyncExitStack() as stack:
        config = GatewayConfig(endpoints=(store.url,), write_s=30.0, read_s=30.0)
        gateways = [await stack.enter_async_context(Gateway(config)) for _ in range(PROCESSES)]
        writers = [
            Writer(one, by=f"service {n}", guards=GUARDS, max_steps=8, chunk_records=4)
            for n, one in enumerate(gateways)
        ]
        janitor = Janitor(
            gateways[0],
            writers[0],
            namespace=race.scope.namespace,
            open_scopes=lambda: [race.scope],
            retention=Retention(count=0, age_s=0),
        )
        cleaning = asyncio.create_task(janitor.run())
        try:
            await asyncio.gather(*(race.run(writers[n % PROCESSES], n) for n in range(WRITERS)))
        finally:
            cleaning.cancel()
            await asyncio.wait([cleaning])
        await check(gateways[0], race)
    assert race.kinds.keys() >= {"deploy", "wide", "change", "emergency", "delete"}


async def check(gateway: Gateway, race: Race) -> None:
    scope, reading = race.scope, Reading(gateway)
    head = decode_head((await gateway.range(Range(key=head_path(scope)))).kvs[0].value)
    assert head.applying is None
    manifests: list[Manifest] = [decode_manifest(kv.value) for kv in (await gateway.list(manifests_prefix(scope))).kvs]
    assert [one.number for one in manifests] == list(range(1, head.release + 1)), "a number is skipped or doubled"
    ids = {asked(one.id): one for one in manifests}
    assert len(ids) == len(manifests)
    # Nothing but what was accepted, and what the janitor ended.
    assert ids.keys() - race.accepted.keys() == {asked(one.id) for one in manifests if one.kind == "expiry"}
    assert race.accepted.keys() <= ids.keys()
    assert not race.refused & ids.keys()
    state: dict[str, bytes] = {}
    for one in manifests:
        content = await reading.content(scope, one.content)
        assert content is not None
        told = race.accepted.get(asked(one.id))
        for record in entries_of(content):
            assert state.get(record.key) == record.old, f"release {one.number}: {record.key} was something else before"
        state = replay(state, content)
        if told is not None:
            assert told.release == one.number
            assert told.changes == [change_of(*record) for record in entries_of(content) if record.old != record.new]
            await check_stored(gateway, scope, told.revision, state)
    await check_stored(gateway, scope, 0, state)


async def check_stored(gateway: Gateway, scope: Scope, revision: int, state: Mapping[str, bytes]) -> None:
    """The store has exactly what the history comes to, at the revision that the writer was told."""
    head = (await gateway.range(Range(key=head_path(scope), revision=revision))).kvs[0]
    if decode_head(head.value).applying is not None:
        # A writer whose window somebody else has closed knows only when it opened.
        return
    found = await gateway.list(entry_path(scope, "k"), revision=revision)
    prefix = len(entry_path(scope, ""))
    assert {kv.key[prefix:].decode(): kv.value for kv in found.kvs} == dict(state), f"at revision {revision or 'now'}"
