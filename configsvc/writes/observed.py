"""What became of each write, for the metrics."""

from collections.abc import Callable
from typing import Protocol

from configsvc.errors import ConfigSvcError, OutcomeUnknown


class Observer(Protocol):
    """Hears of every write, but for dry runs."""

    def wrote(self, kind: str, outcome: str, seconds: float) -> None:
        """`kind` as releases name it, "none" where no plan was made; `outcome` as the metrics' table lists it."""


class Seen:
    """Tells an observer what became of a write."""

    def __init__(self, observer: Observer | None, clock: Callable[[], float]) -> None:
        self._observer = observer
        self._clock = clock
        self._started = clock()
        self.kind = "none"
        self.outcome = ""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        match error:
            case OutcomeUnknown():
                self.outcome = "unknown"
            case ConfigSvcError(status=status):
                self.outcome = "refused" if status < 500 else "unavailable"
            case BaseException():
                self.outcome = "failed"
        if self._observer and self.outcome:
            self._observer.wrote(self.kind, self.outcome, self._clock() - self._started)
