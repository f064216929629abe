"""How long to wait before the next attempt. Pure: randomness is handed in, nobody sleeps here."""

from random import Random

import msgspec


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Exponential delays with full jitter: clients that lost the same service must not come back together.

    `base_s` bounds the first delay, each further one doubles, `cap_s` bounds them all.
    """

    base_s: float = 0.5
    cap_s: float = 30.0

    def ceiling_s(self, attempt: int) -> float:
        """The longest delay of the given attempt, which counts from 0."""
        # The exponent is bounded because a float overflows long before a client stops trying.
        return min(self.cap_s, self.base_s * 2.0 ** min(attempt, 64))

    def delay_s(self, attempt: int, random: Random, *, floor_s: float = 0.0) -> float:
        """A delay between nothing and the attempt's ceiling, all of it above what the service asked for.

        `floor_s` (the stream's `retry`, a `Retry-After`) is believed up to `cap_s`, and jitter is at least half of it,
        so that those who were told the same number spread out as well.
        """
        floor_s = min(max(floor_s, 0.0), self.cap_s)
        return floor_s + random.uniform(0.0, max(self.ceiling_s(attempt), floor_s / 2))
