"""Schedules drawn by seed, each judged; what they have to produce, by the cases of the release protocol; planted bugs.

`CONFIGSVC_TEST_SCHEDULES=N` runs N of them. One that fails is made smaller and shown as a transcript.
"""

import asyncio
import contextlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest

from configsvc.core import scope
from configsvc.core.commands import View
from configsvc.core.model import Head, head_path
from configsvc.core.plan import Plan
from configsvc.core.records import Problem, Record, read_head
from configsvc.etcd.ops import Compare, EtcdError, Txn
from configsvc.writes import txns, window
from configsvc.writes.applying import Applier
from tests.writes.explorer import Run
from tests.writes.lean import LeanEtcd
from tests.writes.programs import Decision, Dice, Program, Replay, program, shrunk
from tests.writes.verdict import judge

AT_ONCE = 8
"""Schedules that run at the same time on one etcd."""


class Failure(NamedTuple):
    run: Run
    error: BaseException

    @property
    def kind(self) -> str:
        """The same for failures that say the same of other keys and revisions."""
        text = str(self.error).partition("\n")[0]
        return f"{type(self.error).__name__} {''.join(c for c in text if not c.isdigit())[:30]}"


async def tried(run: Run) -> Failure | None:
    """Play a schedule and judge it."""
    try:
        async with asyncio.timeout(60):
            await run.run()
        await judge(run)
    except (AssertionError, EtcdError, TimeoutError, LookupError, ValueError, TypeError) as error:
        return Failure(run, error)
    return None


async def explore(etcd: LeanEtcd, seeds: Sequence[int]) -> tuple[Counter[str], Failure | None]:
    """Run the schedules of seeds until one fails; what happened in all of them."""
    left, cases = iter(seeds), Counter[str]()
    failures: list[Failure] = []

    async def work() -> None:
        for seed in left:
            made, style, rng = program(seed)
            run = Run(etcd, made, Dice(style, rng))
            if failure := await tried(run):
                failures.append(failure)
            cases.update(run.cases)
            if failures:
                return

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return cases, failures[0] if failures else None


async def told(etcd: LeanEtcd, failure: Failure) -> str:
    """A failure, made smaller, for people."""
    smallest = failure

    async def fails(made: Program, decisions: Sequence[Decision]) -> bool:
        nonlocal smallest
        again = await tried(Run(etcd, made, Replay(decisions)))
        if again is None or again.kind != failure.kind:
            return False
        smallest = again
        return True

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            await shrunk(failure.run.program, failure.run.decisions, fails)
    run = smallest.run
    lines = [f"seed {failure.run.program.seed}: {smallest.error}", str(run.program), *run.trace]
    turns = (f"{list(one)}" + f" * {count}" * (count > 1) for one, count in runs_of(run.decisions))
    return "\n".join([*lines, "decisions: " + " + ".join(turns)])


def runs_of(decisions: Sequence[Decision]) -> list[tuple[Sequence[Decision], int]]:
    """The same decision several times in a row, as one."""
    return [((one,), len(list(same))) for one, same in itertools.groupby(decisions)]


