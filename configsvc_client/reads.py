"""How reads are answered from a state, and counted.

Owns the order of precedence (stored, the schema's default, the caller's default, an error), what happens to a value
that a typed read does not accept, and the counters. Which state it is, `state.py` says. May be used from any thread:
there is no lock, because a state is immutable and what is logged twice by two threads does no harm.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from configsvc_client import structs, values, view
from configsvc_client.errors import ConfigKeyError, ConfigValueError
from configsvc_client.session import Session
from configsvc_client.snapshot import Snapshot
from configsvc_client.view import MISSING, copy_value

logger = logging.getLogger("configsvc_client")

T = TypeVar("T")

_MAX_SAID = 1024
"""Unfit values and empty prefixes that are remembered as logged."""


class Tally:
    """A number of reads, beside the session that answers them: a read adds to it without asking which one it is."""

    __slots__ = ("n", "session")

    session: Session
    """Set once it is proved; before that nobody looks at it here."""

    def __init__(self) -> None:
        self.n = 0


class Reads(ABC):
    """Answers from the session's snapshot. Its heir says when another one, or none, is to be taken."""

    session: Session

    def __init__(self) -> None:
        self.invalid_values = 0
        self._said: dict[tuple[object, ...], object] = {}
        self.serving: Tally | None = None
        """Where reads are counted once the session is proved; then there is nothing left to ask before a look-up."""
        self.forget_reads()

    def forget_reads(self) -> None:
        """Count from nothing."""
        self.invalid_values = 0
        self._live, self._memory, self._disk, self._default = Tally(), Tally(), Tally(), Tally()
        self._proved = self._live
        if self.serving is not None:
            self.serve(self.session, is_live=True)

    @property
    def reads(self) -> dict[str, int]:
        """How many reads were answered from where."""
        return {
            "live": self._live.n,
            "memory": self._memory.n,
            "disk": self._disk.n,
            "default": self._default.n,
        }

    def serve(self, session: Session, *, is_live: bool) -> None:
        """Answer from a session that is proved. Called again by whoever notices that it is live, or not any more."""
        self._live.session = self._memory.session = session
        self._proved = self._live if is_live else self._memory
        self.serving = self._proved

    @abstractmethod
    def _answering(self) -> Snapshot | None:
        """The state that a read is answered from. Sets `serving` once it may be."""

    @abstractmethod
    def why_nothing(self) -> str:
        """A sentence for an error: why there is no state."""

    def _count(self) -> None:
        tally = self.serving or self._disk
        tally.n += 1

    # ---- one value ----------------------------------------------------------------------------------------------

    def read(self, key: str, default: Any) -> Any:
        """Answer from the state as it is now; raises `ConfigKeyError` only."""
        value = self._find(key)
        if value is MISSING:
            return self._absent(key, default)
        self._count()
        return copy_value(value)

    def read_as(self, key: str, default: Any, rule: Callable[..., Any], *more: Any) -> Any:
        """Answer with what a rule of `values.py` makes of the value; raises `ConfigKeyError` or `ConfigValueError`."""
        value = self._find(key)
        if value is MISSING:
            return self._absent(key, default)
        try:
            answer = rule(value, *more)
        except values.Unfit as unfit:
            return self._unfit(key, value, default, unfit.wanted)
        self._count()
        return answer

    def _find(self, key: str) -> Any:
        """The shared value itself, `MISSING` where there is none."""
        serving = self.serving
        snapshot = self._answering() if serving is None else serving.session.snapshot
        entry = None if snapshot is None else snapshot.entries.get(key)
        return MISSING if entry is None else entry.value

    def _absent(self, key: str, default: Any) -> Any:
        # Asked here, where nothing was found, so that reads which find something pay nothing for it.
        if not isinstance(key, str):
            raise TypeError(f"a key is a string, not {key!r}")
        if default is not MISSING:
            self._default.n += 1
            return default
        snapshot = self._answering()
        if snapshot is None:
            raise ConfigKeyError(key, hint=self.why_nothing())
        hint = "" if snapshot.entries else f"{snapshot.namespace}/{snapshot.environment} is empty"
        raise ConfigKeyError(key, snapshot.entries, hint=hint)

    def _unfit(self, key: str, value: Any, default: Any, wanted: str) -> Any:
        problem = f"stored is {values.shown(value)}; wanted {wanted}"
        if default is MISSING:
            raise ConfigValueError({key: problem})
        self._default.n += 1
        self.invalid_values += 1
        if self._is_news((key, wanted, values.fingerprint(value))):
            logger.warning("%r does not fit, its reader's default is used: %s", key, problem)
        return default

    def _is_news(self, what: tuple[object, ...]) -> bool:
        """Whether this is to be logged: it was not, or not of late."""
        mark = object()
        if self._said.setdefault(what, mark) is not mark:
            return False
        for oldest in list(self._said)[:-_MAX_SAID]:
            self._said.pop(oldest, None)
        return True

    # ---- many values --------------------------------------------------------------------------------------------

    def read_all(self) -> dict[str, Any]:
        """All values as they are now; nothing where there is no state."""
        snapshot = self._answering()
        if snapshot is None:
            return {}
        self._count()
        return view.values(snapshot)

    def read_struct(self, wanted: type[T], prefix: str) -> T:
        """A struct out of one state; raises `ConfigValueError`. Counts as one read."""
        snapshot = self._answering()
        shared = {} if snapshot is None else {key: entry.value for key, entry in snapshot.entries.items()}
        structs.check(wanted, prefix)
        stored = structs.stored_at(shared, prefix)
        made = structs.as_struct(
            stored, wanted, self.why_nothing if snapshot is None else partial(structs.nothing_below, stored, shared)
        )
        if stored.path and stored.is_empty and shared and self._is_news((stored.path, wanted)):
            logger.warning(
                "%s: all of %s are defaults", structs.nothing_below(stored, shared), values.type_name(wanted)
            )
        if snapshot is None:
            self._default.n += 1
        else:
            self._count()
        return made
