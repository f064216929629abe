"""The client's metrics as plain samples, for whichever system collects them. Pure.

Owns names, types, labels and meanings; `prometheus.py` only passes them on. The reference page has a row for each.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec


class Metric(NamedTuple):
    """One row of the table."""

    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    doc: str


_P = "configsvc_client_"

TABLE: dict[str, Metric] = {
    _P + "reads_total": Metric(
        "counter", ("source",), "Reads by where the answer came from: live, memory, disk, default."
    ),
    _P + "invalid_values_total": Metric(
        "counter", (), "Reads answered with the default because the stored value was of another type or out of bounds."
    ),
    _P + "changes_total": Metric("counter", (), "States received in which something is another than before."),
    _P + "callback_errors_total": Metric("counter", (), "Callbacks that raised."),
    _P + "connections_total": Metric("counter", (), "Streams opened."),
    _P + "failures_total": Metric("counter", ("kind",), "Streams and addresses left, by why."),
    _P + "state": Metric(
        "gauge", ("state",), "1 for the state that the client is in: connecting, live, stale, closed."
    ),
    _P + "transport": Metric("gauge", ("transport",), "1 for what brings changes: stream or polling."),
    _P + "revision": Metric("gauge", (), "The revision up to which everything is known; 0 before the first state."),
    _P + "proved_timestamp_seconds": Metric(
        "gauge", (), "When the state was last proved to be the newest; 0 before the first time."
    ),
}


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One number. `kind` and `help` are those of all samples of this name."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: dict[str, str]
    value: float


def samples(name: str, numbers: float | Mapping[str, float]) -> list[Sample]:
    """The samples of one metric: a number, or one for each value of its label."""
    metric = TABLE[_P + name]
    by_labels = (
        [({metric.labels[0]: value}, number) for value, number in numbers.items()]
        if isinstance(numbers, Mapping)
        else [({}, numbers)]
    )
    return [
        Sample(name=_P + name, kind=metric.kind, help=metric.doc, labels=labels, value=float(number))
        for labels, number in by_labels
    ]
