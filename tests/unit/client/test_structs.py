"""Structs out of dotted keys."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, NewType, Optional, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc_client.errors import ConfigValueError
from configsvc_client.structs import as_struct, check, stored_at


class Pool(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=1)] = 10
    timeout_s: float = msgspec.field(default=1.0, name="timeout")


class Database(msgspec.Struct, rename="camel"):
    url: str
    pool: Pool
    read_only: bool = False
    replica: Pool | None = None


@dataclass
class Retry:
    attempts: int
    on: list[int] = field(default_factory=lambda: [503])
    mode: Literal["fast", "slow"] = "fast"
    made: int = field(init=False, default=1)


class Everything(msgspec.Struct):
    database: Database
    retry: Retry
    limits: dict[str, int] = {}
    pools: dict[str, Pool] = {}
    extra: Optional[dict[str, Any]] = None  # noqa: UP045 - the older spelling counts too


def made(values: dict[str, Any], wanted: type, prefix: str = "") -> Any:
    return as_struct(stored_at(values, prefix), wanted)


def problems(values: dict[str, Any], wanted: type, prefix: str = "") -> dict[str, str]:
    with pytest.raises(ConfigValueError) as caught:
        made(values, wanted, prefix)
    assert all(key in str(caught.value) for key in caught.value.problems)
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems
    return caught.value.problems


def test_fields_are_found_by_dotted_keys() -> None:
    values = {
        "database.url": "u",
        "database.pool.size": 5,
        "database.pool.timeout": 2,
        "database.readOnly": True,
        "retry.attempts": 4,
        "limits.a": 1,
        "limits.b.c": 2,
        "pools.x.size": 1,
        "pools.y": {"size": 2, "timeout": 0.5},
        "pools.y.size": 3,
        "extra.k": [None],
        "somebody.elses": "key",
    }
    everything = made(values, Everything)
    assert everything == Everything(
        database=Database(url="u", pool=Pool(size=5, timeout_s=2.0), read_only=True),
        retry=Retry(attempts=4),
        limits={"a": 1, "b.c": 2},
        pools={"x": Pool(size=1), "y": Pool(size=3, timeout_s=0.5)},
        extra={"k": [None]},
    )
    assert type(everything.database.pool.timeout_s) is float
    everything.extra["k"].append(1)
    assert values["extra.k"] == [None]


@pytest.mark.parametrize("prefix", ["app.retry", "app.retry."])
@pytest.mark.parametrize("values", [{"app.retry.attempts": 4}, {"app.retry": {"attempts": 4}}])
def test_a_prefix_ends_with_or_without_a_dot_and_may_hold_an_object(prefix: str, values: dict[str, Any]) -> None:
    assert made(values, Retry, prefix) == Retry(attempts=4)


def test_a_struct_is_made_of_defaults_where_nothing_is_stored_and_optional_ones_are_not() -> None:
    database = made({"url": "u"}, Database)
    assert (database.pool, database.replica) == (Pool(), None)
    assert made({"url": "u", "replica.size": 2}, Database).replica == Pool(size=2)
    assert made({"url": "u", "replica": None}, Database).replica is None
    assert made({"url": "u", "replica": {}}, Database).replica == Pool()


def test_everything_that_is_wrong_is_said_at_once_by_dotted_key() -> None:
    values = {
        "app.database.pool.size": 0,
        "app.database.readOnly": "yes",
        "app.database.replica": 5,
        "app.limits.b.c": "x",
        "app.pools.x.size": True,
        "app.retry.mode": "other",
    }
    found = problems(values, Everything, "app")
    assert set(found) == {*values, "app.database.url", "app.retry.attempts"}
    assert found["app.database.url"] == "missing; wanted str"
    assert found["app.database.readOnly"] == 'stored is a string, "yes"; wanted bool (Expected `bool`, got `str`)'
    assert "wanted an object for Pool" in found["app.database.replica"]


def test_what_is_required_and_can_be_empty_is_missing_all_the_same() -> None:
    class Named(msgspec.Struct):
        limits: dict[str, int]
        pool: Pool | None

    assert set(problems({}, Named)) == {"limits", "pool"}
    assert made({"limits": {}, "pool": None}, Named) == Named(limits={}, pool=None)


class Node(msgspec.Struct):
    child: "Node"


class List(msgspec.Struct):
    value: int = 0
    rest: "List | None" = None


def test_a_type_that_contains_itself_ends() -> None:
    assert set(problems({"child.child": {}}, Node)) == {"child.child.child"}
    assert made({"rest.rest.value": 2}, List) == List(rest=List(rest=List(value=2)))


def test_a_types_own_check_is_heard() -> None:
    class Range(msgspec.Struct):
        low: int
        high: int

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is above high")

    assert problems({"r.low": 2, "r.high": 1}, Range, "r") == {"r": "Range: low is above high"}


def test_only_structs_and_dataclasses_are_made() -> None:
    for wanted in (int, dict, list[int]):
        with pytest.raises(TypeError, match="type is one, not "):
            check(wanted, "")


def test_a_struct_that_is_an_array_in_json_is_one_value() -> None:
    class Point(msgspec.Struct, array_like=True):
        x: int
        y: int

    class Map(msgspec.Struct):
        at: Point

    assert made({"at": [1, 2]}, Map) == Map(at=Point(1, 2))


def flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """An object as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{path}{key}."))
        else:
            found[path + key] = value
    return found


