"""The metrics of several workers as one: whichever of them is asked answers for all.

Each worker publishes its samples on the board, when another one asks and in intervals. They are put together by the
rule that `metrics.TABLE` has for each. A worker that takes the place of a dead one begins with what that one had
counted, as of its last publication, so totals never go back; what a killed one counted after that is lost. Gauges are
those of workers that run.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

import msgspec
import structlog
from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector

from configsvc.board import GONE, Board
from configsvc.metrics import TABLE, Declared, Metrics

PUBLISH_S = 5.0
"""Publishing took 0.5 ms with few routes and statuses seen, and 10 to 15 ms with 80 pairs of them."""

Labels = tuple[tuple[str, str], ...]
Samples = dict[str, dict[tuple[str, Labels], float]]
"""By family: a sample's name and labels, and its value."""
_Rows = list[tuple[str, list[tuple[str, Labels, float]]]]

_decoder = msgspec.msgpack.Decoder(_Rows)
_COMBINE: dict[str, Callable[[float, float], float]] = {"sum": lambda a, b: a + b, "max": max, "min": min}

log = structlog.get_logger()


def collected(families: Iterable[Metric]) -> Samples:
    """Samples as a registry has them."""
    return {
        family.name: {(s.name, tuple(s.labels.items())): float(s.value) for s in family.samples} for family in families
    }


def encode(samples: Samples) -> bytes:
    """Samples as they are published."""
    return msgspec.msgpack.encode(
        [(family, [(*key, value) for key, value in values.items()]) for family, values in samples.items()]
    )


def decode(data: bytes) -> Samples:
    """What `encode` made; nothing from nothing."""
    rows = _decoder.decode(data) if data else []
    return {family: {(name, labels): value for name, labels, value in values} for family, values in rows}


def counted(samples: Samples) -> Samples:
    """Of these samples those that outlive their process: counters and histograms."""
    return {family: values for family, values in samples.items() if _declared(family).kind != "gauge"}


def together(parts: Iterable[Samples]) -> Samples:
    """Several workers' samples as one, each by its rule; the order is that of the first that has them."""
    total: Samples = {}
    for part in parts:
        for family, values in part.items():
            into = total.setdefault(family, {})
            combine = _COMBINE[_declared(family).across]
            for key, value in values.items():
                into[key] = combine(into[key], value) if key in into else value
    return total


class Totals:
    """One worker's part of the common metrics. `exposition` answers for all workers."""

    def __init__(self, metrics: Metrics, board: Board, number: int) -> None:
        self._metrics = metrics
        self._board = board
        self._number = number
        self._before = counted(decode(board.read(number)))
        self._bells = board.bells(number, self.publish)
        self._told = False

    @asynccontextmanager
    async def published(self) -> AsyncIterator[None]:
        """Answer the others while the block runs; what was counted until its end is published."""
        self.publish()
        with self._bells:
            yield
        self.publish()

    async def run(self) -> None:
        """Publish in intervals, for ever: what a worker that is killed had counted, and that it is alive."""
        while True:
            await asyncio.sleep(PUBLISH_S)
            self.publish()

    def publish(self) -> None:
        """Let the others see the samples of now."""
        samples = together([collected(self._metrics.registry.collect()), self._before])
        if not self._board.write(self._number, encode(samples)) and not self._told:
            self._told = True
            log.error("too many metrics to share; other workers do not see those of this one")

    async def exposition(self) -> bytes:
        """The metrics of all workers, in Prometheus' text format."""
        # Published before they are told, so that no later answer, whoever gives it, falls behind this one.
        self.publish()
        await self._bells.ask()
        return generate_latest(_Collected(together(self._parts())))

    def _parts(self) -> Iterator[Samples]:
        for number in sorted(self._board.numbers, key=lambda one: one != self._number):
            samples = decode(self._board.read(number))
            yield samples if self._board.state(number) != GONE else counted(samples)


class _Collected(Collector):
    """Samples as Prometheus' library wants them."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        for family, values in self._samples.items():
            declared = _declared(family)
            metric = Metric(family, declared.doc, declared.kind)
            for (name, labels), value in values.items():
                metric.add_sample(name, dict(labels), value)
            yield metric


def _declared(family: str) -> Declared:
    # A counter's family goes without the ending that its samples have.
    return TABLE.get(family) or TABLE[f"{family}_total"]
