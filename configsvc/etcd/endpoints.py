"""etcd's endpoints as this process sees them: which answered last, which to leave alone, which to try next.

Owns the breakers. Decides only; sends nothing.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from configsvc.etcd import breaker
from configsvc.etcd.breaker import Breaker
from configsvc.etcd.ops import Corrupt, EtcdError, Member, Unavailable, Unreachable


class Observer(Protocol):
    """Told of every call and of every change of a breaker; must not raise and must not block."""

    def etcd_call(self, operation: str, outcome: str, seconds: float, endpoint: str) -> None:
        """`operation` is such as `range`, `txn`, `watch`; `outcome` is `ok` or the error's class in small letters."""

    def etcd_breaker(self, endpoint: str, state: breaker.State) -> None:
        """The breaker of `endpoint` is in `state` now."""


class Silent:
    """An observer that nobody asked for."""

    def etcd_call(self, operation: str, outcome: str, seconds: float, endpoint: str) -> None:
        pass

    def etcd_breaker(self, endpoint: str, state: breaker.State) -> None:
        pass


class Endpoint:
    """One URL and its breaker. `admit` before a request; then exactly one of `answered`, `failed`, `abandoned`."""

    def __init__(self, url: str, gate: Breaker, clock: Callable[[], float], observer: Observer) -> None:
        self.url = url
        self._gate = gate
        self._clock = clock
        self._observer = observer
        self._told: breaker.State = "closed"

    def __repr__(self) -> str:
        return f"{self.url} ({self.breaker})"

    @property
    def breaker(self) -> breaker.State:
        return self._gate.state(self._clock())

    @property
    def failures(self) -> int:
        """In a row, so far."""
        return self._gate.failures

    @property
    def available(self) -> bool:
        return self._gate.available(self._clock())

    def admit(self) -> bool:
        admitted = self._gate.admit(self._clock())
        self._tell()
        return admitted

    def answered(self) -> None:
        self._gate.succeeded()
        self._tell()

    def failed(self, error: EtcdError) -> None:
        """Count an error where it says that the endpoint is of no use; any other answer is an answer."""
        if isinstance(error, Corrupt):
            self._gate.trip(self._clock())
        elif isinstance(error, Unreachable | Unavailable):
            self._gate.failed(self._clock())
        else:
            self._gate.succeeded()
        self._tell()

    def abandoned(self) -> None:
        self._gate.abandoned()

    def _tell(self) -> None:
        state = self.breaker
        if state != self._told:
            self._told = state
            self._observer.etcd_breaker(self.url, state)


class Endpoints:
    """All of them, in the order of the configuration, and the one that is preferred: the last that answered."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.all = tuple(endpoints)
        if not self.all:
            raise ValueError("no endpoints")
        self._preferred = 0

    def __repr__(self) -> str:
        return ", ".join(map(repr, self.all))

    def get(self, member: Member) -> Endpoint:
        """Our own of that URL."""
        for endpoint in self.all:
            if endpoint is member or endpoint.url == member.url:
                return endpoint
        raise ValueError(f"{member.url} is not one of {self!r}")

    def prefer(self, endpoint: Endpoint) -> None:
        """`endpoint` has just answered. It stays preferred until it fails."""
        self._preferred = self.all.index(endpoint)

    def failed(self, endpoint: Endpoint, error: EtcdError) -> None:
        """Count an error. Where it says that the endpoint is of no use, the next one is preferred from now on.

        Without that a dead endpoint would stay first among others that have failed once, however long ago.
        """
        endpoint.failed(error)
        if endpoint.failures and self.all[self._preferred] is endpoint:
            self._preferred = (self._preferred + 1) % len(self.all)

    def next(self, after: Member | None = None) -> Endpoint:
        """The one to try next, never `after` if there is another."""
        order = self.order(after)
        return order[0] if after is None or len(order) == 1 else next(e for e in order if e.url != after.url)

    def order(self, after: Member | None = None) -> list[Endpoint]:
        """All, best first: those without a failure, with some, to be probed, left alone; then by turn after `after`."""
        first = self._preferred if after is None else self.all.index(self.get(after)) + 1
        turn = [*self.all[first:], *self.all[:first]] if first < len(self.all) else list(self.all)
        return sorted(turn, key=_rank)


def _rank(endpoint: Endpoint) -> int:
    if endpoint.breaker == "closed":
        return 1 if endpoint.failures else 0
    return 2 if endpoint.available else 3
