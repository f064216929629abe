"""What callbacks hear where there are many of them, where they are slow, and where they change what they are told."""

from datetime import UTC, datetime
from typing import Any

from configsvc_client.callbacks import Callbacks
from configsvc_client.protocol import Entry
from configsvc_client.snapshot import Snapshot
from configsvc_client.view import ClientStatus, State


def state(revision: int, **values: Any) -> Snapshot:
    entries = {key: Entry(value=value, metadata={"by": []}) for key, value in values.items()}
    return Snapshot(namespace="n", environment="e", revision=revision, entries=entries)


def status(state: State) -> ClientStatus:
    return ClientStatus(
        state=state,
        source="none",
        revision=None,
        since=datetime.now(UTC),
        age_s=None,
        last_error=None,
        url="http://a",
        service_state=None,
        transport="stream",
        reads={},
        invalid_values=0,
    )


class Heard:
    """Registered callbacks, and what each of them was told."""

    def __init__(self, **more: Any) -> None:
        self.callbacks = Callbacks(lambda: None, **more)
        self.told: dict[str, list[Any]] = {}

    def of_changes(self, name: str) -> Any:
        return self.callbacks.add(lambda change: self.told.setdefault(name, []).append((change.old, change.new)), None)

    def of_status(self, name: str) -> Any:
        return self.callbacks.add_status(lambda one: self.told.setdefault(name, []).append(one.state))

    def push(self, old: int, new: int) -> None:
        self.callbacks.push(state(old, a=old), state(new, a=new))

    def call(self, limit: int = 100_000) -> None:
        for _, (callback, told) in zip(range(limit), self.callbacks.take(), strict=False):
            callback(told)


def test_each_of_many_status_callbacks_hears_each_step_in_order() -> None:
    heard = Heard()
    for number in range(100):
        heard.of_status(str(number))
    heard.callbacks.push_status(status("live"))
    heard.call(10)
    heard.callbacks.push_status(status("stale"))
    heard.call()
    assert [heard.told.get(str(number)) for number in range(100)] == [["live", "stale"]] * 100


def test_of_too_many_steps_of_status_the_newest_are_told_to_all() -> None:
    heard = Heard()
    heard.of_status("one")
    heard.of_status("two")
    for _ in range(500):
        heard.callbacks.push_status(status("live"))
        heard.callbacks.push_status(status("stale"))
    heard.call()
    assert heard.told["one"] == heard.told["two"] == ["live", "stale"] * 32


def test_what_one_callback_does_to_a_change_no_other_one_sees() -> None:
    callbacks = Callbacks(lambda: None)
    for _ in range(2):
        callbacks.add(print, None)
    old, new = state(1, a=[1]), state(2, a=[2])
    callbacks.push(old, new)
    for _, told in callbacks.take():
        assert not isinstance(told, ClientStatus)
        assert (told.old, told.new, told.metadata) == ([1], [2], {"by": []})
        told.old.clear()
        told.new.append(3)
        told.metadata["by"].append("me")
    assert (old, new) == (state(1, a=[1]), state(2, a=[2]))


def test_nor_what_it_does_to_a_status() -> None:
    callbacks = Callbacks(lambda: None)
    for _ in range(2):
        callbacks.add_status(print)
    callbacks.push_status(status("live"))
    for _, told in callbacks.take():
        assert isinstance(told, ClientStatus)
        assert not told.reads
        told.reads["live"] = 5


def test_nobody_hears_of_what_was_before_its_registration_also_where_states_are_skipped() -> None:
    heard = Heard(max_backlog=3)
    heard.of_changes("first")
    for number in range(10):
        heard.push(number, number + 1)
    heard.of_changes("late")
    heard.push(10, 11)
    heard.push(11, 12)
    heard.of_changes("later")
    heard.push(12, 13)
    heard.call()
    assert heard.told == {
        "first": [(0, 1), (1, 2), (2, 10), (10, 12), (12, 13)],
        "late": [(10, 12), (12, 13)],
        "later": [(12, 13)],
    }


def test_nor_of_what_was_while_nobody_was_registered() -> None:
    heard = Heard(max_backlog=2)
    end = heard.of_changes("gone")
    heard.push(0, 1)
    heard.push(1, 2)
    end()
    heard.push(2, 3)
    heard.of_changes("late")
    heard.push(3, 4)
    heard.call()
    assert heard.told == {"late": [(3, 4)]}


def test_registrations_that_come_and_go_do_not_add_up() -> None:
    heard = Heard(max_backlog=3)
    heard.of_changes("first")
    for number in range(100):
        end = heard.of_changes("short")
        heard.push(number, number + 1)
        end()
    assert len(heard.callbacks._backlog) <= 5
    heard.call()
    assert heard.told["first"][-1][1] == 100
