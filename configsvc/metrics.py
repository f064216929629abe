"""Every metric of the service, declared once: `TABLE` is the reference, and nothing else makes one.

Two kinds: what is counted as it happens (`Metrics`' methods), and what is read from its owner when Prometheus asks
(`_Reader`), so that no owner has to keep a second copy up to date. Each application has its own registry. No label
holds a scope, a key or a path as it was sent: their number is not ours to bound, and metrics are read by people who
may not read every scope.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from configsvc import __version__
from configsvc.core.model import Scope
from configsvc.etcd.ops import Etcd
from configsvc.hub import Hub
from configsvc_client.snapshot import Snapshot

if TYPE_CHECKING:
    from configsvc.etcd.breaker import State
    from configsvc.follower import Follower
    from configsvc.writes.janitor import Janitor
    from configsvc.writes.schedule import Schedule

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# A gauge beside every counter that says when it was made: half of the text, and nobody's question.
disable_created_metrics()  # type: ignore[no-untyped-call]

BREAKER_STATES = ("closed", "half-open", "open")


class Declared(NamedTuple):
    """One row of the reference. `across` says what several workers' values are together (`totals.py`)."""

    kind: str
    doc: str
    labels: tuple[str, ...] = ()
    across: Literal["sum", "max", "min"] = "sum"


TABLE: dict[str, Declared] = {
    "configsvc_http_requests_total": Declared("counter", "Requests answered.", ("method", "route", "status")),
    "configsvc_http_request_duration_seconds": Declared(
        "histogram", "Time from a request's head to the end of its answer; without streams.", ("route", "status")
    ),
    "configsvc_http_requests_in_progress": Declared("gauge", "Requests being answered, streams included."),
    "configsvc_refused_connections_total": Declared(
        "counter", "Requests refused before routing: malformed, too large or too slow a head.", ("code",)
    ),
    "configsvc_read_cache_total": Declared(
        "counter",
        "Reads by where the body came from: not_modified (304), stored (made before), made (encoded for this read).",
        ("result",),
    ),
    "configsvc_memo_hits_total": Declared(
        "counter", "Reads answered from the memo, before any parsing; they are in all other counts of reads too."
    ),
    "configsvc_memo_entries": Declared("gauge", "Answers that the memo holds."),
    "configsvc_memo_bytes": Declared("gauge", "Their size, with the requests that they answer."),
    "configsvc_subscribers": Declared("gauge", "Open streams.", ("transport",)),
    "configsvc_frames_sent_total": Declared("counter", "Events handed to streams.", ("event",)),
    "configsvc_slow_streams_closed_total": Declared(
        "counter", "Streams closed because their reader took nothing.", ("transport",)
    ),
    "configsvc_revision": Declared(
        "gauge", "The etcd revision up to which this replica has seen everything.", across="min"
    ),
    "configsvc_proved_timestamp_seconds": Declared(
        "gauge", "When etcd last proved the state; 0 before the first time.", across="min"
    ),
    "configsvc_staleness_seconds": Declared("gauge", "How old the state is; 0 while it is live.", across="max"),
    "configsvc_ready": Declared("gauge", "1 while every followed scope can be read.", across="min"),
    "configsvc_watch_connected": Declared("gauge", "1 while a watch on etcd is open.", across="min"),
    "configsvc_watch_lag_revisions": Declared(
        "gauge", "By how many revisions etcd is known to be ahead.", across="max"
    ),
    "configsvc_watch_reconnects_total": Declared(
        "counter",
        "Watches on etcd that were replaced: lost (an error or silence), renewed (after its time).",
        ("reason",),
    ),
    "configsvc_relists_total": Declared(
        "counter", "Listings of everything, the first included: start, compacted, fork, impossible_event.", ("reason",)
    ),
    "configsvc_forks_total": Declared("counter", "Times that etcd showed another history."),
    "configsvc_etcd_requests_total": Declared(
        "counter",
        "Requests to etcd; outcome is ok or the error's kind, such as unreachable, unavailable, refused.",
        ("operation", "outcome"),
    ),
    "configsvc_etcd_request_duration_seconds": Declared("histogram", "Duration of requests to etcd.", ("operation",)),
    "configsvc_etcd_breaker_state": Declared(
        "gauge", "1 for the state that an endpoint's breaker is in.", ("endpoint", "state"), across="max"
    ),
    "configsvc_etcd_breaker_changes_total": Declared(
        "counter", "Times that an endpoint's breaker came into a state.", ("endpoint", "state")
    ),
    "configsvc_scopes": Declared("gauge", "Scopes that this replica has.", across="max"),
    "configsvc_entries": Declared("gauge", "Entries in all scopes, defaults included.", across="max"),
    "configsvc_snapshot_bytes": Declared("gauge", "Size of all stored values, as encoded JSON.", across="max"),
    "configsvc_stored_body_bytes": Declared("gauge", "Memory for answers that are kept as bytes."),
    "configsvc_unreadable_entries": Declared(
        "gauge",
        "Stored keys that cannot be read: entry, head, schema, or unaddressable (no reader can name it).",
        ("kind",),
        across="max",
    ),
    "configsvc_apply_windows": Declared(
        "gauge", "Scopes that stand still while a release is being applied.", across="max"
    ),
    "configsvc_apply_window_oldest_seconds": Declared(
        "gauge", "Age of the oldest of those windows; 0 without any.", across="max"
    ),
    "configsvc_writes_total": Declared(
        "counter",
        "Writes, those of the janitor included, dry runs not; outcome is released, unchanged, repeated (a known "
        "Idempotency-Key), refused, unavailable, unknown or failed; kind is none where no plan was made.",
        ("kind", "outcome"),
    ),
    "configsvc_write_seconds": Declared("histogram", "Duration of writes, with what they waited for.", ("kind",)),
    "configsvc_releases_pruned_total": Declared("counter", "Releases removed because they are not kept any longer."),
    "configsvc_janitor_working": Declared(
        "gauge", "1 where this service is the one that ends overrides and finishes what others began.", across="max"
    ),
    "configsvc_backup_timestamp_seconds": Declared(
        "gauge", "When the newest scheduled backup was made; 0 where there is none.", across="max"
    ),
    "configsvc_backup_failures_total": Declared("counter", "Scheduled backups that failed.", across="max"),
    "configsvc_event_loop_lag_seconds": Declared(
        "gauge", "How late the event loop was when last looked at.", across="max"
    ),
    "configsvc_event_loop_tasks": Declared(
        "gauge", "Tasks of the event loop: a few that are always there, and one for whatever is being answered."
    ),
    "configsvc_workers": Declared("gauge", "Worker processes that run (CONFIGSVC_WORKERS)."),
    "configsvc_worker_restarts_total": Declared("counter", "Workers started in place of one that ended.", across="max"),
    "configsvc_build_info": Declared("gauge", "1, labelled with the version.", ("version",), across="max"),
}


