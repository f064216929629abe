"""What a command would change, key by key: who wins where two sources want different things, and what becomes of
pending overrides. The first half of a plan (`plan.py`), before anything that might stand in its way. Pure.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from configsvc.core.commands import (
    About,
    Change,
    Command,
    Deploy,
    Expire,
    Policy,
    Promote,
    Repair,
    Restore,
    Rollback,
    Stored,
    View,
)
from configsvc.core.model import MAX_HEAD_BYTES, encode_entry, value_of
from configsvc.core.near import near
from configsvc.core.release import Override
from configsvc.errors import ConfigSvcError, NotFound

BY_HAND = "changed by hand"
_HEAD_COST = 32
"""Bytes that a head has for an override beside its key, at most."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One key: its stored bytes before and after, and the revision of those before (0: there are none).

    With equal bytes the entry is left alone: a value put by hand becomes part of the history as it is.
    """

    key: str
    old: bytes | None
    new: bytes | None
    mod_revision: int = 0

    @property
    def writes(self) -> bool:
        """Whether the entry is written at all."""
        return self.old != self.new


def draft(command: Command, view: View, about: About) -> "Draft":
    """Work out what a command would change. Raises `NotFound` where there is nothing to delete."""
    match command:
        case Change():
            return _plan_change(command, view, about)
        case Expire():
            return _plan_expiry(command, view, about)
        case Repair():
            return _plan_repair(view, about)
        case _:
            return _plan_state(command, view, about)


class Draft:
    """What planning has found so far: steps by key, and what is pending afterwards."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.number = max(view.release, view.newest) + 1
        self.steps: dict[str, Step] = {}
        self.overrides: dict[str, int] = dict(view.overridden)
        self.records: dict[str, Override] = dict(view.overrides)
        self.drift = view.drift()
        self.kept: set[str] = set()
        self.refused: list[str] = []
        self.warnings: list[str] = []
        self.blocked: list[ConfigSvcError] = []

    def put(self, key: str, new: bytes | None) -> None:
        stored = self.view.entries.get(key)
        old, mod_revision = stored or Stored(None, 0)  # type: ignore[arg-type]  # an absent key
        self.steps[key] = Step(key=key, old=old, new=new, mod_revision=mod_revision)

    def adopt(self, key: str) -> None:
        """Make a value that was put by hand part of the history."""
        if key in self.drift:
            self.put(key, self.view.raw(key))

    def take_over(self, key: str, by: str) -> None:
        """The same, also where it was put over an override: no timer may undo it, for that was another value's."""
        self.adopt(key)
        record = self.records.get(key)
        if key in self.drift and record is not None:
            self.end(key)
            if self.view.deployed:
                self.records[key] = Override(release=self.number, returns=record.returns, by=by, reason=BY_HAND)
                self.overrides[key] = self.number

    def end(self, key: str) -> None:
        self.overrides.pop(key, None)
        self.records.pop(key, None)

    def pending(self) -> set[str]:
        """The keys that no deploy may change unasked. A hand that put what is deployed has left nothing to protect."""
        if not self.view.deployed:
            return set()
        deployed = self.view.expected or {}
        by_hand = {key for key in self.drift if not have_same_value(self.view.raw(key), deployed.get(key))}
        return self.overrides.keys() | by_hand

    def returns(self, key: str) -> bytes | None:
        """What was deployed under a key that may be overridden now."""
        if key in self.records:
            return self.records[key].returns
        if self.view.expected is None or not self.view.deployed:
            return self.view.raw(key)
        return self.view.expected.get(key)


# ---- the whole desired state -----------------------------------------------------------------------------------------


class _Wanted(NamedTuple):
    """What a key should be. Without `exact`, an entry with the same value is left as it is."""

    raw: bytes
    value: bytes | None
    exact: bool


def _plan_state(command: Deploy | Promote | Rollback | Restore, view: View, about: About) -> Draft:
    draft = Draft(view)
    wanted = _wanted(command, about)
    stays = command.stays if isinstance(command, Promote) else frozenset()
    pending = draft.pending()
    policy: Policy = "discard" if isinstance(command, Restore) else command.overrides
    # A key deleted by hand and not wanted either is in neither of the first two.
    for key in sorted(wanted.keys() | view.entries.keys() | draft.drift):
        raw, want = view.raw(key), wanted.get(key)
        if key in stays and (key in pending or key in draft.records):
            _keep(draft, key, draft.returns(key), about)
        elif key in stays or _is(raw, want):
            draft.adopt(key)
        elif key not in pending or (want and have_same_value(raw, want.raw)):
            draft.put(key, want.raw if want else None)
        elif policy == "keep":
            _keep(draft, key, _under(draft.records.get(key), want), about)
        else:
            draft.put(key, want.raw if want else None)
            if policy == "refuse":
                draft.refused.append(key)
    for key in (draft.overrides.keys() | draft.records.keys()) - draft.kept:
        draft.end(key)
    if draft.kept:
        draft.warnings.append(f"kept pending overrides: {names(draft.kept)}")
    if isinstance(command, Rollback) and (back := set(command.kept) - draft.kept):
        draft.warnings.append(
            f"release {command.target} had kept pending overrides; what was deployed under them comes back: "
            f"{names(back)}"
        )
    if isinstance(command, Restore):
        _put_back(draft, command)
    return draft


def _put_back(draft: Draft, command: Restore) -> None:
    """What was pending in a backup is pending again."""
    view = draft.view
    for key, record in command.overrides.items():
        # One that is pending here already stays the one that it is: the same restore twice changes nothing.
        there, since = view.overrides.get(key), view.overridden.get(key)
        is_same = there is not None and there == msgspec.structs.replace(record, release=there.release)
        number = since if since is not None and is_same else draft.number
        draft.overrides[key] = number
        draft.records[key] = msgspec.structs.replace(record, release=number)
        draft.kept.add(key)
    if command.ended:
        draft.warnings.append(f"overrides whose time passed since the backup have ended: {names(command.ended)}")


