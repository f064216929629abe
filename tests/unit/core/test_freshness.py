"""What a replica says of its own freshness."""

import math
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from configsvc.core.freshness import Freshness

START = datetime(2026, 1, 1, tzinfo=UTC)


class Time:
    def __init__(self) -> None:
        self.at = 0.0
        self.jump = 0.0

    def fresh(self) -> Freshness:
        return Freshness(heartbeat_s=5, clock=lambda: self.at, now=self.now)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.at + self.jump)


def test_the_states_in_order() -> None:
    time = Time()
    fresh = time.fresh()
    time.at = 3
    assert (fresh.state, fresh.since, fresh.staleness_s(), fresh.stale_at) == ("starting", START, 3, math.inf)
    fresh.prove()
    live_since = time.now()
    for _ in range(3):
        time.at += 10
        assert (fresh.state, fresh.since, fresh.staleness_s()) == ("live", live_since, 0)
        fresh.prove()
    proved = time.now()
    time.at = fresh.stale_at
    assert (fresh.state, fresh.since, fresh.stale_at) == ("stale", proved, math.inf)
    assert fresh.staleness_s() > 10
    fresh.prove()
    assert (fresh.state, fresh.since) == ("live", time.now())
    assert fresh.staleness_s(held_at=time.at - 60) == 60
    assert fresh.staleness_s(held_at=time.at - 6) == 0
    time.at += 1
    fresh.drain()
    drained = time.now()
    time.at += 1
    fresh.drain()
    fresh.prove()
    assert (fresh.state, fresh.since) == ("draining", drained)


def test_a_wall_clock_that_is_set_back_makes_no_negative_age() -> None:
    time = Time()
    fresh = time.fresh()
    time.jump = -3600
    assert (fresh.staleness_s(), fresh.since_s(START)) == (0, 0)
    fresh.prove()
    assert fresh.state == "live"


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=30))
def test_live_is_within_two_heartbeats_of_a_proof_and_says_when_it_ends(steps: list[tuple[int, bool]]) -> None:
    time = Time()
    fresh = time.fresh()
    proved_at = None
    for step, proof in steps:
        time.at += step
        live = proved_at is not None and time.at - proved_at <= 10
        assert (fresh.state == "live") == live
        assert (fresh.stale_at > time.at) == (live or fresh.stale_at == math.inf)
        assert (fresh.staleness_s() == 0) == (live or (proved_at is None and time.at == 0))
        assert (fresh.live_until() >= time.at) == live
        for held_at in (time.at - 12, time.at - 4):
            assert (fresh.live_until(held_at) >= time.at) == (live and fresh.staleness_s(held_at) == 0)
        if proof:
            fresh.prove()
            proved_at = time.at
