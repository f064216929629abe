"""What rounds come to, when a goal is met, and how a run is shown: pure parts of the bench."""

import math

import pytest

from bench import table
from bench.harness import Bench, alternate
from bench.results import Goal, LeftOut, Machine, Reference, Report, Result, compare, decode
from bench.stats import Figure, difference, figure, percentile, ratio


def test_a_figure_is_the_median_with_the_lowest_and_the_highest():
    assert figure([3, 1, 2]) == Figure(2, 1, 3, (3, 1, 2))
    assert figure([5]) == Figure(5, 5, 5, (5,))
    with pytest.raises(ValueError, match="at least one round"):
        figure([])


def test_a_ratio_is_taken_round_by_round():
    # The second round was slow for both: the ratio does not notice.
    assert ratio(figure([10, 40, 12]), figure([5, 20, 6])) == Figure(2, 2, 2, (2, 2, 2))


def test_without_as_many_rounds_the_medians_are_compared():
    assert ratio(figure([10, 20, 30]), figure([10])) == figure([2])
    assert difference(figure([10, 20, 30]), figure([5])) == figure([15])


def test_there_is_no_ratio_to_nothing():
    assert ratio(figure([1]), figure([0])) is None
    assert ratio(figure([1, 1, 1]), figure([-0.1, 0.2, 0.3])) is None


def test_a_difference_is_taken_round_by_round():
    assert difference(figure([10, 50]), figure([4, 44])) == Figure(6, 6, 6, (6, 6))


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)],
)
def test_a_percentile_is_one_of_the_samples(share, expected):
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_a_percentile_of_few_samples():
    assert percentile([7], 0.99) == 7
    assert percentile([1, 2], 0.99) == 2
    with pytest.raises(ValueError, match="at least one sample"):
        percentile([], 0.5)


@pytest.mark.parametrize(
    ("goal", "reached", "met"),
    [
        (Goal(0.6, "least"), 0.6, True),
        (Goal(0.6, "least"), 0.5999, False),
        (Goal(1.5, "most"), 1.5, True),
        (Goal(1.5, "most"), 1.5001, False),
        (Goal(0, "most"), math.inf, False),
    ],
)
def test_a_goal_is_met_to_the_last_digit(goal, reached, met):
    assert goal.met(reached) is met


def test_what_a_goal_bounds_decides():
    reference = Reference("other", figure([100]))
    assert line([250], reference, Goal(2, "most")).verdict == "missed"
    assert line([250], reference, Goal(300, "most", "value")).verdict == "met"
    assert line([250], reference, Goal(150, "most", "difference")).verdict == "met"
    assert line([251], reference, Goal(150, "most", "difference")).verdict == "missed"
    assert line([250], reference).verdict == ""


def test_a_goal_without_its_reference_is_left_out_and_never_met():
    absent = Reference("nginx", why="not installed")
    assert line([1], absent, Goal(0.6, "least")).verdict == "left out"
    assert line([1], absent, Goal(150, "most", "difference")).verdict == "left out"
    assert line([1], None, Goal(2, "most", "value")).verdict == "met"
    # A reference that took no time at all is none either.
    assert line([1], Reference("other", figure([0])), Goal(2, "most")).verdict == "left out"


def test_subjects_take_turns_and_the_order_turns_too():
    called = []

    def subject(name):
        return lambda: called.append(name) or {"n": len(called)}

    series = alternate(3, {"a": subject("a"), "b": subject("b")})
    assert called == ["a", "b", "a", "b", "b", "a", "a", "b"]
    # The first round of each was to warm up.
    assert series.of("a", "n") == [3, 6, 7]
    assert series.of("b", "n") == [4, 5, 8]
    assert series.has("a", "n")
    assert not series.has("a", "m")
    assert not series.has("c", "n")


def test_a_shorter_run_has_fewer_rounds_and_always_a_middle_one():
    full, short = Bench(quiet=True), Bench(size=0.05, quiet=True)
    assert [full.rounds(n) for n in (1, 3, 5, 15)] == [1, 3, 5, 15]
    assert all(short.rounds(n) % 2 and short.rounds(n) <= n for n in (1, 3, 5, 15))
    assert full.duration(2.0) == 2.0
    assert 0.2 <= short.duration(2.0) < 2.0
    assert full.count(9000) == 9000
    assert short.count(9000) == 450
    assert short.count(100, least=10) == 10


def test_only_a_tiny_run_has_no_round_before_the_first():
    for size, rounds in ((1.0, 4), (0.05, 2), (0.004, 1)):
        called = []
        Bench(size=size, quiet=True).alternate(3, {"a": lambda called=called: called.append(1) or {"n": 1}})
        assert len(called) == rounds


def test_something_is_left_out_once():
    bench = Bench(quiet=True)
    bench.leave_out("nginx", "not installed")
    bench.leave_out("nginx", "not installed")
    assert bench.left_out == [LeftOut("nginx", "not installed")]


def test_a_report_survives_json():
    one = report(line([1, 2, 3], Reference("other", figure([2, 2, 2])), Goal(1.5, "most"), note="why"))
    assert decode(one.encode()) == one
    assert one.encode().endswith(b"}\n")


def test_the_table_has_value_reference_ratio_goal_and_verdict():
    met = line([90, 100, 110], Reference("nginx", figure([100, 200, 100])), Goal(0.5, "least"))
    text = table.terminal(report(met))
    (shown,) = [one for one in text.splitlines() if one.startswith("reads")]
    assert shown.split("  ")[0] == "reads"
    for part in ("100 ms (90.0–110)", "nginx: 100 (100–200)", "0.900 (0.500–1.10)", "≥ 0.5 ×", "met"):
        assert part in shown


def test_a_miss_is_not_to_be_overlooked():
    missed = report(line([4], Reference("nginx", figure([1])), Goal(1.5, "most")))
    assert "MISSED" in table.terminal(missed)
    assert "**missed**" in table.markdown(missed)
    assert "0 met, 1 missed" in table.terminal(missed)


def test_what_was_left_out_is_named_with_its_reason():
    one = report(line([1], Reference("nginx", why="no apt-get"), Goal(1, "least")), left_out=("nginx", "no apt-get"))
    for text in (table.terminal(one), table.markdown(one)):
        assert "nginx: left out" in text
        assert "Left out: nginx: no apt-get" in text
        assert "1 left out" in text


def test_a_note_is_said_once():
    same = [line([1], note="of each", case=case, measure=measure) for case in "ab" for measure in "xy"]
    assert table.terminal(report(*same)).count("of each") == 1
    some = [*same, line([1], case="c", measure="x")]
    assert "reads (a; b): of each" in table.terminal(report(*some))


def test_the_page_escapes_what_would_break_a_table():
    assert "a\\|b" in table.markdown(report(line([1], case="a|b")))


def line(rounds, reference=None, goal=None, note="", case="one key", measure="p99") -> Result:
    return compare("reads", case, measure, "ms", rounds, reference, goal, note)


def report(*results: Result, left_out: tuple[str, str] | None = None) -> Report:
    machine = Machine(
        cpu="cpu",
        cores=2,
        memory_gib=1,
        kernel="Linux 1",
        python="CPython 3",
        versions={"etcd": "3.6.1"},
        service_core=0,
        load_core=1,
        load_before=0.1,
    )
    return Report(
        machine=machine,
        at="2026-01-01 00:00 UTC",
        seconds=1,
        quick=False,
        rows=("reads",),
        results=results,
        left_out=(LeftOut(*left_out),) if left_out else (),
    )
