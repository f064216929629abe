"""How fresh the state is: what was proved and when, and what the application is told of it.

Pure: times are handed in, monotonic seconds. Knows neither the state nor who proved it (`session.py`).

A service's word counts for what it shows: a snapshot of one that lost its store long ago is as old as it says, however
new it is here. Ages are told as durations, so that nobody's wall clock matters.
"""

import math
from typing import Literal, NamedTuple

LATE = 1.25
"""A proof may be this much later than heartbeats make it due: a stream is silent for those before it is given up, and
the next address needs a moment to show itself."""
MAX_STALENESS_S = 1e9
"""Thirty years: what is said to be older is no age."""


class View(NamedTuple):
    """How fresh the state is; `since` is monotonic."""

    state: Literal["connecting", "live", "stale"]
    since: float
    age_s: float | None


class Word(NamedTuple):
    """What a service says of itself: up to when its own state was proved to be the newest.

    `proved_at` is infinite while it is live, and None where it does not say how old its state is.
    """

    proved_at: float | None

    @property
    def is_live(self) -> bool:
        """Whether what it shows now is the newest."""
        return self.proved_at == math.inf


LIVE = Word(math.inf)
UNKNOWN = Word(None)


def word_of(state: str, staleness_s: float | None, now: float) -> Word:
    """The word of a service in that state, which says that its state is so old; an age without sense is none.

    One that starts, or is behind, says nothing yet of what it will show.
    """
    if state == "live":
        return LIVE
    if state in ("starting", "behind") or staleness_s is None or not 0 <= staleness_s <= MAX_STALENESS_S:
        return UNKNOWN
    return Word(now - staleness_s)


def read_staleness(text: str | None) -> float | None:
    """The seconds of a header `Configsvc-Staleness`; None where there is none, or it makes no sense."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds <= MAX_STALENESS_S else None


class Freshness:
    """When the state was last shown to be the newest, and whether whoever showed it is still there."""

    def __init__(self, max_staleness_s: float | None, now: float) -> None:
        self.is_proved = False
        """Whether a service has shown the state since the start, however old that is."""
        self.proved_at: float | None = None
        """When the state was last shown to be the newest, also in an earlier run; None where nobody knows."""
        self._max_staleness_s = max_staleness_s
        self._link_live = False
        self._since = now
        self._said_stale_at: float | None = None
        self.is_sure = True
        """Whether `proved_at` rests on the word of a service, and not only on its having sent a state."""
        self.is_pending = False
        """Whether the stream has brought a state of which its service is still to say how old it is."""
        # What the stream's service says of itself, None before it has said anything; and when the state was proved
        # before the stream was opened.
        self._word: Word | None = None
        self._before: float | None = None
        self._is_another = False

    @property
    def is_live(self) -> bool:
        """Whether a service is there that shows the state to be the newest."""
        return self._link_live

    def inherit(self, other: "Freshness") -> None:
        """Begin with what another process knows."""
        self.is_proved, self.proved_at, self._since = other.is_proved, other.proved_at, other._since
        self._said_stale_at = other._said_stale_at

    def adopt(self, at: float | None) -> None:
        """Hold a state that was shown to be the newest at that time, None where nobody knows, whoever speaks now."""
        self.proved_at = self._before = at
        self._is_another = False

    def another_history(self) -> None:
        """What is shown next is no later state: nothing that was proved so far speaks of it."""
        self._before, self._is_another = None, True

    # ---- what a service says and shows --------------------------------------------------------------------------

    def opened(self, staleness_s: float | None, now: float) -> None:
        """A stream begins; how old its service says that its state is, None where it does not say."""
        self._word = None if staleness_s is None else word_of("stale" if staleness_s else "live", staleness_s, now)
        self._before, self.is_sure, self.is_pending = self.proved_at, True, False

    def said(self, word: Word) -> None:
        """The stream's service says this of itself. What it has shown before was no newer."""
        self._word = word
        if word.is_live:
            return
        own = self.proved_at if self.is_sure else None
        if own is not None and word.proved_at is not None:
            own = min(own, word.proved_at)
        self.proved_at, self.is_sure = _latest(self._before, own), True

    def shown_by_stream(self, now: float, heartbeats_s: float) -> bool:
        """The stream has brought a state; returns whether that is the newest one.

        A service that has said nothing of itself is believed until it does: one that is stale says so at once. One that
        does not say how old its state is shows it with its next status.
        """
        word = self._word or LIVE
        if word.is_live:
            self.proved(now, heartbeats_s)
            self.is_sure = self._word is not None
        elif word != UNKNOWN:
            self.shown(word, now)
        else:
            self.is_pending = True
            if self._is_another:
                self.adopt(None)
        return word.is_live

    def not_live(self, state: str, now: float, *, speaks_of_it: bool) -> None:
        """The stream's service is in that state; whether it says so of the state that is held, at its position."""
        if state == "starting":
            # It has nothing yet, so it knows nothing against the state: that ages as if nobody was there.
            self.lost()
            return
        word = self._word or UNKNOWN
        if state != "behind" and (self.is_pending or (speaks_of_it and word != UNKNOWN)):
            self.shown(word, now)
        self.said_stale(now)

    def proved(self, now: float, heartbeats_s: float) -> None:
        """A service that is live has shown the state to be the newest; it counts as that for `heartbeats_s`."""
        if self.view(now, heartbeats_s).state != "live":
            self._since = now
        self._said_stale_at = None
        self._link_live = True
        self.proved_at, self._is_another = now, False
        self.is_sure, self.is_pending = True, False
        # Last, as below: other threads look.
        self.is_proved = True

    def shown(self, word: Word, now: float) -> None:
        """A service that is not live has shown the state: it was the newest when that service was last live.

        That takes nothing from what others have proved, unless theirs was another history.
        """
        if self._is_another:
            self.adopt(None)
        self.said_stale(now)
        self.proved_at = _latest(self.proved_at, word.proved_at)
        self.is_sure, self.is_pending = True, False
        self.is_proved = True

    def said_stale(self, now: float) -> None:
        """The service says itself that it has nothing newer to offer."""
        self._link_live = False
        if self._said_stale_at is None:
            self._said_stale_at = now

    def lost(self) -> None:
        """Nobody shows anything any more: the state ages from here on."""
        self._link_live = False

    # ---- what the application is told ---------------------------------------------------------------------------

    def age_s(self, now: float) -> float | None:
        """How long ago the state was shown to be the newest; None where nobody knows."""
        return None if self.proved_at is None else max(0.0, now - self.proved_at)

    def stale_in_s(self, now: float, heartbeats_s: float) -> float | None:
        """After how long the state turns stale by time alone; None where it does not, or has."""
        if self._link_live or self.proved_at is None or self.view(now, heartbeats_s).state != "live":
            return None
        return self.proved_at + (self._max_staleness_s or heartbeats_s) - now

    def view(self, now: float, heartbeats_s: float) -> View:
        """How fresh the state is at this moment; the step to stale needs no event to happen."""
        is_proved, proved_at = self.is_proved, self.proved_at
        age_s = None if proved_at is None else max(0.0, now - proved_at)
        if not is_proved:
            return View("connecting", self._since, age_s)
        if proved_at is None or age_s is None:
            # Nobody knows how old it is, so no limit allows it.
            return View("stale", self._since if self._said_stale_at is None else self._said_stale_at, None)
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
        return View("stale", proved_at + limit_s, age_s)


def _latest(a: float | None, b: float | None) -> float | None:
    return max((at for at in (a, b) if at is not None), default=None)
