"""How fresh a replica is: when etcd last proved its state, and what that makes of it now.

Pure: both clocks come in, the monotonic one for ages and the wall clock for people to read. Knows no scope.
"""

import math
from collections.abc import Callable
from datetime import datetime
from typing import Literal

State = Literal["starting", "live", "stale", "draining"]

LIVE_HEARTBEATS = 2
"""The state is called live for so many heartbeats after its last proof."""


class Freshness:
    """`starting` before the first proof, `live` for two heartbeats after each, then `stale`; `draining` for good."""

    def __init__(self, *, heartbeat_s: float, clock: Callable[[], float], now: Callable[[], datetime]) -> None:
        self.heartbeat_s = heartbeat_s
        self.clock, self.now = clock, now
        self.proved_time: datetime | None = None
        """When the state was last proved, None before it first was."""
        self.draining = False
        self._proved_at: float | None = None
        self._started = self._live_since = now()
        self._drained = self._started

    def __repr__(self) -> str:
        return f"<Freshness {self.state}, last proved {self.proved_time}>"

    def prove(self) -> None:
        """Note that the state is etcd's at this moment."""
        if self.state != "live":
            self._live_since = self.now()
        self._proved_at, self.proved_time = self.clock(), self.now()

    def drain(self) -> None:
        """Note that this replica is going away."""
        if not self.draining:
            self.draining, self._drained = True, self.now()

    @property
    def state(self) -> State:
        """What the state is now."""
        if self.draining:
            return "draining"
        if self._proved_at is None:
            return "starting"
        return "live" if self._is_live(self.clock() - self._proved_at) else "stale"

    @property
    def since(self) -> datetime:
        """When the present `state` began; it is stale since the last proof."""
        match self.state:
            case "draining":
                return self._drained
            case "live":
                return self._live_since
        return self.proved_time or self._started

    @property
    def stale_at(self) -> float:
        """When, by the monotonic clock, the state turns stale unless proved before; never where it is not live."""
        if self._proved_at is None or self.state != "live":
            return math.inf
        return math.nextafter(self._proved_at + LIVE_HEARTBEATS * self.heartbeat_s, math.inf)

    def staleness_s(self, held_at: float | None = None) -> float:
        """How long ago the state was last proved, 0 while it is live; for one that stood still from `held_at` on."""
        if self._proved_at is None:
            return self.since_s(self._started)
        age = self.clock() - (self._proved_at if held_at is None else min(self._proved_at, held_at))
        return 0.0 if self._is_live(age) else age

    def live_until(self, held_at: float | None = None) -> float:
        """Up to when `staleness_s(held_at)` stays 0 unless proved before; -inf where it is not 0 now."""
        if self._proved_at is None or self.staleness_s(held_at) > 0:
            return -math.inf
        at = self._proved_at if held_at is None else min(self._proved_at, held_at)
        return at + LIVE_HEARTBEATS * self.heartbeat_s

    def since_s(self, time: datetime) -> float:
        """How long ago `time` was; never negative, whatever the wall clock did."""
        return max(0.0, (self.now() - time).total_seconds())

    def _is_live(self, age: float) -> bool:
        return age <= LIVE_HEARTBEATS * self.heartbeat_s