class Metrics:
    """The registry of one application, and what is counted as it happens. Also the gateway's observer."""

    def __init__(self, hub: Hub) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Flush(self))
        self.streams: dict[str, int] = {"sse": 0, "websocket": 0}
        self.in_progress = 0
        self.memo_hits = self.memo_entries = self.memo_bytes = 0
        self.flush: Callable[[], None] = lambda: None
        """Called before anybody reads: counts what has only been noted so far."""
        self.loop_lag_s = 0.0
        self.of_all: Callable[[], Awaitable[bytes]] | None = None
        """Where this process is one of several workers: the exposition of all of them."""
        self.restarts: Callable[[], int] = lambda: 0
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._requests = self._counter("configsvc_http_requests_total")
        self._duration = self._histogram("configsvc_http_request_duration_seconds")
        self._refused = self._counter("configsvc_refused_connections_total")
        self._cache = self._counter("configsvc_read_cache_total")
        self._slow = self._counter("configsvc_slow_streams_closed_total")
        self._writes = self._counter("configsvc_writes_total")
        self._write_seconds = self._histogram("configsvc_write_seconds")
        self._etcd_requests = self._counter("configsvc_etcd_requests_total")
        self._etcd_duration = self._histogram("configsvc_etcd_request_duration_seconds")
        self._breaker = self._counter("configsvc_etcd_breaker_changes_total")
        self._gauge("configsvc_build_info").labels(__version__).set(1)
        for result in ("not_modified", "stored", "made"):
            self._cache.labels(result)
        for transport in self.streams:
            self._slow.labels(transport)
        self._reader = _Reader(self, hub)
        self.registry.register(self._reader)

    def follow(self, follower: "Follower | None", etcd: Etcd | None) -> None:
        """Read the metrics of the watch and of etcd's endpoints from these as well."""
        self._reader.follower, self._reader.etcd = follower, etcd

    def tidied(self, janitor: "Janitor", schedule: "Schedule | None") -> None:
        """Read the metrics of what this service does by itself from these as well."""
        self._reader.janitor, self._reader.schedule = janitor, schedule

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    # ---- what is counted as it happens --------------------------------------------------------------------------

    def answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count an answer; `seconds` is None for a stream."""
        requests, duration = self._counted(method, route, status)
        requests.inc()
        if seconds is not None:
            duration.observe(seconds)

    def answered_again(self, route: str, status: int, count: int, seconds: float) -> None:
        """Count reads that the memo answered in `seconds` together, each in about the same time."""
        requests, duration = self._counted("GET", route, status)
        requests.inc(count)
        # The histogram's own way takes one at a time.
        duration._sum.inc(seconds)
        duration._buckets[bisect_left(LATENCY_BUCKETS_S, seconds / count)].inc(count)
        self._cache.labels("not_modified" if status == 304 else "stored").inc(count)
        self.memo_hits += count

    def _counted(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        # Finding a labelled child costs more than counting; there are as many as routes and statuses.
        counted = self._answered.get((method, route, status))
        if counted is None:
            counter = self._requests.labels(method, route, str(status))
            counted = self._answered[method, route, status] = (counter, self._duration.labels(route, str(status)))
        return counted

    def refused(self, code: str) -> None:
        """Count a request that never got as far as a route."""
        self._refused.labels(code).inc()

    def read(self, result: str) -> None:
        """Count a read by where its body came from."""
        self._cache.labels(result).inc()

    def slow_stream(self, transport: str) -> None:
        """Count a stream that was closed because its reader took nothing."""
        self._slow.labels(transport).inc()

    def wrote(self, kind: str, outcome: str, seconds: float) -> None:
        """Count a write."""
        self._writes.labels(kind, outcome).inc()
        self._write_seconds.labels(kind).observe(seconds)

    def etcd_call(self, operation: str, outcome: str, seconds: float, endpoint: str) -> None:
        """Count a request to etcd."""
        self._etcd_requests.labels(operation, outcome).inc()
        self._etcd_duration.labels(operation).observe(seconds)

    def etcd_breaker(self, endpoint: str, state: "State") -> None:
        """Count a change of an endpoint's breaker."""
        self._breaker.labels(endpoint, state).inc()

    def _counter(self, name: str) -> Counter:
        return Counter(name, TABLE[name].doc, TABLE[name].labels, registry=self.registry)

    def _gauge(self, name: str) -> Gauge:
        return Gauge(name, TABLE[name].doc, TABLE[name].labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        declared = TABLE[name]
        return Histogram(name, declared.doc, declared.labels, registry=self.registry, buckets=LATENCY_BUCKETS_S)


class _Flush(Collector):
    """Has no metrics of its own. Registered first, so that all others are up to date when they are read."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        self._metrics.flush()
        return ()


class _Reader(Collector):
    """Reads gauges from their owners when asked."""

    def __init__(self, metrics: Metrics, hub: Hub) -> None:
        self.follower: Follower | None = None
        self.etcd: Etcd | None = None
        self.janitor: Janitor | None = None
        self.schedule: Schedule | None = None
        self._metrics = metrics
        self._hub = hub
        self._sizes: dict[Scope, tuple[Snapshot, int]] = {}

    def collect(self) -> Iterable[Metric]:
        yield from self._freshness()
        yield from self._content()
        yield from self._streams()
        if self.follower is not None:
            yield from self._watch(self.follower)
        if self.etcd is not None:
            yield _breakers(self.etcd)
        if self.janitor is not None:
            yield _gauge("configsvc_janitor_working", self.janitor.is_working)
            yield _counter("configsvc_releases_pruned_total", self.janitor.pruned)
        if self.schedule is not None:
            yield _gauge("configsvc_backup_timestamp_seconds", self.schedule.saved_at)
            yield _counter("configsvc_backup_failures_total", self.schedule.failures)

    def _freshness(self) -> Iterator[Metric]:
        hub = self._hub
        proved = hub.proved_time
        yield _gauge("configsvc_revision", hub.replica.position)
        yield _gauge("configsvc_proved_timestamp_seconds", proved.timestamp() if proved else 0)
        yield _gauge("configsvc_staleness_seconds", hub.staleness_s())
        yield _gauge("configsvc_ready", hub.ready)
        yield _gauge("configsvc_event_loop_lag_seconds", self._metrics.loop_lag_s)
        yield _gauge("configsvc_event_loop_tasks", _tasks())
        yield _gauge("configsvc_workers", 1)
        yield _counter("configsvc_worker_restarts_total", self._metrics.restarts())
        held = hub.held_for()
        yield _gauge("configsvc_apply_windows", len(held))
        yield _gauge("configsvc_apply_window_oldest_seconds", max(held.values(), default=0))

    def _content(self) -> Iterator[Metric]:
        replica = self._hub.replica
        feeds = [feed for feed in self._hub.feeds.values() if feed.exists]
        self._sizes = {scope: size for scope, size in self._sizes.items() if scope in self._hub.feeds}
        yield _gauge("configsvc_scopes", len(feeds))
        yield _gauge("configsvc_entries", sum(len(feed.snapshot.entries) for feed in feeds))
        yield _gauge("configsvc_snapshot_bytes", sum(self._value_bytes(feed.scope, feed.snapshot) for feed in feeds))
        stored = sum(len(data) for feed in self._hub.feeds.values() for data in feed.memo.values())
        yield _gauge("configsvc_stored_body_bytes", stored)
        yield _labelled(
            "configsvc_unreadable_entries",
            {
                "entry": sum(len(state.unreadable) for state in replica.scopes.values()),
                "head": sum(state.head_problem is not None for state in replica.scopes.values()),
                "schema": len(replica.schema_problems),
                "unaddressable": len(replica.unaddressable),
            },
        )

    def _value_bytes(self, scope: Scope, snapshot: Snapshot) -> int:
        """Counted by what changed since the last scrape: a scope can have very many entries."""
        empty = Snapshot(namespace=scope.namespace, environment=scope.environment)
        known, size = self._sizes.get(scope, (empty, 0))
        for change in known.diff(snapshot) if known is not snapshot else ():
            size += len(bytes(change.new.value)) if change.new else 0
            size -= len(bytes(change.old.value)) if change.old else 0
        self._sizes[scope] = (snapshot, size)
        return size

    def _streams(self) -> Iterator[Metric]:
        yield _gauge("configsvc_http_requests_in_progress", self._metrics.in_progress)
        hits = "configsvc_memo_hits_total"
        yield CounterMetricFamily(hits, TABLE[hits].doc, value=self._metrics.memo_hits)
        yield _gauge("configsvc_memo_entries", self._metrics.memo_entries)
        yield _gauge("configsvc_memo_bytes", self._metrics.memo_bytes)
        yield _labelled("configsvc_subscribers", self._metrics.streams)
        sent = {"snapshot": 0, "change": 0, "status": 0, **self._hub.frames_sent}
        yield _labelled("configsvc_frames_sent_total", sent)

    def _watch(self, follower: "Follower") -> Iterator[Metric]:
        yield _gauge("configsvc_watch_connected", follower.connected)
        yield _gauge("configsvc_watch_lag_revisions", follower.lag)
        yield _labelled("configsvc_watch_reconnects_total", follower.reconnects)
        yield _labelled("configsvc_relists_total", follower.relists)
        yield _counter("configsvc_forks_total", follower.forks)


def _tasks() -> int:
    """How many tasks the running loop has; none where none runs."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0


def _gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(name, TABLE[name].doc, value=value)


def _counter(name: str, value: float) -> Metric:
    return CounterMetricFamily(name, TABLE[name].doc, value=value)


def _breakers(etcd: Etcd) -> Metric:
    declared = TABLE["configsvc_etcd_breaker_state"]
    metric = GaugeMetricFamily("configsvc_etcd_breaker_state", declared.doc, labels=declared.labels)
    for member in etcd.members:
        for state in BREAKER_STATES:
            metric.add_metric([member.url, state], member.breaker == state)
    return metric


def _labelled(name: str, values: dict[str, int]) -> Metric:
    declared = TABLE[name]
    family: Callable[..., CounterMetricFamily | GaugeMetricFamily]
    family = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
    metric = family(name, declared.doc, labels=declared.labels)
    for label, value in sorted(values.items()):
        metric.add_metric([label], value)
    return metric
