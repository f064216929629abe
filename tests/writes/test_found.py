"""Schedules that once went wrong, as small as they could be made; what was seen is said in each name."""

import msgspec
import pytest

from configsvc.core.model import decode_head, entry_path, head_path, value_of
from configsvc.errors import Unavailable
from configsvc.etcd.ops import Ambiguous, Invalid, MemberStatus, NoSpace, Put, Range, Txn, TxnResult
from tests.writes.explorer import Run
from tests.writes.lean import LeanEtcd
from tests.writes.programs import Decision, Program, Replay, Step
from tests.writes.turns import Turns
from tests.writes.verdict import judge

BOTH = Step(kind="deploy", set={"a": "1", "b": "1"})


def run_of(etcd: LeanEtcd, *decisions: Decision, **program: object) -> Run:
    """A schedule before it is played."""
    made = {"setup": (), "janitor": False, "max_steps": 1, "chunk_records": 1, "sweep": True} | program
    return Run(etcd, Program(seed=0, **made), Replay(decisions))  # type: ignore[arg-type]


async def played(etcd: LeanEtcd, *decisions: Decision, **program: object) -> Run:
    """Play a schedule and judge it."""
    run = run_of(etcd, *decisions, **program)
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


async def test_a_release_wins_over_a_hand_that_comes_after_its_chunk(lean: LeanEtcd) -> None:
    decisions = (("until", "w1", "chunk of b"), ("hand", "a", "h1"))
    run = await played(lean, *decisions, setup=(Step(kind="deploy", set={"a": "0", "b": "0"}),), writers=((BOTH,),))
    assert run.cases["a release's key by hand inside a window, overwritten and named"] == 1
    assert value_of((await lean.range(Range(key=entry_path(run.scope, "a")))).kvs[0].value) == b'"1"'
    # Whoever deployed is told.
    outcome = run.answers[1].outcome
    assert outcome is not None
    assert "overwritten: a" in " ".join(outcome.warnings)


async def test_a_hand_that_never_rests_does_not_keep_a_window_open(lean: LeanEtcd) -> None:
    again = tuple(
        one for n in range(30) for one in (("until", "w1", "chunk of b"), ("hand", "b", f"h{n}"), ("go", "w1"))
    )
    run = await played(lean, *again, setup=(Step(kind="deploy", set={"a": "0", "b": "0"}),), writers=((BOTH,),))
    assert run.cases["answer: done"] == 1
    assert run.cases["chunk refused"] < 15


async def test_who_lost_a_window_is_told_the_revision_of_its_close(lean: LeanEtcd) -> None:
    other = Step(kind="change", set={"c": "2"})
    decisions = (("until", "w1", "chunk of b"), ("expire", "w1"), ("until", "w2", "nothing"))
    run = await played(lean, *decisions, writers=((BOTH,), (other,)))
    assert run.cases["taken over verified, close"] == 1
    assert run.cases["answer: done"] == 2


async def test_content_of_a_release_that_came_while_the_janitor_looked_stays(lean: LeanEtcd) -> None:
    run = await played(
        lean,
        ("until", "w1", "open"),
        ("until", "j", "sleep"),
        ("later", "4000"),
        ("until", "j", "sweep"),
        ("until", "w1", "release of 3"),
        ("go", "j"),
        writers=((BOTH, Step(kind="change", set={"c": "2"})),),
        setup=(Step(kind="deploy", set={"a": "0"}),),
        janitor=True,
    )
    assert run.cases["sweep refused"] == 1
    assert run.cases["answer: done"] == 2


async def test_a_window_whose_rest_etcd_cannot_take_is_repaired(
    lean: LeanEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    txn = Turns.txn

    async def too_large(self: Turns, one: Txn) -> TxnResult:
        if self._name == "-" and any(put.key.endswith(b"/b") for put in one.success if isinstance(put, Put)):
            raise Invalid("too large")
        return await txn(self, one)

    monkeypatch.setattr(Turns, "txn", too_large)
    decisions = (("until", "w1", "chunk of b"), ("kill", "w1"))
    run = run_of(lean, *decisions, setup=(Step(kind="deploy", set={"a": "0"}),), writers=((BOTH,),))
    run.damaged = True
    await run.run()
    await judge(run)
    assert run.cases["repaired"] == 1


async def test_a_release_that_etcd_made_and_said_it_had_no_space_for(
    lean: LeanEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    txn = Turns.txn

    async def full(self: Turns, one: Txn) -> TxnResult:
        result = await txn(self, one)
        if self._name == "w1" and any(isinstance(put, Put) and put.key.endswith(b"/head") for put in one.success):
            raise NoSpace("database space exceeded")
        return result

    monkeypatch.setattr(Turns, "txn", full)
    run = await played(lean, writers=((BOTH,),), max_steps=100)
    assert run.cases["answer: done"] == 1


async def test_no_answer_before_anything_of_a_write_was_sent_is_no_unknown_outcome(
    lean: LeanEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(self: Turns, ttl_s: int) -> int:
        raise Ambiguous("no answer")

    monkeypatch.setattr(Turns, "lease_grant", lost)
    run = run_of(lean, writers=())
    keyed = Step(kind="deploy", set={"a": "1"}, keyed=True)
    answer = await run.carry_out(run.writer(None), "w0", keyed, "s0", run.cases)
    assert isinstance(answer.error, Unavailable), answer.error


async def test_a_window_is_not_opened_where_there_is_not_room_for_all_of_it(
    lean: LeanEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nearly_full(self: Turns, *, member: object = None) -> MemberStatus:
        return MemberStatus(version="3.6.0", db_size=900, db_used=900, quota=1000)

    monkeypatch.setattr(Turns, "status", nearly_full)
    run = await played(lean, writers=((BOTH,),))
    assert run.cases["answer: store_full"] == 1
    assert not run.cases["open"]


async def test_a_write_that_opens_another_window_gives_it_another_name(lean: LeanEtcd) -> None:
    """A replica that missed the close between two of one name would take the second for the first."""
    decisions = (("until", "w1", "open"), ("hand", "a", "h1"))
    setup = (Step(kind="deploy", set={"a": "0", "b": "0"}),)
    run = run_of(lean, *decisions, setup=setup, writers=((msgspec.structs.replace(BOTH, policy="discard"),),))
    await run.run()
    history = await judge(run)
    assert run.cases["undo"] == run.cases["close"] == 1
    stored = (state.get(head_path(run.scope)) for state in history.past.states)
    heads = [decode_head(kv.value) for kv in stored if kv]
    assert len({head.applying.id for head in heads if head.applying}) == 2
