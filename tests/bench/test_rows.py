"""Every row works, with tiny numbers and real processes; how fast anything is, no test says."""

import sys

import pytest

from bench import references
from bench.__main__ import main, measure
from bench.processes import BenchError
from bench.results import decode
from bench.rows.all import ROWS
from bench.table import terminal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the bench needs Linux")

TINY = 0.004
LINES = {
    "reads": {"requests": 7, "p99": 7, "CPU time per request": 7},
    "scope": {"requests": 2, "p99": 2, "CPU time per request": 2},
    "fanout": {"until the last has it": 3, "memory each": 3},
    "reconnect": {"time until all are live": 1, "peak memory": 1, "answers 5xx": 1},
    "latency": {
        f"put {since} → called, {share}": 2 for since in ("sent", "acknowledged") for share in ("median", "p99")
    },
    "busy": {"read p99": 2, "failed reads": 1},
    "client": {"client.get": 1, "client.get_int": 1, "await aclient.get": 1},
    "size": {"CPU time per change, service": 2, "CPU time per change, client": 2},
    "start": {"start to ready": 2, "resident memory": 2},
    "imports": {"time in a fresh process": 1, "time of the whole process": 1},
    "workers": {"requests of two processes": 2, "CPU time per request": 2},
    "writes": {"answered": 3, "apply window open": 1, "read p99 meanwhile": 1, "failed reads": 1},
}
"""How many lines each measure of a row has."""
ONLY_WITH_WRK = {"requests"}


@pytest.fixture(autouse=True)
def install_nothing(monkeypatch):
    """What is not on the machine is left out here."""
    monkeypatch.setattr(
        references.shutil,
        "which",
        lambda name, path=None, which=references.shutil.which: None if name == "apt-get" else which(name, path=path),
    )
    references.missing.cache_clear()


@pytest.mark.parametrize("row", ROWS)
def test_a_row_measures_all_that_it_should(row):
    report = measure([row], TINY, quiet=True)
    assert [one.note for one in report.results if one.verdict == "failed"] == []
    found: dict[str, int] = {}
    for one in report.results:
        assert one.row == row
        assert one.value is not None
        found[one.measure] = found.get(one.measure, 0) + 1
        if one.reference is not None and one.reference.figure is None:
            assert one.reference.why
            assert one.reference.why in {left.why for left in report.left_out}
    expected = LINES[row]
    if references.missing("wrk"):
        assert any("wrk" in one.why for one in report.left_out) or row not in ("reads", "scope", "workers")
        expected = {} if row == "workers" else {k: n for k, n in expected.items() if k not in ONLY_WITH_WRK}
    assert found == expected
    assert decode(report.encode()) == report
    assert row in terminal(report)


def test_reads_are_measured_without_nginx_and_wrk(monkeypatch):
    monkeypatch.setattr(references, "missing", lambda program: f"{program} is not installed")
    report = measure(["scope"], TINY, quiet=True)
    assert {one.measure for one in report.results} == {"CPU time per request", "p99"}
    assert {one.verdict for one in report.results} == {"left out"}
    assert {one.what for one in report.left_out} == {"nginx", "requests/s of reads"}


def test_a_row_that_fails_is_said_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    def broken(world):
        raise BenchError("no such thing")

    def fine(world):
        world.bench.leave_out("everything", "nothing to do")

    monkeypatch.setitem(ROWS, "reads", broken)
    monkeypatch.setitem(ROWS, "scope", fine)
    file = tmp_path / "new" / "latest.json"
    assert main(["reads", "scope", "--quick", "--json", str(file)]) == 1
    report = decode(file.read_bytes())
    assert [(one.row, one.verdict, one.note) for one in report.results] == [("reads", "failed", "no such thing")]
    assert [one.what for one in report.left_out] == ["everything"]
    assert "FAILED" in capsys.readouterr().out


def test_an_unknown_row_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["fan-out"])
    assert exit.value.code == 2
    assert "no such row: fan-out; there is reads, scope, fanout" in capsys.readouterr().err
