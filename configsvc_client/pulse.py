"""How often a service speaks, and from that how much silence is too much.

Pure: times are handed in, monotonic seconds. Owns what is learned from heartbeats, when a silent stream is given up,
when a service that is not live is worth leaving, and how long a proof counts. Knows neither states nor addresses
(`session.py`).
"""

import math

from configsvc_client.freshness import LATE

MAX_HEARTBEAT_S = 60.0
MAX_PATIENCE_S = 60.0
MIN_LEARNED_HEARTBEAT_S = 1.0
MISSED_HEARTBEATS = 2
LEAST_BYTES_PER_S = 1024
"""An event that arrives more slowly than this is silence: nobody waits for the end of one that drips."""


class Pulse:
    """The heartbeats of one session, over all of its connections."""

    def __init__(self, heartbeat_s: float, now: float) -> None:
        self.heartbeat_s = heartbeat_s
        """As far as is known: what was said, then what was learned."""
        self.active_at = now
        """Silence is counted from here: when the stream last told something of the state, or was asked for; later
        while a large event arrives, as long as it does so quickly enough."""
        self._told_at = self._heard_at = now
        self._least_s = min(MIN_LEARNED_HEARTBEAT_S, heartbeat_s)
        self._status_at: float | None = None
        self._not_live_since: float | None = None
        self._patience = 0
        self._silent_s: float | None = None
        """For how long a proof counts since a silence, which makes the next one longer, but no state fresher."""

    def inherit(self, other: "Pulse") -> None:
        """Begin with what another process has learned."""
        self.heartbeat_s, self._silent_s = other.heartbeat_s, other._silent_s

    def opened(self, now: float) -> None:
        """A stream begins: the gap to the last one's heartbeats teaches nothing."""
        self.told(now)
        self._status_at = None

    def told(self, now: float) -> None:
        """The stream told something of the state, or is to be given time to do so."""
        self.active_at = self._told_at = self._heard_at = now

    def heard(self, now: float, pending_bytes: int = 0) -> None:
        """It brought something else: so much of an event that is not complete, or what has no meaning."""
        self._heard_at = now
        self.active_at = max(self.active_at, min(now, self._told_at + pending_bytes / LEAST_BYTES_PER_S))

    @property
    def is_silent(self) -> bool:
        """Whether nothing at all arrived since `active_at`."""
        return self._heard_at <= self.active_at

    def beat(self, now: float) -> float | None:
        """A heartbeat arrived; returns the gap to the one before, None for a stream's first."""
        gap = None if self._status_at is None else now - self._status_at
        self._status_at = now
        return gap

    def learn(self, gap: float | None) -> None:
        """Take a gap for what it says of the next heartbeats.

        Grow at once, shrink slowly: a status between two heartbeats must not make the rest look missing.
        """
        if gap is not None:
            learned = gap if gap > self.heartbeat_s else (3 * self.heartbeat_s + gap) / 4
            self.heartbeat_s = min(max(learned, self._least_s), MAX_HEARTBEAT_S)

    # ---- silence ------------------------------------------------------------------------------------------------

    def silence_s(self, patience: float) -> float:
        """How long a stream may be silent; `patience` times as long as usual."""
        return MISSED_HEARTBEATS * min(self.heartbeat_s * patience, MAX_HEARTBEAT_S)

    def missed(self, silence_s: float) -> None:
        """Such a silence has passed and nothing explains it: perhaps the service is slower than was thought.

        Giving it up again and again would never let that show.
        """
        self._silent_s = self._silent_s or LATE * silence_s
        self.heartbeat_s = min(2 * self.heartbeat_s, MAX_HEARTBEAT_S)

    @property
    def counts_s(self) -> float:
        """For how long a proof counts."""
        return self._silent_s or MISSED_HEARTBEATS * self.heartbeat_s

    # ---- a service that is not live -----------------------------------------------------------------------------

    def not_live(self, now: float) -> None:
        """The service has nothing newer to offer."""
        if self._not_live_since is None:
            self._not_live_since = now

    def impatient_at(self) -> float:
        """When to look for another one; more and more seldom as long as none is found."""
        if self._not_live_since is None:
            return math.inf
        return self._not_live_since + min(MISSED_HEARTBEATS * self.heartbeat_s * 2.0**self._patience, MAX_PATIENCE_S)

    def looked_elsewhere(self) -> None:
        """That time came."""
        self._patience = min(self._patience + 1, 8)

    def begin_anew(self) -> None:
        """Another service, or another connection: what the last one said of itself is over."""
        self._not_live_since = None

    def proved(self) -> None:
        """A service is there and live."""
        self._not_live_since = self._silent_s = None
        self._patience = 0
