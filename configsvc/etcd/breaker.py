"""A circuit breaker for one endpoint: after failures in a row it is left alone for a while, then tried by one request.

Pure: the time is passed in. `admit` asks before a request; `succeeded`, `failed` or `abandoned` tells how it ended,
once for every request that was admitted.
"""

from typing import Literal

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Closed: all pass. Open: none. Half-open, after `open_s`: one at a time, and its end decides."""

    def __init__(self, failures: int, open_s: float) -> None:
        self.max_failures = failures
        self.open_s = open_s
        self.failures = 0
        """In a row, so far."""
        self._opened_at: float | None = None
        self._probing = False

    def __repr__(self) -> str:
        return f"Breaker(failures={self.failures}, opened_at={self._opened_at}, probing={self._probing})"

    def state(self, now: float) -> State:
        """The state at `now`; a breaker whose time is up is half-open without anybody telling it."""
        if self._opened_at is None:
            return "closed"
        return "half-open" if now >= self._opened_at + self.open_s else "open"

    def available(self, now: float) -> bool:
        """Whether `admit` would say yes."""
        state = self.state(now)
        return state == "closed" or (state == "half-open" and not self._probing)

    def admit(self, now: float) -> bool:
        """Let a request pass, or not. In half-open the first is the probe; the others wait for its end."""
        if not self.available(now):
            return False
        if self._opened_at is not None:
            self._probing = True
        return True

    def succeeded(self) -> None:
        """The endpoint answered: closed, whatever was before."""
        self.failures = 0
        self._opened_at = None
        self._probing = False

    def failed(self, now: float) -> None:
        """The endpoint did not answer. A probe that fails opens for another `open_s`."""
        self.failures += 1
        if self._probing or (self._opened_at is None and self.failures >= self.max_failures):
            self.trip(now)

    def abandoned(self) -> None:
        """The request was given up before it could tell anything; the next one may probe."""
        self._probing = False

    def trip(self, now: float) -> None:
        """Open at once, however few the failures."""
        self._opened_at = now
        self._probing = False
