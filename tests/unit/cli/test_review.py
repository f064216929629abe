"""How changes are shown to a reviewer, and what may be typed for times and values."""

import pytest
import typer

from configsvc.cli import options, review
from configsvc.cli.changing import _pairs, _value
from configsvc.cli.remote import LIFTS, exit_code, lines_of
from configsvc.errors import ALL
from configsvc_client.admin import AdminError
from configsvc_client.admin_types import Blocked, Changed, Outcome, Override

CHANGES = [
    Changed(key="a", op="set", new=[1]),
    Changed(key="b", op="set", old=1, new=None),
    Changed(key="c", op="delete", old="x"),
    Changed(key="d\x1b[31m", op="delete"),
]


def text(lines):
    return "\n".join(text for text, _ in lines)


def test_deletes_come_first_and_are_counted():
    assert text(review.changes(CHANGES)) == (
        "2 keys DELETED\n"
        '  - c                                 "x"\n'
        "  - d\\x1b[31m                         (unreadable)\n"
        "\n"
        "1 key changed\n"
        "  ~ b                                 1 -> null\n"
        "\n"
        "1 key added\n"
        "  + a                                 [1]\n"
    )
    assert {style for line, style in review.changes(CHANGES) if "DELETED" in line} == {review.LOUD}
    assert review.counts(CHANGES) == "2 deleted, 1 changed, 1 added"
    assert review.counts([]) == "nothing changes"


def test_a_value_that_stays_is_no_riddle():
    found = [Changed(key="a", op="set", old=True, new=True), Changed(key="b", op="set", old=1, new=True)]
    assert text(review.changes(found)).splitlines()[1:3] == [
        "  ~ a                                 true (the same value, written anew)",
        "  ~ b                                 1 -> true",
    ]


def test_long_values_are_shown_where_they_differ():
    same = "x" * 5000
    old, new = review.excerpts(f'"{same}old{same}"', f'"{same}new{same}"')
    assert old.startswith("…" + "x" * 40 + "old")
    assert new.startswith("…" + "x" * 40 + "new")
    assert len(old) < 250
    lines = text(review.changes([Changed(key="k", op="set", old="a" * 60, new="b" * 60)])).splitlines()
    assert lines[1:4] == ["  ~ k", f'      - "{"a" * 60}"', f'      + "{"b" * 60}"']


def test_a_plan_says_what_stands_in_its_way_and_what_lifts_it():
    found = Outcome(
        epoch="0" * 12,
        version=None,
        changes=CHANGES[:1],
        warnings=["a \x1b warning"],
        digest="3-ab",
        base_release=3,
        blocked=[
            Blocked(
                code="override_pending",
                status=409,
                detail="pending: b",
                overrides=[Override(key="b", release=2, by="ann", reason="incident", value=5), Override(key="c")],
            )
        ],
    )
    lines = text(review.plan("a/b: deploy", found, LIFTS)).splitlines()
    assert lines[0] == "a/b: deploy, at release 3"
    assert lines[-8:] == [
        "! a \\x1b warning",
        "",
        "BLOCKED (override_pending): pending: b",
        "    b = 5, by ann in release 2: incident",
        "    c (deleted or unreadable), changed by hand",
        f"    -> {LIFTS['override_pending']}",
        "",
        "In all: 1 added.",
    ]


def test_what_lifts_a_refusal_is_said_for_codes_that_exist():
    codes = {code for kind in ALL for code in kind.codes}
    assert LIFTS.keys() <= codes


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("invalid_query", 400, 2),
        ("invalid_key", 400, 2),
        ("invalid_body", 400, 65),
        ("invalid_values", 400, 65),
        ("unauthenticated", 401, 77),
        ("read_only", 403, 77),
        ("key_not_found", 404, 1),
        ("route_not_found", 404, 69),
        ("override_pending", 409, 76),
        ("write_conflict", 409, 75),
        ("precondition_failed", 412, 76),
        ("body_too_large", 413, 65),
        ("unsupported_media_type", 415, 65),
        ("blast_radius", 422, 65),
        ("internal", 500, 69),
        ("store_full", 503, 69),
        ("outcome_unknown", 504, 75),
        ("outcome_unknown", None, 75),
        ("unreachable", None, 69),
        ("token", None, 78),
        ("invalid_backup", None, 65),
    ],
)
def test_exit_codes(code, status, expected):
    assert exit_code(code, status) == expected


def test_errors_name_the_place_in_the_file():
    problems = [{"key": "a", "detail": "is bad", "line": 3, "column": 5}, {"detail": "ends", "line": 9, "column": 1}]
    error = AdminError("invalid_body", "x", status=400, fields={"problems": problems, "problems_total": 4})
    assert list(lines_of(error, "v.yaml")) == ["v.yaml:3:5: 'a' is bad", "v.yaml:9:1: ends", "and 2 more"]
    changes = [{"key": f"k{n}"} for n in range(22)]
    error = AdminError("plan_changed", "moved", status=409, fields={"changes": changes, "overrides": "?"})
    first, second, third = lines_of(error)
    assert (first, third) == ("moved", f"-> {LIFTS['plan_changed']}")
    assert second.startswith("changed since: k0, k1")
    assert second.endswith("k19 and 2 more")


@pytest.mark.parametrize(
    ("typed", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86_400), ("1h30m", 5400)]
)
def test_times(typed, seconds):
    assert options.seconds(typed, "--ttl") == seconds


@pytest.mark.parametrize("typed", ["", "h", "2 h", "-5", "1h30", "1.5h", "2w", "٣"])
def test_what_is_no_time(typed):
    with pytest.raises(typer.BadParameter, match="--ttl"):
        options.seconds(typed, "--ttl")


def test_pairs_of_keys_and_values():
    assert _pairs(["a", "1"]) == [("a", "1")]
    assert _pairs(["a", "b=1"]) == [("a", "b=1")]
    assert _pairs(["a=1", "b=x=y"]) == [("a", "1"), ("b", "x=y")]
    for wrong, says in (
        (["a"], "KEY=VALUE"),
        (["=1"], "KEY=VALUE"),
        (["a=1", "b"], "KEY=VALUE"),
        (["a=1", "a=2"], "twice"),
    ):
        with pytest.raises(typer.BadParameter, match=says):
            _pairs(wrong)


def test_values_are_json_unless_told_otherwise():
    assert bytes(_value("k", ' {"a": 1}', string=False)) == b' {"a": 1}'
    assert _value("k", "1", string=True) == "1"
    for wrong in ("text", "", "NaN", "1},{", "[" * 100_000, "\ud800"):
        with pytest.raises(typer.BadParameter, match="--string"):
            _value("k", wrong, string=False)
