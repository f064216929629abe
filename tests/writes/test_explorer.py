"""Schedules drawn by seed, each judged; what they have to produce, by the cases of the release protocol; planted bugs.

`CONFIGSVC_TEST_SCHEDULES=N` runs N of them. One that fails is made smaller and shown as a transcript.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from configsvc.etcd.ops import EtcdError
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
    found = failure.run.program, failure.run.decisions

    async def fails(made: Program, decisions: Sequence[Decision]) -> bool:
        nonlocal smallest
        again = await tried(Run(etcd, made, Replay(decisions)))
        if again is None or again.kind != failure.kind:
            return False
        smallest = again
        return True

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            found = await shrunk(*found, fails)
    run, seed = smallest.run, failure.run.program.seed
    lines = [f"seed {seed}: {smallest.error}", str(run.program), *run.trace, f"Replay({list(found[1])})"]
    return "\n".join(lines)
