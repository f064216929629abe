"""Says in the log, once, what in etcd cannot be read, and when it can again. Names keys, never values."""

from collections.abc import Iterable

import structlog

from configsvc.core.model import Scope
from configsvc.core.records import Problem
from configsvc.core.replica import Replica

MAX_LINES = 20
"""One look names at most so many keys; the rest are counted."""
MAX_NAMES = 5
"""The same for keys outside the format, in one line; of each at most MAX_NAME_BYTES."""
MAX_NAME_BYTES = 200

log = structlog.get_logger()


class Complaints:
    """What was said of a replica so far. `look` compares that with what is so now."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._scopes: dict[Scope, dict[str, Problem]] = {}
        self._schemas: dict[str, Problem] = {}
        self._outside: set[bytes] = set()
        self._oddities = 0

    def look_at_all(self) -> None:
        """Look at everything: after a listing."""
        self.look(self._scopes.keys() | self._replica.scopes.keys())

    def look(self, scopes: Iterable[Scope]) -> None:
        """Look at these scopes, at the schemas, and at keys outside the format."""
        lines = 0
        for scope in sorted(scopes):
            state = self._replica.scopes.get(scope)
            found = dict(state.unreadable) if state else {}
            if state and state.head_problem:
                found["_meta/head"] = state.head_problem
            lines += _compare(self._scopes.pop(scope, {}), found, lines, str(scope))
            if found:
                self._scopes[scope] = found
        schemas = dict(self._replica.schema_problems)
        lines += _compare(self._schemas, schemas, lines, "schema")
        self._schemas = schemas
        if self._oddities != self._replica.oddities:
            self._oddities = self._replica.oddities
            self._look_outside()
        if lines > MAX_LINES:
            log.warning("more keys cannot be read", count=lines - MAX_LINES)

    def _look_outside(self) -> None:
        outside = set(self._replica.unaddressable)
        if new := outside - self._outside:
            named = [key[:MAX_NAME_BYTES].decode("utf-8", "backslashreplace") for key in sorted(new)[:MAX_NAMES]]
            log.warning("keys outside the format are passed over", count=len(new), keys=named)
        self._outside = outside


def _compare(before: dict[str, Problem], now: dict[str, Problem], lines: int, where: str) -> int:
    new = [(key, problem) for key, problem in sorted(now.items()) if before.get(key) != problem]
    for key, problem in new[: max(0, MAX_LINES - lines)]:
        log.warning(
            "a stored key cannot be read; its last readable value is served, if there was one",
            where=where,
            key=key,
            revision=problem.revision,
            reason=problem.reason,
        )
    for key in sorted(before.keys() - now.keys())[:MAX_LINES]:
        log.info("a stored key can be read again, or is gone", where=where, key=key)
    return len(new)
