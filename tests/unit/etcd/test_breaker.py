"""The breaker as a machine: every state, and what no sequence of events may lead to."""

from hypothesis import given
from hypothesis import strategies as st

from configsvc.etcd.breaker import Breaker


def test_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(failures=3, open_s=2.0)
    for _ in range(2):
        assert breaker.admit(0.0)
        breaker.failed(0.0)
    breaker.succeeded()
    for _ in range(2):
        breaker.failed(0.0)
    assert breaker.state(0.0) == "closed"
    breaker.failed(1.0)
    assert breaker.state(1.0) == "open"
    assert not breaker.admit(2.9)


def test_one_probe_in_half_open_and_its_end_decides() -> None:
    breaker = Breaker(failures=1, open_s=2.0)
    breaker.failed(0.0)
    assert breaker.state(2.0) == "half-open"
    assert [breaker.admit(2.0) for _ in range(3)] == [True, False, False]
    breaker.failed(2.5)
    assert (breaker.state(4.4), breaker.state(4.5)) == ("open", "half-open")
    assert breaker.admit(4.5)
    breaker.abandoned()
    assert breaker.admit(4.6)
    breaker.succeeded()
    assert breaker.state(4.6) == "closed"
    assert all(breaker.admit(4.6) for _ in range(5))


def test_an_old_failure_does_not_prolong() -> None:
    """Requests that were sent before it opened end later; they say nothing new."""
    breaker = Breaker(failures=1, open_s=2.0)
    breaker.failed(0.0)
    breaker.failed(1.9)
    assert breaker.state(2.0) == "half-open"


def test_trip() -> None:
    breaker = Breaker(failures=100, open_s=2.0)
    breaker.trip(0.0)
    assert breaker.state(1.0) == "open"


EVENTS = st.lists(st.tuples(st.sampled_from(["ask", "ok", "fail", "drop", "wait"]), st.floats(0, 3)), max_size=60)


@given(EVENTS, st.integers(1, 4))
def test_never_stuck_and_never_two_probes(events: list[tuple[str, float]], failures: int) -> None:
    breaker, now, under_way = Breaker(failures=failures, open_s=1.0), 0.0, 0
    for event, pause in events:
        if event == "wait":
            now += pause
        elif event == "ask":
            half_open = breaker.state(now) == "half-open"
            admitted = breaker.admit(now)
            assert admitted or breaker.state(now) != "closed"
            under_way += admitted
            if admitted and half_open:
                assert not breaker.admit(now)
        elif under_way:
            under_way -= 1
            if event == "ok":
                breaker.succeeded()
            elif event == "fail":
                breaker.failed(now)
            else:
                breaker.abandoned()
    # When all that was asked has ended, an endpoint can be asked again after `open_s` at the latest.
    for _ in range(under_way):
        breaker.abandoned()
    assert breaker.admit(now + 1.0)
