"""`python -m bench`: run rows, print the table, and write it as JSON."""

import argparse
import os
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import machine, references, table
from bench.harness import Bench
from bench.processes import LOAD_CORE, on_cores
from bench.results import Report, Result
from bench.rows import World
from bench.rows.all import ROWS

ROOT = Path(__file__).parent.parent
LATEST = ROOT / "bench" / "results" / "latest.json"
PAGE_DATA = ROOT / "docs" / "performance.json"
QUICK = 0.05
BUSY = 0.5
"""A load average above this is said: whoever measures should be alone."""


def main(arguments: list[str] | None = None) -> int:
    """0 also where goals are missed; 1 where a row could not be measured; 2 for wrong arguments."""
    options = _options(arguments)
    if sys.platform != "linux":
        print("make bench needs Linux: it binds processes to cores and reads /proc", file=sys.stderr)
        return 2
    raise_limit()
    report = measure(options.rows or list(ROWS), QUICK if options.quick else 1.0)
    for path in [options.json, *([PAGE_DATA] if options.record else [])]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(report.encode())
    print(table.terminal(report))
    print(f"as JSON: {os.path.relpath(options.json)}")
    return 1 if any(one.verdict == "failed" for one in report.results) else 0


def measure(rows: list[str], size: float, *, quiet: bool = False) -> Report:
    """Measure rows in their order. One that fails is a line that says so; the others go on."""
    bench = Bench(size=size, quiet=quiet)
    at, begun, load_before = datetime.now(UTC), time.monotonic(), os.getloadavg()[0]
    if load_before > BUSY:
        bench.say(f"others are at work here (load average {load_before:.1f}): figures will be worse, and differ more")
    for name in rows:
        # This process writes changes and waits for others: on the load's core too.
        with tempfile.TemporaryDirectory(prefix="configsvc-bench-") as folder, on_cores(LOAD_CORE):
            try:
                ROWS[name](World(bench, Path(folder)))
            except Exception as error:
                bench.say(f"{name} FAILED: {type(error).__name__}: {error}")
                why = str(error).strip().rpartition("\n")[2] or type(error).__name__
                bench.add(Result(row=name, case="", measure="", unit="count", verdict="failed", note=why))
    return Report(
        machine=machine.look(_programs(), load_before),
        at=at.strftime("%Y-%m-%d %H:%M UTC"),
        seconds=round(time.monotonic() - begun, 1),
        quick=size < 1,
        rows=tuple(rows),
        results=tuple(bench.results),
        left_out=tuple(bench.left_out),
    )


def _programs() -> dict[str, list[str]]:
    from bench.store import binary

    found = {"etcd": [str(binary()), "--version"]}
    for name, flag in (("nginx", "-v"), ("wrk", "-v")):
        if path := references.find(name):
            found[name] = [path, flag]
    return found


def raise_limit() -> None:
    """Open as many descriptors as the system allows: 9,000 streams are 9,000 of them, on both sides."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure, beside references, on this machine.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"only these: {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="smaller numbers and short rounds: does it work?")
    parser.add_argument(
        "--record", action="store_true", help=f"write {PAGE_DATA.relative_to(ROOT)} too (then: make docs)"
    )
    parser.add_argument("--json", type=Path, default=LATEST, metavar="FILE", help="where the result goes as JSON")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}; there is {', '.join(ROWS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
