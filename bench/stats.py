"""What several rounds come to. Pure."""

import math
from collections.abc import Sequence
from statistics import median

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """The median of several rounds, with the lowest and the highest of them."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]


def figure(rounds: Sequence[float]) -> Figure:
    """Of at least one round."""
    if not rounds:
        raise ValueError("a figure needs at least one round")
    return Figure(median(rounds), min(rounds), max(rounds), tuple(rounds))


def ratio(value: Figure, reference: Figure) -> Figure | None:
    """Value by reference, round by round, so that what slows down a whole round does not count.

    By the medians where there are not as many rounds of both. None where the reference is not above 0: there is no
    ratio to nothing.
    """
    if min(reference.low, reference.median) <= 0:
        return None
    if len(value.rounds) == len(reference.rounds):
        return figure([above / below for above, below in zip(value.rounds, reference.rounds, strict=True)])
    return figure([value.median / reference.median])


def difference(value: Figure, reference: Figure) -> Figure:
    """Value less reference, round by round where there are as many of both."""
    if len(value.rounds) == len(reference.rounds):
        return figure([above - below for above, below in zip(value.rounds, reference.rounds, strict=True)])
    return figure([value.median - reference.median])


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` (0 to 1) of all samples do not exceed."""
    if not samples:
        raise ValueError("a percentile needs at least one sample")
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