POOLS = st.builds(Pool, size=st.integers(1, 99), timeout_s=st.floats(0, 9))
DATABASES = st.builds(Database, url=st.text(max_size=5), pool=POOLS, read_only=st.booleans(), replica=st.none() | POOLS)


@given(DATABASES, st.booleans())
def test_what_a_struct_is_as_json_reads_as_the_same_struct(database: Database, as_keys: bool) -> None:
    values = {"db": msgspec.to_builtins(database)}
    assert made(flat(values) if as_keys else values, Database, "db") == database


# ---- types that say more ---------------------------------------------------------------------------------------------

T = TypeVar("T")
U = TypeVar("U")


@dataclass
class Box(Generic[T]):
    item: T
    more: dict[str, T | None] = field(default_factory=dict)


@dataclass
class Labelled(Box[U], Generic[U, T]):
    label: T | None = None


@dataclass
class Shelf(Labelled[int, str]):
    boxes: dict[str, Box[bool]] = field(default_factory=dict)


def test_a_generic_dataclass_is_made_of_what_it_is_said_to_hold() -> None:
    assert made({"item": 1, "more.a": 2}, Box[int]) == Box(1, {"a": 2})
    assert list(problems({"item": "x", "more.a": "y"}, Box[int])) == ["item", "more.a"]
    assert made({"item": 1, "label": "x", "boxes.a.item": True}, Shelf) == Shelf(1, {}, "x", {"a": Box(True)})
    wrong = problems({"item": "x", "more.a": "y", "label": 1, "boxes.a.item": 1}, Shelf)
    assert list(wrong) == ["item", "more.a", "label", "boxes.a.item"]
    assert made({"item": "x"}, Box) == Box("x")


class Limited(msgspec.Struct):
    limits: Annotated[dict[str, int], msgspec.Meta(max_length=1)] = {}
    pools: Annotated[dict[str, Pool] | None, msgspec.Meta(min_length=1)] = None


def test_what_is_asked_of_a_dict_as_a_whole_counts() -> None:
    assert made({"limits.a": 1, "pools.a.size": 2}, Limited) == Limited({"a": 1}, {"a": Pool(2)})
    wrong = problems({"limits.a": 1, "limits": {"b": 2}, "pools": {}}, Limited)
    assert wrong == {
        "limits": "2 are stored at or below it: Expected `object` of length <= 1",
        "pools": "0 are stored at or below it: Expected `object` of length >= 1",
    }


class Local(msgspec.Struct, tag="local"):
    path: str
    pool: Pool = msgspec.field(default_factory=Pool)


class Remote(msgspec.Struct, tag="remote"):
    url: str
    pool: Pool = msgspec.field(default_factory=Pool)


class Place(TypedDict):
    row: int


Inner = NewType("Inner", Pool)


class Odd(msgspec.Struct):
    backend: Local | Remote | None = None
    weights: Mapping[str, int] = {}
    names: dict[int, str] = {}
    free: dict[str, Any] = {}
    bare: dict = {}  # type: ignore[type-arg]
    place: Place | None = None
    inner: Inner = msgspec.field(default_factory=lambda: Inner(Pool()))


AS_KEYS = {
    "backend.type": "remote",
    "backend.url": "http://a",
    "backend.pool.size": 3,
    "weights.a.b": 1,
    "names.1": "one",
    "free.a.b": [1],
    "bare.c.d": 1,
    "place.row": 5,
    "inner.size": 7,
}
ODD = Odd(Remote("http://a", Pool(3)), {"a.b": 1}, {1: "one"}, {"a.b": [1]}, {"c.d": 1}, {"row": 5}, Inner(Pool(7)))


def test_keys_below_whatever_is_an_object_in_json_are_not_passed_over() -> None:
    assert made(AS_KEYS, Odd) == ODD
    assert made({**AS_KEYS, "backend": {"type": "local", "url": "no"}}, Odd) == ODD
    assert made({"backend": {"type": "local", "path": "/a", "pool": {"size": 2}}}, Odd).backend == Local("/a", Pool(2))
    wrong = problems({"backend.type": "nowhere", "weights.a": "x", "names.x": "y", "place.row": "z"}, Odd)
    assert list(wrong) == ["backend", "weights.a", "names", "place"]
    assert made({"backend": None}, Odd) == Odd()