def _keep(draft: Draft, key: str, returns: bytes | None, about: About) -> None:
    """The override stays as it is and pending; `returns` is what comes back when it ends."""
    draft.kept.add(key)
    draft.take_over(key, about.by)
    release = draft.overrides.setdefault(key, draft.number)
    record = draft.records.get(key) or Override(release=release, by=about.by, reason=BY_HAND)
    draft.records[key] = msgspec.structs.replace(record, release=release, returns=returns)


def _under(record: Override | None, want: _Wanted | None) -> bytes | None:
    """What is deployed under an override that is kept.

    Where that is so already its entry stays: the same deploy again, later, is no release.
    """
    if record is not None and _is(record.returns, want):
        return record.returns
    return want.raw if want else None


def _wanted(command: Deploy | Promote | Rollback | Restore, about: About) -> dict[str, _Wanted]:
    if isinstance(command, Rollback | Restore):
        return {key: _Wanted(raw, None, exact=True) for key, raw in command.entries.items()}
    metadata = {"created_by": about.by, "created_at": about.at}
    if command.approved_by:
        metadata["approved_by"] = command.approved_by
    if isinstance(command, Deploy) and command.git_commit:
        metadata["git_commit"] = command.git_commit
    return {
        key: _Wanted(encode_entry(value, command.version, metadata), value, exact=False)
        for key, value in command.values.items()
    }


def _is(raw: bytes | None, want: _Wanted | None) -> bool:
    if raw is None or want is None:
        return raw is None and want is None
    return raw == want.raw if want.exact else value_of(raw) == want.value


# ---- some keys -------------------------------------------------------------------------------------------------------


def _plan_change(command: Change, view: View, about: About) -> Draft:
    draft = Draft(view)
    missing = [key for key in command.delete if key not in view.entries]
    if missing:
        alike = near(missing[0], view.entries)
        raise NotFound(f"nothing is stored under {names(missing)}", code="key_not_found", keys=missing, near=alike)
    if command.kind == "emergency" and len(command.set) == 1:
        (only,) = command.set
        # A misspelt key would be a release that helps nobody.
        if only not in view.entries and (alike := near(only, view.entries)):
            draft.warnings.append(f"{only} was not there before; did you mean {', '.join(alike)}?")
    metadata = {"created_by": about.by, "created_at": about.at}
    for key in sorted(command.set.keys() | set(command.delete)):
        value = command.set.get(key)
        returns = draft.returns(key)
        new = None if value is None else encode_entry(value, None, metadata)
        # An entry that does not read has no value, and is there.
        raw = view.raw(key)
        there = raw is None if value is None else raw is not None and value_of(raw) == value
        if there:
            draft.adopt(key)
        else:
            draft.put(key, new)
        deployed = view.deployed > 0
        back = deployed and value == value_of(returns) and (value is None) == (returns is None)
        if back or not (deployed or command.expires_at):
            if there and command.expires_at:
                draft.warnings.append(f"{key} is that already, as it was deployed: there is nothing to end, or to hold")
            draft.end(key)
            continue
        before = draft.records.get(key)
        if before and key not in draft.steps and before.expires_at == command.expires_at:
            continue
        draft.records[key] = Override(
            release=draft.number, returns=returns, expires_at=command.expires_at, by=about.by, reason=about.reason
        )
        if deployed:
            draft.overrides[key] = draft.number
    return draft


def _plan_expiry(command: Expire, view: View, about: About) -> Draft:
    draft = Draft(view)
    for key, release in sorted(command.keys.items()):
        record = view.overrides.get(key)
        if record is None or record.release != release or record.expires_at is None:
            continue
        if key in draft.drift and not have_same_value(view.raw(key), record.returns):
            # Somebody changed it by hand meanwhile: that is an override of its own, and no timer may undo it.
            draft.warnings.append(f"{key} was changed by hand since and stays as it is")
            draft.take_over(key, about.by)
            continue
        if view.raw(key) != record.returns:
            draft.put(key, record.returns)
        else:
            draft.adopt(key)
        draft.end(key)
    return draft


def _plan_repair(view: View, about: About) -> Draft:
    draft = Draft(view)
    pending = draft.pending()
    if sum(len(key.encode()) + _HEAD_COST for key in pending) + len(view.head_raw or b"") > MAX_HEAD_BYTES:
        draft.warnings.append(f"{len(pending)} keys that were changed by hand count as deployed from now on")
        pending = set()
    for key in sorted(draft.drift):
        if key in pending:
            _keep(draft, key, draft.returns(key), about)
        else:
            draft.take_over(key, about.by)
    # A release that was given up half way has left records that the head does not know, or taken some away.
    known = draft.overrides.keys() & draft.records.keys()
    ended = (draft.overrides.keys() | draft.records.keys()) - known if view.deployed else set()
    for key in known:
        draft.overrides[key] = draft.records[key].release
    for key in ended:
        draft.end(key)
    if ended:
        draft.warnings.append(f"pending overrides that were begun or ended half way have ended: {names(ended)}")
    return draft


def have_same_value(one: bytes | None, other: bytes | None) -> bool:
    """Whether two entries have one value; what does not read has none, and neither has what is not there."""
    value = value_of(one)
    return value is not None and value == value_of(other)


def names(keys: Iterable[str], limit: int = 5) -> str:
    """A few keys for a sentence, and how many more there are."""
    found = sorted(keys)
    return ", ".join(found[:limit]) + (f" and {len(found) - limit} more" if len(found) > limit else "")
