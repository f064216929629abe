"""Plans: what each command does to a scope, who wins, and what stands in the way."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.core.commands import Change, Deploy, Expire, Promote, Repair, Restore, Rollback, Stored
from configsvc.core.guards import Guards
from configsvc.core.model import Freeze, Head, canonical, encode_entry, overrides_prefix, value_of
from configsvc.core.plan import base_of, differences, digest_of, plan
from configsvc.core.release import decode_override, replay
from configsvc.errors import NotFound
from tests.unit.core.plans import NO_GUARDS, SCOPE, Paper, values

LATER = "2026-01-02T00:00:00.000Z"


def deployed(**of: Any) -> Paper:
    paper = Paper()
    paper.do(Deploy(values=values(**of), version="v1"))
    return paper


def codes(paper: Paper, command: Any, guards: Guards = NO_GUARDS, **more: Any) -> list[str]:
    return [error.code for error in paper.plan(command, guards, **more).blocked]


def changes(found: Any) -> list[tuple[str, Any, Any]]:
    def plain(value: Any) -> Any:
        return None if value is None else bytes(value).decode()

    return [(one["key"], plain(one.get("old")), plain(one.get("new"))) for one in found.changes()]


# ---- deploy ----------------------------------------------------------------------------------------------------------


def test_the_first_deploy_makes_release_1() -> None:
    paper = Paper()
    found = paper.do(Deploy(values=values(a=1, b=None), version="v1", git_commit="abc"))
    assert changes(found) == [("a", None, "1"), ("b", None, "null")]
    assert (found.number, found.base, found.head.release, found.head.deployed) == (1, 0, 1, 1)
    assert found.manifest.source == {"git_commit": "abc"}
    assert paper.values == {"a": 1, "b": None}


def test_an_emergency_under_a_key_that_was_not_there_says_so() -> None:
    paper = deployed(**{"checkout.enabled": True, "z": 1})
    found = paper.plan(emergency(**{"checkout.enabeld": False}))
    assert found.warnings == ("checkout.enabeld was not there before; did you mean checkout.enabled?",)
    assert paper.plan(emergency(**{"checkout.enabled": False})).warnings == ()
    assert paper.plan(emergency(**{"something.else": 1})).warnings == ()


def test_a_deploy_lists_every_changed_key_in_order_with_both_values() -> None:
    paper = deployed(a=1, b=2, c=3)
    found = paper.do(Deploy(values=values(d=4, b=5, c=3)))
    assert changes(found) == [("a", "1", None), ("b", "2", "5"), ("d", None, "4")]
    assert [one["op"] for one in found.changes()] == ["delete", "set", "set"]


def test_a_manifest_names_what_was_changed_and_then_what_was_taken_over() -> None:
    paper = deployed(a=1, b=1)
    paper.hand("a", 9)
    found = paper.do(Deploy(values=values(a=1, b=2), overrides="keep"))
    assert (found.manifest.keys, found.manifest.count) == (["b", "a"], 1)


def test_entries_with_the_same_value_keep_their_bytes() -> None:
    paper = deployed(a=1, b=2)
    before = paper.raws["a"]
    paper.do(Deploy(values=values(a=1, b=3), version="v2"), at=LATER)
    assert paper.raws["a"] == before


def test_nothing_to_change_makes_no_release_but_the_label_has_a_meaning() -> None:
    paper = deployed(a={"x": 1, "y": 2})
    found = paper.do(Deploy(values={"a": canonical({"y": 2, "x": 1})}, version="v2"))
    assert found.unchanged
    assert found.head.release == 1
    assert not found.steps
    assert paper.labels["v2"].release == 1


def test_true_is_not_1_and_1_is_not_1_point_0() -> None:
    paper = deployed(a=1)
    assert changes(paper.plan(Deploy(values=values(a=True)))) == [("a", "1", "true")]
    assert changes(paper.plan(Deploy(values=values(a=1.0)))) == [("a", "1", "1.0")]


def test_a_first_deploy_of_what_is_there_already_is_a_release() -> None:
    paper = Paper()
    paper.hand("a", 1)
    found = paper.do(Deploy(values=values(a=1)))
    assert (found.unchanged, found.number, changes(found)) == (False, 1, [])
    assert codes(paper, Deploy(values=values(a=1))) == []


def test_a_label_comes_again_with_the_same_state_only() -> None:
    paper = deployed(a=1)
    paper.do(Deploy(values=values(a=2), version="v2"))
    assert codes(paper, Deploy(values=values(a=3), version="v1")) == ["version_exists"]
    found = paper.do(Deploy(values=values(a=1), version="v1"))
    assert (found.number, paper.labels["v1"].release) == (3, 3)


def test_a_base_that_moved_and_another_digest_block() -> None:
    paper = deployed(a=1)
    seen = paper.plan(Deploy(values=values(a=2)))
    assert codes(paper, Deploy(values=values(a=2)), digest=seen.digest, base_release=1) == []
    paper.do(Change(set=values(b=1)))
    assert codes(paper, Deploy(values=values(a=2, b=1)), digest=seen.digest, base_release=1) == [
        "base_moved",
        "plan_changed",
    ]
    assert base_of(seen.digest) == 1


@pytest.mark.parametrize("text", ["", "x", "1", "-abc", "x-abc", "٣-abc", "9" * 30 + "-a"])
def test_what_is_no_digest_has_no_base(text: str) -> None:
    assert base_of(text) is None


def test_a_digest_depends_on_what_is_done_and_not_on_when() -> None:
    paper = deployed(a=1)
    command = Deploy(values=values(a=2))
    assert paper.plan(command).digest == paper.plan(command, at=LATER).digest
    assert paper.plan(command).digest != paper.plan(Deploy(values=values(a=3))).digest
    before = paper.plan(command).digest
    paper.hand("a", 7)
    assert paper.plan(command).digest != before


# ---- overrides -------------------------------------------------------------------------------------------------------


def emergency(**of: Any) -> Change:
    return Change(kind="emergency", set=values(**of))


OVERRIDES: dict[str, Any] = {
    "emergency": lambda paper: paper.do(emergency(a=9), reason="fire"),
    "change": lambda paper: paper.do(Change(set=values(a=9))),
    "hand": lambda paper: paper.hand("a", 9),
    "delete": lambda paper: paper.do(Change(kind="delete", delete=("a",))),
    "hand-deleted": lambda paper: paper.hand("a", ...),
}


@pytest.mark.parametrize("how", OVERRIDES)
def test_an_override_blocks_a_deploy_that_would_change_it(how: str) -> None:
    paper = deployed(a=1, b=2)
    OVERRIDES[how](paper)
    before = paper.values
    found = paper.plan(Deploy(values=values(a=1, b=3)))
    assert [error.code for error in found.blocked] == ["override_pending"]
    assert [one["key"] for one in found.blocked[0].fields["overrides"]] == ["a"]
    assert paper.values == before


@pytest.mark.parametrize("how", OVERRIDES)
def test_keep_leaves_an_override_and_its_pending_state(how: str) -> None:
    paper = deployed(a=1, b=2)
    OVERRIDES[how](paper)
    before = paper.values.get("a", ...)
    paper.do(Deploy(values=values(a=5, b=3), overrides="keep"))
    assert paper.values.get("a", ...) == before
    assert paper.values["b"] == 3
    assert paper.head
    assert paper.head.overrides.keys() == {"a"}
    assert value_of(paper.overrides["a"].returns) == b"5"
    assert paper.expected == paper.raws
    assert codes(paper, Deploy(values=values(a=6, b=3))) == ["override_pending"]


@pytest.mark.parametrize("how", OVERRIDES)
def test_the_same_state_kept_again_later_is_no_release(how: str) -> None:
    paper = deployed(a=1, b=2)
    OVERRIDES[how](paper)
    wanted = Deploy(values=values(a=5, b=3), overrides="keep")
    paper.do(wanted)
    assert paper.plan(wanted, at=LATER).unchanged


@pytest.mark.parametrize("how", OVERRIDES)
def test_discard_takes_the_deployed_value(how: str) -> None:
    paper = deployed(a=1, b=2)
    OVERRIDES[how](paper)
    paper.do(Deploy(values=values(a=1, b=3), overrides="discard"))
    assert paper.values == {"a": 1, "b": 3}
    assert paper.head
    assert not paper.head.overrides
    assert not paper.overrides


@pytest.mark.parametrize("how", OVERRIDES)
def test_a_deploy_with_the_same_outcome_settles_an_override(how: str) -> None:
    paper = deployed(a=1, b=2)
    OVERRIDES[how](paper)
    wanted = {key: canonical(value) for key, value in paper.values.items()}
    paper.do(Deploy(values=wanted))
    assert paper.head
    assert not paper.head.overrides
    assert not paper.overrides
    assert codes(paper, Deploy(values=values(a=1, b=2))) == []


def test_an_override_elsewhere_does_not_block() -> None:
    paper = deployed(a=1, b=2)
    paper.do(emergency(a=9))
    paper.do(Deploy(values=values(a=9, b=3)))
    assert paper.values == {"a": 9, "b": 3}


def test_before_the_first_deploy_nothing_is_an_override() -> None:
    paper = Paper()
    paper.do(Change(set=values(a=1)))
    paper.hand("a", 2)
    paper.do(emergency(b=1))
    assert paper.head
    assert not paper.head.overrides
    paper.do(Deploy(values=values(a=3)))
    assert paper.values == {"a": 3}


def test_a_change_back_to_what_was_deployed_ends_the_override() -> None:
    paper = deployed(a=1)
    paper.do(Change(set=values(a=2)))
    paper.do(Change(set=values(a=1)))
    assert paper.head
    assert not paper.head.overrides
    assert not paper.overrides
    assert codes(paper, Deploy(values=values(a=5))) == []


# ---- time ------------------------------------------------------------------------------------------------------------


def test_an_override_ends_with_what_was_deployed() -> None:
    paper = deployed(a=1)
    raw = paper.raws["a"]
    first = paper.do(Change(kind="emergency", set=values(a=9), expires_at=LATER))
    found = paper.do(Expire(keys={"a": first.number}), at=LATER)
    assert (found.kind, paper.raws["a"]) == ("expiry", raw)
    assert paper.head
    assert not paper.head.overrides
    assert not paper.overrides


def test_an_override_ends_with_what_a_later_deploy_kept_for_it() -> None:
    paper = deployed(a=1)
    first = paper.do(Change(kind="emergency", set=values(a=9), expires_at=LATER))
    paper.do(Deploy(values=values(a=4), overrides="keep"))
    paper.do(Expire(keys={"a": first.number}), at=LATER)
    assert paper.values == {"a": 4}


def test_an_override_of_nothing_ends_with_absence() -> None:
    paper = deployed(a=1)
    first = paper.do(Change(kind="emergency", set=values(b=9), expires_at=LATER))
    paper.do(Expire(keys={"b": first.number}), at=LATER)
    assert paper.values == {"a": 1}


def test_setting_a_key_again_replaces_its_timer() -> None:
    paper = deployed(a=1)
    first = paper.do(Change(kind="emergency", set=values(a=9), expires_at=LATER))
    second = paper.do(Change(kind="emergency", set=values(a=9), expires_at="2026-01-03T00:00:00.000Z"))
    assert not second.unchanged
    assert paper.do(Expire(keys={"a": first.number}), at=LATER).unchanged
    assert paper.values == {"a": 9}
    paper.do(Expire(keys={"a": second.number}), at=LATER)
    assert paper.values == {"a": 1}


def test_a_timer_leaves_alone_what_was_changed_by_hand_since() -> None:
    paper = deployed(a=1)
    first = paper.do(Change(kind="emergency", set=values(a=9), expires_at=LATER))
    paper.hand("a", 7)
    found = paper.do(Expire(keys={"a": first.number}), at=LATER)
    assert paper.values == {"a": 7}
    assert found.warnings
    assert paper.overrides["a"].expires_at is None
    assert codes(paper, Deploy(values=values(a=1))) == ["override_pending"]


@pytest.mark.parametrize("how", ["keep", "repair"])
def test_no_timer_is_taken_over_by_what_a_hand_put_in_its_place(how: str) -> None:
    paper = deployed(a=1)
    first = paper.do(Change(kind="emergency", set=values(a=9), expires_at=LATER))
    paper.hand("a", 7)
    then = paper.do(Repair() if how == "repair" else Deploy(values=values(a=2), overrides="keep"))
    assert paper.overrides["a"].expires_at is None
    for release in (first.number, then.number):
        assert paper.do(Expire(keys={"a": release}), at=LATER).unchanged
    assert paper.values == {"a": 7}
    assert codes(paper, Deploy(values=values(a=3))) == ["override_pending"]


def test_without_a_deploy_a_timer_brings_back_the_value_from_before() -> None:
    paper = Paper()
    paper.do(Change(set=values(a=1)))
    first = paper.do(Change(kind="emergency", set=values(a=9), expires_at=LATER))
    paper.do(Expire(keys={"a": first.number}), at=LATER)
    assert paper.values == {"a": 1}
    assert not paper.overrides


# ---- rollback, promotion, restore, repair ----------------------------------------------------------------------------


def test_a_rollback_restores_byte_for_byte() -> None:
    paper = deployed(a=1, b=2)
    before = dict(paper.raws)
    paper.do(Deploy(values=values(a=2, c=3)), at=LATER)
    found = paper.do(Rollback(entries=before, target=1, version="v1", digest=digest_of(values(a=1, b=2))))
    assert paper.raws == before
    assert (found.kind, found.number, found.manifest.source["target"]) == ("rollback", 3, "1")
    assert paper.labels["v1"].release == 3


def test_a_rollback_is_blocked_by_an_override_too() -> None:
    paper = deployed(a=1)
    before = dict(paper.raws)
    paper.do(Deploy(values=values(a=2)))
    paper.do(emergency(a=3))
    assert codes(paper, Rollback(entries=before, target=1)) == ["override_pending"]
    paper.do(Rollback(entries=before, target=1, overrides="discard"))
    assert paper.raws == before


def test_a_promotion_leaves_the_environments_own_keys() -> None:
    paper = deployed(a=1, host="prod")
    command = Promote(values=values(a=2, host="staging"), source="staging", release=7, stays=frozenset({"host"}))
    found = paper.do(command)
    assert paper.values == {"a": 2, "host": "prod"}
    assert found.manifest.source == {"from": "staging", "release": "7"}


def test_a_promotion_is_blocked_by_an_own_key_that_is_missing() -> None:
    paper = deployed(a=1)
    command = Promote(values=values(a=2, host="s"), source="staging", release=7, stays=frozenset({"host"}))
    assert codes(paper, command) == ["source_unfit"]
    assert codes(paper, command, force="I know") == ["source_unfit"]


def test_doubts_about_the_source_are_lifted_by_force() -> None:
    paper = deployed(a=1)
    command = Promote(values=values(a=2), source="staging", release=7, doubts=("live for 3 s only",))
    assert codes(paper, command) == ["source_unfit"]
    assert codes(paper, command, force="urgent") == []


def test_a_restore_ends_what_is_pending() -> None:
    paper = deployed(a=1)
    before = dict(paper.raws)
    paper.do(emergency(a=2, b=3))
    paper.do(Restore(entries=before, source="backup"))
    assert paper.raws == before
    assert not paper.overrides


def test_the_same_restore_twice_changes_nothing() -> None:
    """Also where an override is pending in it."""
    paper = deployed(a=1)
    paper.do(emergency(a=2))
    saved = Restore(entries=dict(paper.raws), source="backup", overrides=dict(paper.overrides))
    paper.do(Deploy(values=values(a=5), overrides="discard"))
    first = paper.do(saved)
    assert (first.number, first.head.overrides) == (4, {"a": 4})
    again = paper.plan(saved)
    assert again.unchanged
    assert again.head.overrides == {"a": 4}


def test_a_repair_makes_history_of_what_is_there() -> None:
    paper = deployed(a=1, b=2)
    paper.hand("a", 5)
    paper.hand("b", ...)
    found = paper.do(Repair())
    assert changes(found) == []
    assert paper.expected == paper.raws
    assert paper.values == {"a": 5}


def test_deleting_what_is_not_there_is_an_error() -> None:
    with pytest.raises(NotFound) as caught:
        deployed(aa=1, pool_size=1).plan(Change(kind="delete", delete=("poolsize", "zz")))
    assert caught.value.fields["keys"] == ["poolsize", "zz"]
    assert caught.value.fields["near"] == ["pool_size"]


# ---- what stands in the way ------------------------------------------------------------------------------------------


def test_a_frozen_scope_takes_no_deploy_until_its_end() -> None:
    paper = deployed(a=1)
    assert paper.head
    paper.head = type(paper.head)(release=1, deployed=1, frozen=Freeze(until=LATER, reason="incident"))
    promote = Promote(values=values(a=2), source="staging", release=1)
    for command in (Deploy(values=values(a=2)), promote):
        assert codes(paper, command) == ["scope_frozen"]
        assert codes(paper, command, force="x") == ["scope_frozen"]
        assert codes(paper, command, at=LATER) == []
    assert codes(paper, emergency(a=2)) == []
    assert codes(paper, Rollback(entries={}, target=1)) == []
    assert paper.do(emergency(a=3)).head.frozen


LOOSE = Guards(max_scope_bytes=0, max_releases_per_min=0)


def test_an_empty_state_has_to_be_meant() -> None:
    paper = deployed(a=1)
    assert codes(paper, Deploy(values={}), LOOSE) == ["blast_radius"]
    assert codes(paper, Deploy(values={}), LOOSE, force="cleanup") == []
    assert codes(Paper(), Deploy(values={}), LOOSE) == []


def test_more_than_half_of_the_keys_has_to_be_meant_but_small_scopes_are_free() -> None:
    paper = deployed(**{f"k{i}": i for i in range(6)})
    assert codes(paper, Deploy(values=values(k0=0, k1=1, k2=2)), LOOSE) == []
    assert codes(paper, Deploy(values=values(k0=0, k1=1)), LOOSE) == ["blast_radius"]
    assert codes(deployed(a=1, b=2), Deploy(values=values(a=1)), LOOSE) == []


def test_tenfold_growth_has_to_be_meant() -> None:
    many = {f"k{i}": canonical(i) for i in range(101)}
    assert codes(deployed(a=1), Deploy(values={**many, "a": canonical(1)}), LOOSE) == ["blast_radius"]
    big = Deploy(values={"a": canonical("x" * 300_000)})
    assert codes(deployed(a=1), big, LOOSE) == ["blast_radius"]
    assert codes(Paper(), big, LOOSE) == []


def test_a_scope_over_its_budget_may_only_shrink() -> None:
    small = Guards(max_scope_bytes=500, max_growth=0, max_deleted=0)
    paper = Paper()
    paper.do(Deploy(values=values(a="x" * 400, b="y" * 400)))
    assert codes(paper, Deploy(values=values(a="x" * 300, b="y" * 400)), small) == []
    assert codes(paper, Deploy(values=values(a="x" * 500, b="y" * 400)), small) == ["blast_radius"]


@pytest.mark.parametrize(("kind", "stopped"), [("change", True), ("delete", True), ("emergency", False)])
def test_the_rate_stops_what_is_not_urgent(kind: Any, stopped: bool) -> None:
    found = Guards().problems({"a": b"1"}, {"a": b"2"}, kind, recent=60)
    assert bool(found) is stopped


def test_force_lifts_no_conflict() -> None:
    paper = deployed(a=1)
    paper.do(emergency(a=2))
    assert codes(paper, Deploy(values=values(a=1)), force="x") == ["override_pending"]


def test_an_unreadable_history_is_said_and_nothing_counts_as_changed_by_hand() -> None:
    paper = deployed(a=1)
    view = paper.view()
    view = type(view)(**{name: getattr(view, name) for name in view.__struct_fields__} | {"expected": None})
    found = plan(Deploy(values=values(a=2)), view, paper.about(), NO_GUARDS)
    assert found.warnings
    assert not found.blocked


# ---- what nobody may lose unasked ------------------------------------------------------------------------------------


def test_a_promotion_leaves_an_override_of_a_key_of_its_own() -> None:
    paper = deployed(a=1, host="prod")
    first = paper.do(Change(kind="emergency", set=values(host="fire"), expires_at=LATER))
    paper.do(promotion(a=2, host="staging"))
    assert paper.values == {"a": 2, "host": "fire"}
    assert codes(paper, Deploy(values=values(a=2, host="other"))) == ["override_pending"]
    paper.do(Expire(keys={"host": first.number}), at=LATER)
    assert paper.values["host"] == "prod"


@pytest.mark.parametrize("by_hand", ["fire", ...])
def test_a_promotion_does_not_settle_what_a_hand_did_to_a_key_of_its_own(by_hand: Any) -> None:
    paper = deployed(a=1, host="prod")
    paper.hand("host", by_hand)
    paper.do(promotion(a=2))
    assert paper.values.get("host", ...) == by_hand
    assert value_of(paper.overrides["host"].returns) == b'"prod"'
    assert codes(paper, Deploy(values=values(a=2, host="other"))) == ["override_pending"]


def test_a_promotion_leaves_the_timer_of_a_key_of_its_own_where_nothing_was_deployed_yet() -> None:
    paper = Paper()
    paper.do(Change(set=values(host="prod")))
    paper.do(Change(kind="emergency", set=values(host="fire"), expires_at=LATER))
    paper.do(promotion(a=2))
    paper.do(Expire(keys={"host": paper.overrides["host"].release}), at=LATER)
    assert paper.values == {"a": 2, "host": "prod"}


def promotion(**of: Any) -> Promote:
    return Promote(values=values(**of), source="staging", release=7, stays=frozenset({"host"}))


def test_a_label_of_a_deploy_that_changes_nothing_means_what_was_deployed() -> None:
    paper = deployed(a=1)
    paper.do(emergency(a=9))
    assert paper.do(Deploy(values=values(a=1), version="v2", overrides="keep")).unchanged
    assert paper.labels["v2"].release == 1


def test_a_label_of_nothing_means_nothing() -> None:
    paper = Paper()
    assert paper.do(Deploy(values={}, version="v1")).unchanged
    assert not paper.labels


def test_what_does_not_read_can_be_deleted() -> None:
    paper = deployed(a=1)
    paper.revision += 1
    paper.entries["x"] = Stored(b"hello", paper.revision)
    paper.do(Change(kind="delete", delete=("x",)))
    assert "x" not in paper.entries


def test_a_repair_does_not_settle_what_a_hand_did() -> None:
    paper = deployed(a=1, b=1)
    paper.hand("a", 9)
    paper.hand("b", ...)
    paper.do(Repair())
    assert paper.expected == paper.raws
    assert paper.values == {"a": 9}
    assert codes(paper, Deploy(values=values(a=2, b=2))) == ["override_pending"]
    assert paper.plan(Repair(), at=LATER).unchanged


def test_a_repair_of_very_much_lets_it_count_as_deployed() -> None:
    """Its head could not name all of it, and a repair has to be possible."""
    many = {f"k{n:05}.{'x' * 200}": n for n in range(3000)}
    paper = deployed(a=1, **many)
    for key in many:
        paper.hand(key, 0)
    found = paper.do(Repair())
    assert any("3000 keys" in one or "2999 keys" in one for one in found.warnings)
    assert not paper.overrides
    assert paper.expected == paper.raws


@pytest.mark.parametrize("head_raw", [None, b"{garbled", "touched"])
def test_a_head_that_is_gone_is_no_scope_that_never_was(head_raw: Any) -> None:
    """What was pending is still known by its records, and nothing else may be taken for deployed."""
    paper = deployed(a=1, b=1)
    paper.do(emergency(a=9))
    touched = head_raw == "touched"
    head = {"head": Head() if touched else None, "head_raw": b"{}" if touched else head_raw}
    view = msgspec.structs.replace(paper.view(), **head, newest=2, expected=None)

    def planned(command: Any) -> Any:
        return plan(command, view, paper.about(), NO_GUARDS)

    assert [error.code for error in planned(Deploy(values=values(a=2))).blocked] == ["override_pending"]
    assert [error.code for error in planned(promotion(a=9)).blocked] == ["write_conflict"]
    for command in (Deploy(values=values(a=2), overrides="keep"), Change(set=values(b=2)), Repair()):
        found = planned(command)
        assert (found.blocked, found.unchanged, found.number, found.head.release) == ((), False, 3, 3)
        assert found.head.overrides["a"] == 2
        assert found.head.deployed
        assert any("head was gone" in one for one in found.warnings)
    paper.carry_out(planned(Repair()))
    assert codes(paper, Deploy(values=values(a=2, b=1))) == ["override_pending"]


def test_garbage_in_place_of_the_first_head_is_repaired() -> None:
    view = msgspec.structs.replace(Paper().view(), head_raw=b"{garbled", expected=None)
    assert not plan(Repair(), view, Paper().about(), NO_GUARDS).unchanged


def test_a_rollback_settles_an_override_that_has_its_value() -> None:
    paper = deployed(a=1)
    old = dict(paper.raws)
    paper.do(Deploy(values=values(a=2), version="v2"))
    paper.do(emergency(a=1))
    for policy in ("refuse", "keep"):
        found = paper.plan(
            Rollback(entries=old, target=1, version="v1", digest=digest_of(values(a=1)), overrides=policy)
        )
        assert not found.blocked
        assert not found.head.overrides
    paper.carry_out(found)
    assert paper.raws == old


def test_a_hand_that_put_what_is_deployed_has_left_nothing_to_protect() -> None:
    paper = deployed(a=1)
    paper.hand("a", 1)
    assert not codes(paper, Deploy(values=values(a=2)))
    first = paper.do(Change(kind="emergency", set=values(a=9), expires_at=LATER))
    paper.hand("a", 1)
    paper.do(Expire(keys={"a": first.number}), at=LATER)
    assert not paper.overrides
    assert paper.expected == paper.raws


def test_what_a_hand_put_over_an_override_is_not_blamed_on_who_made_that() -> None:
    paper = deployed(a=1)
    paper.do(Change(kind="emergency", set=values(a=9)))
    paper.hand("a", 77)
    (told,) = paper.plan(Deploy(values=values(a=2))).blocked[0].fields["overrides"]
    assert (told["by"], told["reason"], told["release"]) == ("changed by hand", None, None)
    paper.do(Deploy(values=values(a=2), overrides="keep"))
    assert paper.overrides["a"].reason == "changed by hand"


def test_a_timer_for_what_is_deployed_already_is_a_warning() -> None:
    paper = deployed(a=1)
    found = paper.plan(Change(kind="emergency", set=values(a=1), expires_at=LATER))
    assert found.unchanged
    assert found.warnings


def test_a_difference_is_one_of_values() -> None:
    paper = deployed(a=1, b=1)
    before = dict(paper.raws)
    paper.do(emergency(a=9))
    paper.do(emergency(a=1), at=LATER)
    assert differences(before, paper.raws) == []
    broken = paper.raws | {"b": b"hello"}
    assert [one["key"] for one in differences(before, broken)] == ["b"]
    assert differences(broken, broken | {"b": b"other"})


# ---- for all histories -----------------------------------------------------------------------------------------------

keys = st.sampled_from("abcd")
numbers = st.integers(0, 3)
states = st.dictionaries(keys, numbers.map(canonical), max_size=4)
policies = st.sampled_from(["refuse", "keep", "discard"])
steps = st.one_of(
    st.tuples(st.just("deploy"), states, policies),
    st.tuples(st.just("change"), st.dictionaries(keys, numbers.map(canonical), min_size=1, max_size=2), st.booleans()),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("hand"), keys, st.one_of(numbers, st.just(...))),
    st.tuples(st.just("expire"), keys),
    st.tuples(st.just("rollback"), st.integers(0, 20), policies),
)


def command_of(paper: Paper, step: tuple[Any, ...], states_of: dict[int, dict[str, bytes]]) -> Any:
    """The command of one step; None where it has no meaning now, or is no command."""
    match step:
        case ("deploy", wanted, policy):
            return Deploy(values=wanted, overrides=policy)
        case ("change", changed, timed):
            return Change(kind="emergency", set=changed, expires_at=LATER if timed else None)
        case ("delete", key) if key in paper.entries:
            return Change(kind="delete", delete=(key,))
        case ("expire", key):
            return Expire(keys={key: paper.overrides[key].release} if key in paper.overrides else {})
        case ("rollback", number, policy) if states_of:
            target = sorted(states_of)[number % len(states_of)]
            return Rollback(entries=states_of[target], target=target, overrides=policy)
    return None


def carry_out(paper: Paper, step: tuple[Any, ...], states_of: dict[int, dict[str, bytes]]) -> None:
    """One step of a history, checked against what every plan promises."""
    before, pending = dict(paper.raws), _pending(paper)
    if step[0] == "hand":
        paper.hand(*step[1:])
    command = command_of(paper, step, states_of)
    if command is None:
        return
    found = paper.plan(command, force="a test")
    if found.blocked:
        assert {error.code for error in found.blocked} == {"override_pending"}
        assert {one["key"] for one in found.blocked[0].fields["overrides"]} <= pending
        return
    paper.carry_out(found)
    if isinstance(command, Deploy | Rollback):
        _check_deploy(paper, command, before, pending)
    if not found.unchanged:
        assert paper.head
        assert paper.head.release == found.number == len(paper.contents)
        states_of[found.number] = dict(paper.expected)
    # Another timer is another change, and a key is deleted once.
    if not (isinstance(command, Change) and (command.expires_at or command.delete)):
        assert paper.plan(command, force="a test", at=LATER).unchanged


def _pending(paper: Paper) -> set[str]:
    if paper.head is None or not paper.head.deployed:
        return set()
    raws, expected = paper.raws, paper.expected
    keys = raws.keys() | expected.keys()
    # A hand that put what is deployed has left nothing to protect.
    drift = {key for key in keys if value_of(raws.get(key)) != value_of(expected.get(key))}
    return drift | paper.head.overrides.keys()


def _check_deploy(paper: Paper, command: Any, before: dict[str, bytes], pending: set[str]) -> None:
    wanted = command.values if isinstance(command, Deploy) else command.entries
    for key in before.keys() | wanted.keys():
        is_kept = command.overrides == "keep" and key in pending
        now = paper.raws.get(key)
        if isinstance(command, Rollback):
            assert now == wanted.get(key) or (is_kept and now == before.get(key))
        else:
            assert value_of(now) == wanted.get(key) or (is_kept and now == before.get(key))
        if key in pending and command.overrides == "refuse":
            assert value_of(now) == value_of(before.get(key))


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=12))
def test_any_history(history: list[tuple[Any, ...]]) -> None:
    paper = Paper()
    states_of: dict[int, dict[str, bytes]] = {}
    for step in history:
        carry_out(paper, step, states_of)
        # Every pending override knows what comes back, and the history replays to what each release left.
        if paper.head:
            assert paper.head.overrides.keys() <= paper.overrides.keys()
            assert all(paper.overrides[key].release == number for key, number in paper.head.overrides.items())
        for number, known in states_of.items():
            assert replay(paper.base, *paper.contents[:number]) == known


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=8), states)
def test_a_label_means_the_state_that_was_deployed_under_it(
    history: list[tuple[Any, ...]], wanted: dict[str, bytes]
) -> None:
    paper = Paper()
    states_of: dict[int, dict[str, bytes]] = {}
    for step in history:
        carry_out(paper, step, states_of)
    paper.carry_out(paper.plan(Deploy(values=wanted, version="v", overrides="keep"), force="a test", at=LATER))
    if label := paper.labels.get("v"):
        assert {key: value_of(raw) for key, raw in deployed_at(paper, label.release).items()} == wanted
    else:
        assert not wanted


def deployed_at(paper: Paper, number: int) -> dict[str, bytes]:
    """What a release deployed: its state, but under the overrides that it kept what comes back when they end."""
    prefix = overrides_prefix(SCOPE).decode()
    state = replay(paper.base, *paper.contents[:number])
    for key, _, new in paper.contents[number - 1]:
        if key.startswith(prefix) and new is not None:
            state.pop(name := key.removeprefix(prefix), None)
            if (returns := decode_override(new).returns) is not None:
                state[name] = returns
    return state


@settings(max_examples=100, deadline=None)
@given(states, states)
def test_a_deploy_makes_exactly_what_was_asked_for(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    paper = Paper()
    paper.do(Deploy(values=one), force="x")
    paper.do(Deploy(values=other), force="x")
    assert {key: value_of(raw) for key, raw in paper.raws.items()} == other


@given(states)
def test_a_digest_does_not_depend_on_the_order_of_keys(state: dict[str, bytes]) -> None:
    assert digest_of(dict(reversed(list(state.items())))) == digest_of(state)


@pytest.mark.parametrize("how", ["keep", "restore"])
def test_a_release_holds_the_records_of_the_overrides_that_it_kept(how: str) -> None:
    """Also where they are as they were: going back to it takes what was deployed under them."""
    paper = deployed(a=1, b=1)
    paper.do(emergency(new=3))
    path = overrides_prefix(SCOPE).decode() + "new"
    raws = dict(paper.raws)
    for b in (2, 3):
        if how == "keep":
            found = paper.do(Deploy(values=values(a=1, b=b), overrides="keep"))
        else:
            entries = raws | {"b": encode_entry(str(b).encode(), None, {})}
            found = paper.do(Restore(entries=entries, source="backup", overrides=dict(paper.overrides)))
        assert [record.key for record in found.records] == [path]
        assert paper.values == {"a": 1, "b": b, "new": 3}
