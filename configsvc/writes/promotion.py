"""What was deployed to one environment as the desired state of another.

Copies what was deployed and not what overrides it. Whether the source is fit is told as doubts, which `force` lifts:
it should not have been changed since its release, and have been live for a while.
"""

from collections.abc import Iterable, Set
from datetime import datetime
from fnmatch import fnmatchcase

import msgspec

from configsvc.core.commands import Policy, Promote, View
from configsvc.core.model import Scope, value_of
from configsvc.core.release import pending
from configsvc.errors import NotFound, Unprocessable
from configsvc.writes.reading import Reading
from configsvc.writes.threads import off_loop


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What an environment has to offer: its deployed values at a release, and what speaks against them."""

    scope: Scope
    release: int
    values: dict[str, bytes]
    doubts: tuple[str, ...]


async def offered(reading: Reading, scope: Scope, *, min_age_s: float, now: datetime) -> Source:
    """What may be promoted from `scope`. Raises `NotFound` where nothing was ever released there, `EtcdError` kinds."""
    view = await reading.view(scope)
    if not view.release:
        raise NotFound(f"nothing was released to {scope} yet; deploy there first", code="release_not_found")
    if view.expected is None:
        raise Unprocessable(f"the history of {scope} cannot be read; repair it first", code="source_unfit")
    found = await reading.manifest(scope, view.deployed or view.release)
    return Source(
        scope=scope,
        release=view.release,
        values=await off_loop(len(view.entries), _deployed, view),
        doubts=tuple(_doubts(view, found.manifest.at if found else "", min_age_s, now)),
    )


def _deployed(view: View) -> dict[str, bytes]:
    raws = dict(view.expected or {})
    for key in _pending(view):
        returns = view.overrides[key].returns if key in view.overrides else raws.get(key)
        raws.pop(key, None)
        if returns is not None:
            raws[key] = returns
    return {key: value for key, raw in raws.items() if (value := value_of(raw)) is not None}


def _pending(view: View) -> Set[str]:
    return pending(view.overridden, view.overrides).keys()


def _doubts(view: View, at: str, min_age_s: float, now: datetime) -> Iterable[str]:
    changed = sorted(view.drift() | _pending(view))
    if changed:
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        yield f"{view.scope} was changed since it was deployed to: {shown}; what was deployed is promoted"
    if view.head is not None and view.head.applying is not None:
        yield f"a release is being applied to {view.scope}"
    try:
        age_s = (now - datetime.fromisoformat(at)).total_seconds()
    except (ValueError, TypeError):
        # A record that somebody has written, perhaps without an offset.
        return
    if age_s < min_age_s:
        yield f"{view.scope} has been live for {age_s:.0f} s, {min_age_s:g} are asked for"


def promote(source: Source, view: View, *, version: str | None, overrides: Policy, approved_by: str | None) -> Promote:
    """The command: keys that a pattern of the target's own list names stay as they are there."""
    patterns = view.head.own if view.head else []
    keys = source.values.keys() | view.entries.keys()
    return Promote(
        values=source.values,
        source=source.scope.environment,
        release=source.release,
        version=version,
        overrides=overrides,
        stays=frozenset(key for key in keys if any(fnmatchcase(key, pattern) for pattern in patterns)),
        doubts=source.doubts,
        approved_by=approved_by,
    )
