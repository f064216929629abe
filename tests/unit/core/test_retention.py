"""Which releases are kept: by count and age, and never fewer than the head, an override or a checkpoint needs."""

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.core.model import Head
from configsvc.core.release import Manifest
from configsvc.core.retention import Retention, first_kept

NOW = datetime(2026, 6, 1, tzinfo=UTC)
FOR_EVER = Retention(count=0, age_s=0)


def release(number: int, *, checkpoint: bool = False, age_s: float = 0, at: str | None = None) -> Manifest:
    when = (NOW - timedelta(seconds=age_s)).isoformat() if at is None else at
    return Manifest(number=number, id=f"id{number}", content="c", at=when, checkpoint="c" if checkpoint else None)


def head(number: int, *, deployed: int = 0, **overrides: int) -> Head:
    return Head(release=number, deployed=deployed, overrides=overrides)


def kept(manifests: list[Manifest], top: Head, **of: float) -> int:
    return first_kept(manifests, top, Retention(**({"count": 0, "age_s": 0} | of)), NOW)  # type: ignore[arg-type]


ALL = [release(n, checkpoint=n in (1, 11, 21), age_s=(30 - n) * 100) for n in range(1, 31)]


def test_nothing_goes_without_a_limit() -> None:
    assert first_kept(ALL, head(30), FOR_EVER, NOW) <= 1
    assert first_kept([], head(0), Retention(), NOW) == 0


def test_what_goes_ends_right_before_a_checkpoint() -> None:
    assert kept(ALL, head(30), count=15) == 11
    assert kept(ALL, head(30), count=20) == 11
    assert kept(ALL, head(30), count=10) == 21
    assert kept(ALL, head(30), count=1) == 21
    assert kept(ALL, head(30), count=25) == 1


def test_age_counts_too_and_the_stricter_limit_wins() -> None:
    assert kept(ALL, head(30), age_s=950) == 21
    assert kept(ALL, head(30), age_s=1500) == 11
    assert kept(ALL, head(30), age_s=10**6) == 1
    assert kept(ALL, head(30), age_s=1500, count=5) == 21
    assert kept(ALL, head(30), age_s=950, count=25) == 21


def test_the_newest_stays_however_old_it_is() -> None:
    old = [release(n, checkpoint=True, age_s=10**9) for n in range(1, 4)]
    assert kept(old, head(3), age_s=1) == 3


def test_what_a_pending_override_goes_back_to_stays() -> None:
    assert kept(ALL, head(30, deployed=30), count=1) == 21
    assert kept(ALL, head(30, deployed=15), count=1) == 11
    assert kept(ALL, head(30, deployed=30, a=25, b=12), count=1) == 11
    assert kept(ALL, head(30, deployed=30, a=3), count=1) == 1


def test_a_time_that_does_not_read_is_taken_for_new() -> None:
    odd = [release(n, checkpoint=True, at=at) for n, at in enumerate(("yesterday", "", "2026-01-01"), 1)]
    assert kept(odd, head(3), age_s=1) == 1


def test_without_a_checkpoint_everything_stays() -> None:
    assert kept([release(n) for n in range(1, 10)], head(9), count=1) == 0


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.floats(0, 1000)), min_size=1, max_size=40),
    st.integers(0, 20),
    st.floats(0, 1500),
    st.data(),
)
def test_past_states_that_are_kept_can_be_told(
    steps: list[tuple[int, bool, float]], count: int, age_s: float, data: st.DataObject
) -> None:
    manifests: list[Manifest] = []
    number = 0
    for gap, checkpoint, age in steps:
        number += gap
        manifests.append(release(number, checkpoint=checkpoint or not manifests, age_s=age))
    numbers = [one.number for one in manifests]
    deployed = data.draw(st.sampled_from([0, *numbers]))
    overrides = data.draw(st.dictionaries(st.sampled_from("abc"), st.sampled_from(numbers)))
    top = Head(release=number, deployed=deployed, overrides=overrides)
    first = first_kept(manifests, top, Retention(count=count, age_s=age_s), NOW)
    stays = [one for one in manifests if one.number >= first]
    # Each of them can be told: there is a checkpoint, and every release after it.
    assert stays[0].checkpoint is not None
    # What is needed is there, and so is what was asked to be kept.
    assert {number, deployed or number, *overrides.values()} <= {one.number for one in stays}
    assert len(stays) >= min(count or len(manifests), len(manifests)) or age_s
    young = [one for one in manifests if age_s and (NOW - datetime.fromisoformat(one.at)).total_seconds() <= age_s]
    if not count:
        assert {one.number for one in young} <= {one.number for one in stays}
    if not count and not age_s:
        assert stays == manifests
