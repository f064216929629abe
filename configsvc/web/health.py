"""What is well and what is not: the checks behind `/health`, each with the time since when it is so.

Reads the hub, the metrics' owners and the follower; changes none of them. `observe` is called in intervals as well as
by requests, so that a `since` is right although nobody asked at the time.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Literal

import msgspec
import structlog

from configsvc.board import Board
from configsvc.etcd.ops import Etcd
from configsvc.follower import Follower
from configsvc.hub import Hub, utc_now
from configsvc.store import Store
from configsvc_client.protocol import format_time

Status = Literal["ok", "degraded", "unavailable"]
_SEVERITY: tuple[Status, ...] = ("ok", "degraded", "unavailable")
KEEPER = 1
"""Of several workers the one that writes last-known-good files."""
LONG_WINDOW_S = 60.0
"""An apply window open for longer is reported: its writer has probably died."""

Finding = tuple[str, Status, str]

log = structlog.get_logger()


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One check as it is now."""

    status: Status
    since: datetime
    detail: str


class Health:
    """All checks of one service. `follower` and `etcd` are None where the hub is fed by another hand."""

    def __init__(
        self,
        hub: Hub,
        *,
        follower: Follower | None = None,
        etcd: Etcd | None = None,
        store: Store | None = None,
        ready_from_disk: bool = True,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.leaving = False
        """Set when it is about to stop: it serves as before, and traffic should go elsewhere."""
        self._hub = hub
        self._follower = follower
        self._etcd = etcd
        self._store = store
        self._ready_from_disk = ready_from_disk
        self._now = now
        self._board: Board | None = None
        self._number = KEEPER
        self._checks: dict[str, State] = {}
        self._overall = State(status="unavailable", since=now(), detail="")
        self._ready: bool | None = None
        """What was last said about readiness; nothing before the first data."""

    def among(self, board: Board, number: int) -> None:
        """Look at the other workers too; this one has `number`."""
        self._board, self._number = board, number

    def observe(self) -> None:
        """Look at everything and keep the time at which a status changed."""
        found = {name: (status, detail) for name, status, detail in self._findings()}
        now = self._now()
        for name, (status, detail) in found.items():
            before = self._checks.get(name)
            since = before.since if before and before.status == status else now
            self._checks[name] = State(status=status, since=since, detail=detail)
        worst = max((status for status, _ in found.values()), key=_SEVERITY.index)
        if worst != self._overall.status:
            self._overall = State(status=worst, since=now, detail="")
        self._tell_ready()

    def _tell_ready(self) -> None:
        """Log a change of readiness once, since probes are not logged. The start logs the first by itself."""
        ready = self.ready
        if self._ready is not None and ready != self._ready:
            log.info("ready again" if ready else "not ready any more", why=self._checks["data"].detail)
        if ready or self._ready is not None:
            self._ready = ready

    def finding(self, check: str) -> str:
        """What one check says now; nothing where there is no such check."""
        return next((detail for name, _, detail in self._findings() if name == check), "")

    def report(self) -> dict[str, object]:
        """The body of `/health`."""
        self.observe()
        return {
            "status": self._overall.status,
            "since": format_time(self._overall.since),
            "checks": {
                name: {"status": state.status, "since": format_time(state.since), "detail": state.detail}
                for name, state in self._checks.items()
            },
        }

    @property
    def status(self) -> Status:
        """The worst of the checks when they were last looked at."""
        return self._overall.status

    @property
    def ready(self) -> bool:
        """Whether traffic should come here.

        One of several workers speaks for itself, but for the start of the service: the first is not ready before all
        are, since nobody can choose which of them a connection comes to.
        """
        hub = self._hub
        ready = hub.ready and not hub.draining and not self.leaving and (hub.listed or self._ready_from_disk)
        return ready and (self._board is None or self._board.began)

    # ---- checks -------------------------------------------------------------------------------------------------

    def _findings(self) -> Iterator[Finding]:
        yield self._data()
        if self._follower is not None:
            yield self._watch(self._follower)
        if self._etcd is not None:
            yield self._breaker(self._etcd)
        yield self._unreadable()
        yield self._windows()
        yield self._cache()
        if self._board is not None:
            yield self._workers(self._board)

    def _data(self) -> Finding:
        hub = self._hub
        if hub.draining:
            return "data", "unavailable", "shutting down"
        if not hub.ready:
            waiting = len(hub.pending())
            what = f"waiting for the end of a release: {waiting}" if waiting else "nothing was read from etcd yet"
            return "data", "unavailable", what
        if self.leaving:
            return "data", "degraded", "about to stop; served as before, and new readers should go elsewhere"
        if hub.state() == "stale":
            ready = hub.listed or self._ready_from_disk
            # From disk each scope has an age of its own; then the whole is as old as the oldest.
            age_s = hub.staleness_s() if hub.listed else max(map(hub.staleness_s, hub.feeds), default=hub.staleness_s())
            detail = f"etcd has not proved the data for {age_s:.0f} s"
            return "data", "degraded" if ready else "unavailable", detail
        return "data", "ok", f"live at revision {hub.replica.position}"

    def _watch(self, follower: Follower) -> Finding:
        if follower.trouble is not None:
            return "etcd", "degraded", follower.trouble
        if not follower.connected:
            return "etcd", "degraded", follower.last_error or "connecting"
        return "etcd", "ok", f"watching {follower.member.url if follower.member else 'etcd'}"

    def _breaker(self, etcd: Etcd) -> Finding:
        left_alone = [member.url for member in etcd.members if member.breaker != "closed"]
        if not left_alone:
            return "breaker", "ok", f"{len(etcd.members)} of {len(etcd.members)} in use"
        return "breaker", "degraded", f"{len(left_alone)} of {len(etcd.members)} left alone: {', '.join(left_alone)}"

    def _unreadable(self) -> Finding:
        replica = self._hub.replica
        # Only numbers: health is open to everybody, and the name of a key is not.
        entries = sum(len(state.unreadable) for state in replica.scopes.values())
        heads = sum(state.head_problem is not None for state in replica.scopes.values())
        counts = {
            "entries": entries,
            "heads": heads,
            "schemas": len(replica.schema_problems),
            "keys outside the format": len(replica.unaddressable),
        }
        wrong = [f"{what} {count}" for what, count in counts.items() if count]
        if not wrong:
            return "entries", "ok", "all stored keys are readable"
        return "entries", "degraded", f"unreadable: {', '.join(wrong)}; the log names them"

    def _windows(self) -> Finding:
        ages = self._hub.held_for()
        if not ages:
            return "apply_windows", "ok", "none open"
        oldest = max(ages.values())
        status: Status = "degraded" if oldest > LONG_WINDOW_S else "ok"
        return "apply_windows", status, f"{len(ages)} open, the oldest for {oldest:.0f} s"

    def _cache(self) -> Finding:
        if self._hub.ready and not self._hub.listed:
            return "cache", "degraded", "serving last-known-good snapshots from disk"
        if self._store is None:
            return "cache", "ok", "not in use"
        if self._number != KEEPER:
            return "cache", "ok", f"snapshots are kept by worker {KEEPER}"
        if self._store.problem:
            return "cache", "degraded", f"snapshots cannot be kept: {self._store.problem}"
        return "cache", "ok", "snapshots are kept"

    def _workers(self, board: Board) -> Finding:
        status: Status = "ok" if board.ready == board.count else "degraded"
        return "workers", status, f"{board.ready} of {board.count} have data; this is number {self._number}"
