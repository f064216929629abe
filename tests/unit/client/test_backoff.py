"""Delays between attempts."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from configsvc_client.backoff import Backoff


@given(attempt=st.integers(0, 10**6), seed=st.integers(), floor=st.floats(0, 1e9))
def test_a_delay_is_bounded_and_never_below_what_the_service_asked(attempt: int, seed: int, floor: float) -> None:
    backoff = Backoff(base_s=0.5, cap_s=30)
    delay = backoff.delay_s(attempt, Random(seed), floor_s=floor)
    assert min(floor, 30) <= delay <= 60


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    backoff = Backoff(base_s=0.5, cap_s=3)
    assert [backoff.ceiling_s(attempt) for attempt in range(5)] == [0.5, 1, 2, 3, 3]


def test_jitter_is_full_and_also_spreads_those_who_were_told_the_same_number() -> None:
    random = Random(1)
    plain = [Backoff(base_s=1).delay_s(0, random) for _ in range(500)]
    assert min(plain) < 0.1
    assert max(plain) > 0.9
    told = [Backoff(base_s=0.001).delay_s(0, random, floor_s=10) for _ in range(500)]
    assert max(told) - min(told) > 4


def test_a_negative_floor_is_none() -> None:
    assert 0 <= Backoff(base_s=1).delay_s(0, Random(1), floor_s=-5) <= 1
