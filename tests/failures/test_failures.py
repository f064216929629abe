"""docs/reference/failures.md, row by row: each cell is compared with what the real clients do, before and after."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from configsvc.etcd.local import LocalEtcd
from tests.client.support import eventually_sync
from tests.failures import odd_answers, processes, running, starting  # noqa: F401
from tests.failures.page import AFTER, Row, Told, rows
from tests.failures.world import SCENARIOS, Lines, World
from tests.support import etcd as support


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_etcd: Callable[[str], LocalEtcd]) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack, monkeypatch, lambda: start_etcd(support.newest()))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    logger, handler = logging.getLogger("configsvc_client"), Lines()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler.said
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_each_row_has_a_scenario_and_each_scenario_a_row() -> None:
    assert sorted(row.name for row in rows()) == sorted(SCENARIOS)


@pytest.mark.skipif(sys.platform == "win32", reason="signals, forks, modes of files")
@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in rows()])
def test_row(row: Row, world: World, lines: list[str]) -> None:
    acting = SCENARIOS[row.name](world)
    next(acting)
    compare(world, lines, row.reads, row.status, row.during)
    if row.after is None:
        assert next(acting, "over") == "over"
        return
    for seat in world.seats:
        seat.changes.clear()
        seat.states.clear()
    lines.clear()
    assert next(acting, "over") == "over"
    compare(world, lines, AFTER, ["live", "live"], row.after)


def compare(world: World, lines: list[str], reads: int, status: list[str], told: Told) -> None:
    """Wait until the clients are what the page says, and see that they have told that, once, and nothing else."""

    def is_so() -> bool:
        return all(
            seat.status() == status
            and seat.read() == reads
            and len(seat.changes) >= told.changes
            and len(seat.states) >= len(told.states)
            for seat in world.seats
        ) and all(count >= len(world.seats) for count in told.matching(lines).values())

    try:
        eventually_sync(is_so)
        for seat in world.seats:
            assert (len(seat.changes), seat.states) == (told.changes, told.states)
        assert told.matching(lines) == dict.fromkeys(told.lines, len(world.seats))
        assert told.unknown(lines) == []
    except AssertionError as error:
        seen = [(seat.status(), seat.read(), seat.changes, seat.states) for seat in world.seats]
        raise AssertionError(f"the page says {status}, {reads}, {told};\nseen {seen}\nlogged {lines}") from error
