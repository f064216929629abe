"""The step to stale, which no event announces: whoever follows a scope looks again when it is due.

Owns one timer of a loop, and nothing of what is looked at.
"""

import asyncio
from collections.abc import Callable

_LATER_S = 0.001
"""A timer may be a little early."""


class Ticker:
    """Calls `look_at` when told to, and once more as many seconds later as that answers; None: not by itself."""

    def __init__(self, look_at: Callable[[], float | None]) -> None:
        self._look_at = look_at
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Look now. To be called on the loop."""
        self.stop()
        again_s = self._look_at()
        if again_s is not None:
            self._timer = asyncio.get_running_loop().call_later(again_s + _LATER_S, self.look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