CASES = {
    "2: a small release is one transaction": "release",
    "2: others came first, and it is planned anew": "release refused",
    "2: the first release creates the epoch key": "the epoch key is made",
    "2: no answer, our id is there: done": "lost: release -> done",
    "2: no answer, our id is not there: the head is touched": "touch",
    "2: and the failure is reported": "ghost: release -> store_unavailable",
    "2: and the ghost can't land": "late and refused: release",
    "2: no answer, and the head has moved: no touch": "touch refused",
    "2: no head yet: the touch creates one with release 0": "touch without a head",
    "2: the touch has no answer either: outcome_unknown": "answer: outcome_unknown",
    "2: the Idempotency-Key settles it later": "answer: repeated",
    "3.1: content is staged before, and sent again where no answer came": "lost: stage content",
    "3.2: a window opens": "open",
    "3.2: it does not open where something has moved": "open refused",
    "3.2: the answer to the opening is lost": "lost: open -> done",
    "3.3: a key has moved since the plan: closed unchanged": "undo",
    "3.3: all is as planned": "verified",
    "3.4: a chunk whose answer is lost is not taken for a hand's": "lost: chunk -> done",
    "3.4: a chunk behind the fence": "chunk refused",
    "3.4: a late chunk behind the fence": "late and refused: chunk",
    "3.5: the window closes": "close",
    "3.5: the answer to the close is lost": "lost: close -> done",
    "3: a writer dies": "killed",
    "3: a live writer's lease ends, and its window is another's": "a live writer's lease ends",
    "3: taken over before it was verified, verified again": "taken over opened, verified",
    "3: taken over before it was verified, closed unchanged": "taken over opened, undo",
    "3: taken over after that, rolled forward": "taken over verified, close",
    "3: the janitor takes a window over": "the janitor takes over",
    "3: two want to take it over": "take over verified refused",
    "3: a content chunk is lost: repair adopts what is there": "repaired",
    "3: a hand puts a key of the release inside the window": (
        "a release's key by hand inside a window, overwritten and named"
    ),
    "3: a hand puts another key inside the window": "another key by hand inside a window",
    "3: the head is deleted by hand": "behead delete",
    "3: the head is garbled by hand": "behead garble",
    "3: the next number is above head and manifests": "number after a lost head",
    "4: a cold start inside a window": "cold inside a window",
    "4: a cold start inside a window, etcd's past is gone": "cold inside a window, compacted",
    "4: a cold start outside": "cold outside",
    "6: a deploy over an override is refused": "answer: override_pending",
    "6: or discards it": "override discarded",
    "6: or keeps it": "override kept",
    "6: an override's time ends": "made: expiry",
    "6: an old timer does nothing": "an old timer does nothing",
    "6: a timer leaves what a hand changed alone": "an expiry leaves what a hand changed",
    "6: rollbacks": "made: rollback",
    "7: numbers go on, and nothing is left behind": "swept",
}
"""The cases of the release protocol that schedules produce, and by which counter it is known that they did."""

SCHEDULES = int(os.environ.get("CONFIGSVC_TEST_SCHEDULES", "10000"))
ENOUGH = 2500
"""So many schedules produce every case."""
PARTS = 4


@pytest.mark.timeout(60 + SCHEDULES // 5)
@pytest.mark.parametrize("part", range(PARTS))
async def test_schedules_keep_the_promises(lean: LeanEtcd, part: int) -> None:
    seeds = range(part, SCHEDULES, PARTS)
    cases, failure = await explore(lean, seeds)
    if failure:
        pytest.fail(await told(lean, failure), pytrace=False)
    missing = [name for name, counter in CASES.items() if not cases[counter]]
    assert not missing or len(seeds) < ENOUGH, f"{len(seeds)} schedules did not produce: {missing}"


async def test_a_seed_is_the_same_schedule_each_time(lean: LeanEtcd) -> None:
    for seed in range(0, 400, 10):
        made, style, rng = program(seed)
        first = Run(lean, made, Dice(style, rng))
        await first.run()
        again = Run(lean, made, Replay(first.decisions))
        await again.run()
        assert names_out(again) == names_out(first)


def names_out(run: Run) -> list[str]:
    """The transcript without what is random or counts in all of etcd."""
    return [re.sub(r"[0-9a-f]{12,}", "…", line) for line in run.trace]


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """Chunks that do not compare the head."""
    chunk = window._chunk

    def without(*arguments: Any) -> Txn:
        txn = chunk(*arguments)
        return msgspec.structs.replace(txn, compare=txn.compare[1:])

    patch.setattr(window, "_chunk", without)


def no_head_compare(patch: pytest.MonkeyPatch) -> None:
    """Releases that do not compare the head."""
    guards = txns.guards

    def without(plan: Plan, view: View) -> tuple[Compare, ...]:
        return tuple(one for one in guards(plan, view) if one.key != head_path(plan.scope))

    patch.setattr(txns, "guards", without)


def early_readers(patch: pytest.MonkeyPatch) -> None:
    """Replicas that know nothing of windows."""

    def without(record: Record | None) -> tuple[Head | None, Problem | None]:
        head, problem = read_head(record)
        return msgspec.structs.replace(head, applying=None) if head else None, problem

    patch.setattr(scope, "read_head", without)


def no_touch(patch: pytest.MonkeyPatch) -> None:
    """Writers that do not move the head before they say that nothing was applied."""

    async def without(self: Applier, view: View) -> bool:
        return True

    patch.setattr(Applier, "_touch", without)


@pytest.mark.timeout(60 + SCHEDULES // 5)
@pytest.mark.parametrize("plant", [no_fence, no_head_compare, early_readers, no_touch])
async def test_planted_bugs_are_found(
    lean: LeanEtcd, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    _, failure = await explore(lean, range(max(SCHEDULES, ENOUGH)))
    assert failure is not None, f"{plant.__doc__} and no schedule shows it"
    # What a failure would show is short enough to be read.
    assert len((await told(lean, failure)).splitlines()) < 60
