"""Runs subjects in turn, so that all of them meet the same machine; knows nothing of what they are."""

import math
import sys
import time
from collections.abc import Callable, Mapping

from bench.results import LeftOut, Result

Measures = Mapping[str, float]
"""What one subject shows in one round, by the name of the measure."""
Subject = Callable[[], Measures]


TINY = 0.01
"""A run of this size or below shows that rows work; its figures mean nothing, and need no round before them."""


class Series:
    """What several subjects showed, by subject and measure."""

    def __init__(self) -> None:
        self._rounds: dict[str, dict[str, list[float]]] = {}

    def add(self, subject: str, measures: Measures) -> None:
        """Take one round of a subject."""
        for name, value in measures.items():
            self._rounds.setdefault(subject, {}).setdefault(name, []).append(value)

    def of(self, subject: str, measure: str) -> list[float]:
        """All rounds of a subject's measure, in their order."""
        return self._rounds[subject][measure]

    def has(self, subject: str, measure: str) -> bool:
        """Whether that was measured."""
        return measure in self._rounds.get(subject, {})


def alternate(rounds: int, subjects: Mapping[str, Subject], *, warm_up: bool = True) -> Series:
    """Measure all subjects in each round, forwards and backwards in turn; one round before is not counted."""
    series = Series()
    names = list(subjects)
    if warm_up:
        for name in names:
            subjects[name]()
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            series.add(name, subjects[name]())
    return series


class Bench:
    """One run: how long its rounds are, what it has found so far, and what it had to leave out."""

    def __init__(self, *, size: float = 1.0, quiet: bool = False) -> None:
        self.size = size
        """1 is the full run; a smaller one shortens rounds and makes fewer of them. See `few` and `long`."""
        self.results: list[Result] = []
        self.left_out: list[LeftOut] = []
        self._shorter = math.sqrt(size)
        """Numbers shrink in proportion, rounds and their length by less each, so that both together do."""
        self._quiet = quiet
        self._began = time.monotonic()

    def rounds(self, full: int) -> int:
        """How many rounds, where a full run makes `full`; an odd number, so that the median was measured."""
        wanted = max(1, round(full * self._shorter))
        return wanted if wanted % 2 else wanted + 1

    def alternate(self, full: int, subjects: Mapping[str, Subject], *, warm_up: bool = True) -> Series:
        """Measure subjects in turn, in as many rounds as `full` comes to."""
        return alternate(self.rounds(full), subjects, warm_up=warm_up and self.size > TINY)

    def duration(self, full_s: float) -> float:
        """How long a round lasts, where a full run's lasts `full_s`."""
        return max(0.2, full_s * self._shorter)

    def count(self, full: int, least: int = 1) -> int:
        """How many of something, where a full run has `full`."""
        return max(least, round(full * self.size))

    def add(self, *results: Result) -> None:
        """Take lines of the table."""
        self.results.extend(results)

    def leave_out(self, what: str, why: str) -> None:
        """Say once that something is not measured, and why."""
        if (one := LeftOut(what, why)) not in self.left_out:
            self.left_out.append(one)
            self.say(f"left out: {what}: {why}")

    def say(self, text: str) -> None:
        """Tell whoever waits what is going on."""
        if not self._quiet:
            print(f"{time.monotonic() - self._began:6.1f} s  {text}", file=sys.stderr, flush=True)
