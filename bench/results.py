"""One line of the table, and whether its goal is met. Pure; also the form of the JSON."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from bench import stats
from bench.stats import Figure

Verdict = Literal["met", "missed", "left out", "failed", ""]
Unit = Literal["requests/s", "ms", "us", "ns", "s", "KiB", "MiB", "count", "times"]


class Goal(msgspec.Struct, frozen=True):
    """What is to be reached: `of` is what `bound` bounds, the ratio to the reference, the value, or the difference."""

    bound: float
    at: Literal["least", "most"]
    of: Literal["ratio", "value", "difference"] = "ratio"

    def met(self, reached: float) -> bool:
        """Whether the goal is reached. The figure counts as measured: nothing is rounded in its favour."""
        return reached >= self.bound if self.at == "least" else reached <= self.bound

    def text(self, unit: str) -> str:
        """For the table, with the unit of the value."""
        sign = "≥" if self.at == "least" else "≤"
        what = {"ratio": "×", "value": unit, "difference": f"{unit} more"}[self.of]
        return f"{sign} {self.bound:g} {what}"


class Reference(msgspec.Struct, frozen=True):
    """What is measured beside. Without a figure it was left out, and `why` says why."""

    name: str
    figure: Figure | None = None
    why: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `ratio` is value by reference; `verdict` is empty where no goal is set."""

    row: str
    case: str
    measure: str
    unit: Unit
    value: Figure | None = None
    reference: Reference | None = None
    ratio: Figure | None = None
    goal: Goal | None = None
    verdict: Verdict = ""
    note: str = ""


class LeftOut(msgspec.Struct, frozen=True):
    """What was not measured, by name, and why."""

    what: str
    why: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    versions: dict[str, str]
    service_core: int
    load_core: int
    load_before: float
    """The system's load average over a minute before the run: of others, whose work slows down what is measured."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    machine: Machine
    at: str
    seconds: float
    quick: bool
    rows: tuple[str, ...]
    results: tuple[Result, ...]
    left_out: tuple[LeftOut, ...] = ()

    def encode(self) -> bytes:
        """As JSON for people and programs."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def decode(data: bytes) -> Report:
    """What `encode` made."""
    return msgspec.json.decode(data, type=Report)


def compare(
    row: str,
    case: str,
    measure: str,
    unit: Unit,
    rounds: Sequence[float],
    reference: Reference | None = None,
    goal: Goal | None = None,
    note: str = "",
) -> Result:
    """A line from the rounds of a value, judged by `goal`. A goal that needs a reference which is not there is left
    out, never met."""
    value = stats.figure(rounds)
    beside = reference.figure if reference else None
    ratio = stats.ratio(value, beside) if beside else None
    verdict: Verdict = ""
    if goal is not None:
        reached = {
            "value": value,
            "ratio": ratio,
            "difference": stats.difference(value, beside) if beside else None,
        }[goal.of]
        verdict = "left out" if reached is None else "met" if goal.met(reached.median) else "missed"
    return Result(
        row=row,
        case=case,
        measure=measure,
        unit=unit,
        value=value,
        reference=reference,
        ratio=ratio,
        goal=goal,
        verdict=verdict,
        note=note,
    )
