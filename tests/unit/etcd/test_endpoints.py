"""Which endpoint is next."""

import pytest

from configsvc.etcd.breaker import Breaker
from configsvc.etcd.endpoints import Endpoint, Endpoints, Silent
from configsvc.etcd.ops import Compacted, Corrupt, Unavailable


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def three(clock: Clock) -> Endpoints:
    return Endpoints(Endpoint(f"http://{name}", Breaker(2, 5.0), clock, Silent()) for name in "abc")


def names(endpoints: list[Endpoint]) -> str:
    return "".join(endpoint.url[-1] for endpoint in endpoints)


def test_the_first_until_another_answered(three: Endpoints) -> None:
    assert names(three.order()) == "abc"
    three.prefer(three.all[1])
    assert names(three.order()) == "bca"
    assert three.next() is three.all[1]


def test_a_failure_ends_the_preference_also_where_all_have_failed_once(three: Endpoints) -> None:
    a, b, c = three.all
    for endpoint in (b, c):
        three.failed(endpoint, Unavailable("long ago"))
    three.prefer(a)
    assert names(three.order()) == "abc"
    three.failed(a, Compacted("an answer"))
    assert names(three.order()) == "abc"
    three.failed(a, Unavailable("now"))
    assert names(three.order()) == "bca"


def test_by_turn_and_never_the_same_again(three: Endpoints) -> None:
    a, b, c = three.all
    assert [three.next(after) for after in (a, b, c)] == [b, c, a]
    single = Endpoints([a])
    assert single.next(a) is a


def test_those_that_failed_come_last(three: Endpoints, clock: Clock) -> None:
    a, b, c = three.all
    b.failed(Unavailable("x"))
    assert names(three.order()) == "acb"
    b.failed(Unavailable("x"))
    a.failed(Unavailable("x"))
    assert (b.breaker, names(three.order())) == ("open", "cab")
    assert three.next(c) is a
    a.failed(Unavailable("x"))
    c.failed(Corrupt("x"))
    assert names(three.order()) == "abc"
    clock.now = 5.0
    assert a.admit()
    # One that is being probed is as good as one that is left alone.
    assert names(three.order()) == "bca"
    assert repr(three) == "http://a (half-open), http://b (half-open), http://c (half-open)"


def test_an_answer_that_is_no_is_an_answer(three: Endpoints) -> None:
    a = three.all[0]
    a.failed(Unavailable("x"))
    a.failed(Compacted("x"))
    assert a.failures == 0


def test_no_endpoints_and_unknown_ones(three: Endpoints, clock: Clock) -> None:
    with pytest.raises(ValueError, match="no endpoints"):
        Endpoints([])
    with pytest.raises(ValueError, match="http://d is not one of"):
        three.get(Endpoint("http://d", Breaker(1, 1.0), clock, Silent()))
