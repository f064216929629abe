"""How fresh the state is: what was proved and when, and what the application is told of it.

Pure: times are handed in, monotonic seconds. Knows neither the state nor who proved it (`session.py`).
"""

from typing import Literal, NamedTuple

LATE = 1.25
"""A proof may be this much later than heartbeats make it due: a stream is silent for those before it is given up, and
the next address needs a moment to show itself."""


class View(NamedTuple):
    """How fresh the state is; `since` is monotonic."""

    state: Literal["connecting", "live", "stale"]
    since: float
    age_s: float | None


class Freshness:
    """When the state was last shown to be the newest, and whether whoever showed it is still there."""

    def __init__(self, max_staleness_s: float | None, now: float) -> None:
        self.is_proved = False
        """Whether a service has shown, since the start, that the state is the newest."""
        self.proved_at: float | None = None
        """When the state was last shown to be the newest, also in an earlier run."""
        self._max_staleness_s = max_staleness_s
        self._link_live = False
        self._since = now
        self._said_stale_at: float | None = None

    @property
    def is_live(self) -> bool:
        """Whether a service is there that shows the state to be the newest."""
        return self._link_live

    def inherit(self, other: "Freshness") -> None:
        """Begin with what another process knows."""
        self.is_proved, self.proved_at, self._since = other.is_proved, other.proved_at, other._since
        self._said_stale_at = other._said_stale_at

    def proved(self, now: float, heartbeats_s: float) -> None:
        """A service that is live has shown the state to be the newest; it counts as that for `heartbeats_s`."""
        if self.view(now, heartbeats_s).state != "live":
            self._since = now
        self._said_stale_at = None
        self._link_live = True
        self.proved_by(now)

    def proved_by(self, at: float) -> None:
        """Somebody has shown that the state was the newest at that time."""
        self.proved_at = at if self.proved_at is None else max(at, self.proved_at)
        self.is_proved = True

    def said_stale(self, now: float) -> None:
        """The service says itself that it has nothing newer to offer."""
        self._link_live = False
        if self._said_stale_at is None:
            self._said_stale_at = now

    def lost(self) -> None:
        """Nobody shows anything any more: the state ages from here on."""
        self._link_live = False

    def age_s(self, now: float) -> float | None:
        """How long ago the state was shown to be the newest; None where it never was."""
        return None if self.proved_at is None else max(0.0, now - self.proved_at)

    def stale_in_s(self, now: float, heartbeats_s: float) -> float | None:
        """After how long the state turns stale by time alone; None where it does not, or has."""
        if self._link_live or self.proved_at is None or self.view(now, heartbeats_s).state != "live":
            return None
        return self.proved_at + (self._max_staleness_s or heartbeats_s) - now

    def view(self, now: float, heartbeats_s: float) -> View:
        """How fresh the state is at this moment; the step to stale needs no event to happen."""
        age_s = self.age_s(now)
        if self.proved_at is None or age_s is None or not self.is_proved:
            return View("connecting", self._since, age_s)
        if self._link_live and age_s <= LATE * heartbeats_s:
            # Later than that, whoever would have noticed was asleep: a blocked loop, a suspended process.
            return View("live", self._since, 0.0)
        limit_s = self._max_staleness_s
        if limit_s is None:
            if self._said_stale_at is not None:
                return View("stale", self._said_stale_at, age_s)
            limit_s = heartbeats_s
        if age_s <= limit_s:
            return View("live", self._since, age_s)
        return View("stale", self.proved_at + limit_s, age_s)
