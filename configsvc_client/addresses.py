"""Where to go next after a failure, and after which pause.

Pure: randomness is handed in, nobody sleeps here. Knows nothing of states and streams (`session.py`).
"""

from random import Random
from typing import Literal, NamedTuple

from configsvc_client.errors import PASSING_STATUS, Kind, LinkError
from configsvc_client.options import Endpoint, Tuning
from configsvc_client.protocol import EventId

Decision = Literal["retry", "next", "slow"]

_DECISIONS: dict[Kind, Decision] = {
    "ended": "retry",
    "unknown_scope": "slow",
    "not_configsvc": "slow",
    "token": "slow",
}
_UNANSWERED: frozenset[Kind] = frozenset({"unreachable", "timeout"})


def classify(error: LinkError) -> Decision:
    """What follows from a failure: the same address again, the next one, or the next one and slowly.

    `slow` is for what only a person can change; it is never final, because people do.
    """
    if error.kind == "status":
        status = error.status or 0
        return "next" if status >= 500 or status in PASSING_STATUS else "slow"
    return _DECISIONS.get(error.kind, "next")


class Attempt(NamedTuple):
    """Where to connect next, and from where to resume; None asks for a snapshot."""

    endpoint: Endpoint
    last_event_id: EventId | None


class Addresses:
    """The addresses of one client, one of them the current one, and the failures since things were well."""

    def __init__(self, endpoints: tuple[Endpoint, ...], tuning: Tuning, random: Random) -> None:
        self.retry_s = 0.0
        """What a service asked readers to wait before they come back to it."""
        self._endpoints = endpoints
        self._tuning = tuning
        self._random = random
        self._index = 0
        # Failures in all, and addresses that refused in a way that does not pass.
        self._failures = 0
        self._slow: set[int] = set()
        # Of each address: why it was left the last time, since one of them has shown a state.
        self._noted: dict[str, LinkError] = {}

    def inherit(self, other: "Addresses") -> None:
        """Begin at the address at which another process is."""
        self._index = other._index

    @property
    def current(self) -> Endpoint:
        """The address that is being used or tried."""
        return self._endpoints[self._index]

    @property
    def all_failed(self) -> bool:
        """Whether every address was tried in vain since things were well."""
        return self._failures >= len(self._endpoints)

    def note(self, error: LinkError) -> None:
        """Take note of what is wrong at the current address."""
        self._noted[self.current.url] = error

    @property
    def reason(self) -> str | None:
        """Why no address shows a state: by address, in their order. One that answers says more than one that doesn't.

        None where nothing has failed since one has shown a state.
        """
        answers = self._answers()
        told = {one.url: self._noted[one.url].detail for one in self._endpoints if one.url in (answers or self._noted)}
        return "; ".join(f"{url}: {detail}" for url, detail in told.items()) or None

    @property
    def is_nobody_there(self) -> bool:
        """Whether nothing answers at any address."""
        return self._is_round_over and not self._answers()

    @property
    def is_refused(self) -> bool:
        """Whether every address was tried, and whatever answers is a service that refuses for good."""
        answers = self._answers()
        return self._is_round_over and bool(answers) and all(error.is_final for error in answers.values())

    @property
    def _is_round_over(self) -> bool:
        return len(self._noted) == len(self._endpoints)

    def _answers(self) -> dict[str, LinkError]:
        return {url: error for url, error in self._noted.items() if error.kind not in _UNANSWERED}

    def worked(self) -> None:
        """The current address has shown a state."""
        self._slow.clear()
        self._noted.clear()

    def well(self) -> None:
        """It did so for long enough to forget what was before."""
        self._failures = 0

    def lost(self, error: LinkError, *, worked: bool, is_start: bool) -> float:
        """Choose the next address after a failure of the current one; returns the pause before it.

        `worked` says whether this visit brought anything, `is_start` whether nothing ever did.
        """
        decision = classify(error)
        if decision == "slow":
            self._slow.add(self._index)
        else:
            self._slow.clear()
        stays = decision == "retry" and worked
        if not stays:
            self._index = (self._index + 1) % len(self._endpoints)
        delay = self._delay(error, stays=stays, is_start=is_start)
        self._failures += 1
        return delay

    def _delay(self, error: LinkError, *, stays: bool, is_start: bool) -> float:
        if error.kind == "unreachable" and is_start and self._failures < len(self._endpoints) - 1:
            # An application waits, for as long as there are addresses that nobody has tried.
            return 0.0
        all_slow = len(self._slow) == len(self._endpoints)
        backoff = self._tuning.slow_backoff if all_slow else self._tuning.backoff
        # What a service asked for counts for itself; another address need not wait, unless a whole herd goes there.
        floor_s = error.retry_after_s
        if stays or len(self._endpoints) == 1:
            floor_s = max(floor_s, self.retry_s)
        return backoff.delay_s(self._failures // len(self._endpoints), self._random, floor_s=floor_s)
