"""Schedules that once went wrong, as small as they could be made; what was seen is said in each name."""

import pytest

from configsvc.etcd.ops import MemberStatus
from tests.writes.explorer import Run
from tests.writes.lean import LeanEtcd
from tests.writes.programs import Decision, Program, Replay, Step
from tests.writes.turns import Turns
from tests.writes.verdict import judge

BOTH = Step(kind="deploy", set={"a": "1", "b": "1"})


async def played(etcd: LeanEtcd, *decisions: Decision, **program: object) -> Run:
    """Play a schedule and judge it."""
    made = {"setup": (), "janitor": False, "max_steps": 1, "chunk_records": 1, "sweep": True} | program
    run = Run(etcd, Program(seed=0, **made), Replay(decisions))  # type: ignore[arg-type]
    await run.run()
    await judge(run)
    return run


async def test_a_head_that_is_lost_inside_a_window_is_no_success(lean: LeanEtcd) -> None:
    for how in ("delete", "garble"):
        for step in ("verified", "chunk", "close"):
            run = await played(lean, ("until", "w1", step), ("behead", how), writers=((BOTH,),))
            assert run.cases["answer: outcome_unknown"] == 1


async def test_a_request_whose_head_was_lost_is_not_answered_from_its_receipt(lean: LeanEtcd) -> None:
    keyed = Step(kind="deploy", set={"a": "1", "b": "1"}, keyed=True)
    other = Step(kind="change", set={"c": "2"})
    decisions = (("until", "w1", "chunk"), ("behead", "delete"), ("until", "w2", "nothing"))
    run = await played(lean, *decisions, writers=((keyed,), (other,)))
    assert run.cases["answer: outcome_unknown"] == run.cases["answer: write_conflict"] == 1


async def test_a_cold_start_after_a_compaction_inside_a_window_that_is_not_verified(lean: LeanEtcd) -> None:
    # The plan was made before the hand's value, so the content says what was there before it.
    decisions = (("until", "w1", "open"), ("hand", "a", "h1"))
    setup = (Step(kind="deploy", set={"a": "0", "b": "0"}),)
    run = await played(lean, *decisions, setup=setup, writers=((Step(kind="deploy", set={"a": "1"}),),))
    assert run.cases["undo"] == 1
    assert run.cases["cold inside a window, compacted"] >= 1


async def test_a_repair_frees_the_number_of_what_it_gives_up(lean: LeanEtcd) -> None:
    decisions = (("until", "w1", "chunk of b"), ("damage",), ("kill", "w1"))
    run = await played(lean, *decisions, setup=(Step(kind="deploy", set={"a": "0", "b": "0"}),), writers=((BOTH,),))
    assert run.cases["repaired"] == 1


async def test_a_writer_that_stood_still_until_its_lease_was_gone_plans_anew(lean: LeanEtcd) -> None:
    run = await played(lean, ("until", "w1", "open"), ("expire", "w1"), writers=((BOTH,),))
    assert run.cases["answer: done"] == 1


async def test_a_writer_that_stood_still_until_its_content_was_swept_stages_it_again(lean: LeanEtcd) -> None:
    run = await played(
        lean,
        ("until", "w1", "open"),
        ("until", "j", "sleep"),
        ("later", "4000"),
        ("until", "j", "sweep"),
        ("go", "j"),
        writers=((BOTH,),),
        setup=(Step(kind="deploy", set={"a": "0"}),),
        janitor=True,
    )
    assert run.cases["sweep"] == 1
    assert run.cases["answer: done"] == 1


async def test_a_repair_ends_overrides_that_were_ended_half_way(lean: LeanEtcd) -> None:
    emergency = Step(kind="emergency", set={"b": "e"})
    deploy = Step(kind="deploy", set={"a": "2", "b": "2"}, policy="discard")
    run = await played(
        lean, ("until", "w1", "close"), ("damage",), ("kill", "w1"), setup=(BOTH, emergency), writers=((deploy,),)
    )
    assert run.cases["repaired"] == 1


async def test_who_takes_a_window_over_names_what_a_hand_had_put_there(lean: LeanEtcd) -> None:
    decisions = (("until", "w1", "chunk of b"), ("hand", "b", "h1"), ("kill", "w1"))
    run = await played(lean, *decisions, setup=(Step(kind="deploy", set={"a": "0", "b": "0"}),), writers=((BOTH,),))
    assert run.cases["taken over verified, close"] == 1
    assert run.cases["a release's key by hand inside a window, overwritten and named"] == 1


async def test_a_window_is_not_opened_where_etcd_is_full(lean: LeanEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(self: Turns, *, member: object = None) -> MemberStatus:
        return MemberStatus(version="3.6.0", errors=["alarm NOSPACE"])

    monkeypatch.setattr(Turns, "status", full)
    run = await played(lean, writers=((BOTH,),))
    assert run.cases["answer: store_full"] == 1
    assert not run.cases["open"]
