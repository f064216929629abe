"""How reads are answered from a state, and counted.

Owns the order of precedence (stored, the schema's default, the caller's default, an error), what happens to a value
that a typed read does not accept, and the counters. Which state it is, `state.py` says. May be used from any thread:
there is no lock, because a state is immutable and what is logged twice by two threads does no harm.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

from configsvc_client import structs, values, view
from configsvc_client.errors import ConfigKeyError, ConfigValueError
from configsvc_client.lookup import IS_ATOMIC, NOTHING, STATE, Lookup, Tally
from configsvc_client.snapshot import Snapshot
from configsvc_client.view import MISSING, copy_value

logger = logging.getLogger("configsvc_client")

T = TypeVar("T")

_MAX_SAID = 1024
"""Unfit values and empty prefixes that are remembered as logged."""


class Reads(ABC):
    """Answers from a state. Its heir says from which one, or none."""

    __slots__ = ("__dict__", "__weakref__", "each")

    each: "repeat[dict[str, Any]]"
    """What look-ups go through: hands out the dictionary and counts for one source, or hands out an empty one."""

    def __init__(self) -> None:
        self.invalid_values = 0
        self._said: dict[tuple[object, ...], object] = {}
        self.lookup = Lookup()
        self.each = NOTHING
        self.forget_reads()

    def forget_reads(self) -> None:
        """Count from nothing."""
        self.invalid_values = 0
        values = self.lookup.values
        self._live, self._memory, self._disk, self._default = (Tally(values) for _ in range(4))
        self._proved = self._live
        if self.each is not NOTHING:
            self.each = self._proved.each

    @property
    def reads(self) -> dict[str, int]:
        """How many reads were answered from where."""
        return {
            "live": self._live.total,
            "memory": self._memory.total,
            "disk": self._disk.total,
            "default": self._default.total,
        }

    def serve(self, *, is_live: bool) -> None:
        """Answer by look-ups: the state is proved, and shown. Called again where it is live, or not any more."""
        self._proved = self._live if is_live else self._memory
        if IS_ATOMIC:
            self.each = self._proved.each

    def unserve(self) -> None:
        """Let every read ask first."""
        self.each = NOTHING

    def missed(self, each: "repeat[dict[str, Any]]") -> None:
        """Take back what a look-up has counted that did not answer the read."""
        if each is self._live.each:
            self._live.n -= 1
        elif each is self._memory.each:
            self._memory.n -= 1

    @abstractmethod
    def _answering(self) -> Snapshot | None:
        """The state that a read is answered from which is no look-up."""

    @abstractmethod
    def why_nothing(self) -> str:
        """A sentence for an error: why there is no state."""

    def _source(self) -> Tally:
        """Where such a read is counted."""
        return self._disk

    # ---- one value ----------------------------------------------------------------------------------------------

    def read(self, key: str, default: Any) -> Any:
        """Answer what is no look-up from the state as it is now; raises `ConfigKeyError` only."""
        snapshot = self._answering() if self.each is NOTHING else self.lookup.values[STATE]
        try:
            entry = None if snapshot is None else snapshot.entries.get(key)
        except TypeError:
            # What cannot be looked up is no string; that is said below.
            entry = None
        if entry is None:
            return self._absent(key, default)
        self._source().n += 1
        return copy_value(entry.value)

    def read_as(self, key: str, default: Any, rule: Callable[..., Any], *more: Any) -> Any:
        """Answer with what a rule of `values.py` makes of the value; raises `ConfigKeyError` or `ConfigValueError`."""
        value = self._find(key)
        if value is MISSING:
            return self._absent(key, default)
        try:
            answer = rule(value, *more)
        except values.Unfit as unfit:
            return self._unfit(key, value, default, unfit.wanted)
        self._source().n += 1
        return answer

    def _find(self, key: str) -> Any:
        """The shared value itself, `MISSING` where there is none."""
        try:
            if self.each is not NOTHING and (value := self.lookup.values.get(key)) is not None:
                return value
            snapshot = self._answering()
            entry = None if snapshot is None else snapshot.entries.get(key)
        except TypeError:
            return MISSING
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
        self._source().n += 1
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
            self._source().n += 1
        return made
