"""Whether a state is believed that looks older than the one that is held.

A replica that lags is not; a store that was restored from a backup is, in the end. What tells them apart is time: for
one that lags there are better ones, or it catches up. Pure: times are handed in, monotonic seconds.
"""

from collections import deque
from collections.abc import Container
from typing import NamedTuple

from configsvc_client.errors import LinkError
from configsvc_client.protocol import EventId
from configsvc_client.snapshot import Snapshot

MAX_LEFT_EPOCHS = 16


class Proof(NamedTuple):
    """A state, the position up to which it is proved, how long ago it was, and which histories came before."""

    snapshot: Snapshot
    position: EventId
    age_s: float
    left: tuple[str, ...] = ()

    def is_before(self, position: EventId, left: Container[str]) -> bool:
        """Whether this is a step back from a position that came after those histories."""
        if self.position.epoch == position.epoch:
            return self.position.revision < position.revision
        return self.position.epoch in left


class Doubt:
    """The histories that were left, and since when nothing better than an older state was offered."""

    def __init__(self, believe_after_s: float) -> None:
        self.left: deque[str] = deque(maxlen=MAX_LEFT_EPOCHS)
        """Epochs, the last one left at the end."""
        self._believe_after_s = believe_after_s
        self._since: float | None = None

    def leave(self, left: str, taken: str) -> None:
        """Note that another history was taken."""
        if taken in self.left:
            self.left.remove(taken)
        self.left.append(left)

    def look(self, position: EventId, held: EventId | None, now: float) -> str | None:
        """None for a state that is not older; else raise until there was time enough to find better."""
        if held is None:
            return None
        if position.epoch == held.epoch and position.revision < held.revision:
            why = f"it is at {position}, this client is at {held}"
        elif position.epoch in self.left:
            why = f"it is at {position}, a history that this client left for {held}"
        else:
            return None
        if not self.is_over(now):
            raise LinkError("older", f"older state refused: {why}")
        return f"older state believed, no service offered better for {self._waited_s(now):.0f} s: {why}"

    def is_over(self, now: float) -> bool:
        """Whether better was looked for long enough; the first question begins it."""
        return self._waited_s(now) >= self._believe_after_s

    def ends_in_s(self, now: float) -> float | None:
        """When there was time enough; None where nothing is in doubt, or that time has passed."""
        if self._since is None or self.is_over(now):
            return None
        return self._since + self._believe_after_s - now

    def end(self) -> None:
        """Something was offered that is not older."""
        self._since = None

    def _waited_s(self, now: float) -> float:
        if self._since is None:
            self._since = now
        return now - self._since
