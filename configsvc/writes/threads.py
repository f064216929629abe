"""Work on many keys or large values, in a thread, so that reads go on meanwhile."""

import asyncio
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from configsvc.core.release import Written

MUCH = 500
"""From so many keys on, work takes more than a few milliseconds."""
KEY_BYTES = 1024
"""So many bytes of values take as long as a key."""

P = ParamSpec("P")
T = TypeVar("T")


def weight(values: Iterable[bytes | None]) -> int:
    """How much work values are, counted in keys."""
    return sum(1 + len(value or b"") // KEY_BYTES for value in values)


def weight_of(content: Iterable[Written]) -> int:
    """The same of what a release writes."""
    return weight(raw for record in content for raw in (record.old, record.new))


async def off_loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Work out something pure; where `size`, counted in keys, is much, in a thread."""
    if size < MUCH:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
