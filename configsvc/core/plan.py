"""Plans: what a command would do to a scope as it is, key by key, and everything that stands in its way.

`plan` is the only place that decides what a write changes, who wins where two sources want different things, and what
becomes of pending overrides. Pure: the same command, view and guards give the same plan; a dry run shows it, and the
writer applies it under guards on everything that it was made from.

Overrides (an emergency, a single change, a deletion, a value put by hand): once a scope was deployed to, such a value
is never overwritten in silence. A deploy that wants another value is blocked until it says `keep` or `discard`; one
that wants the same settles it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

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
from configsvc.core.guards import Guards
from configsvc.core.model import Head, Scope, Unreadable, canonical, decode_entry, encode_entry, overrides_prefix
from configsvc.core.release import DEPLOYING, MAX_NAMES, Kind, Label, Manifest, Override, Written, encode_record
from configsvc.errors import ConfigSvcError, Conflict, NotFound, Unprocessable

_UNGUARDED: frozenset[str] = frozenset({"expiry", "repair", "rollback"})
"""Kinds whose outcome was a state of the scope before: it was looked at then."""


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


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly what a command would do to a scope, in the order of keys.

    `head` and `manifest` are those after it (the manifest still without its content), `records` what changes beside the
    values, by etcd key. `label`, where there is one, gets that meaning. `blocked` has every problem that keeps it from
    being applied, `digest` names it. Where it is `unchanged`, nothing is written but the label.
    """

    scope: Scope
    kind: Kind
    base: int
    head: Head
    manifest: Manifest
    steps: tuple[Step, ...] = ()
    records: tuple[Written, ...] = ()
    label: Label | None = None
    warnings: tuple[str, ...] = ()
    blocked: tuple[ConfigSvcError, ...] = ()
    unchanged: bool = False
    digest: str = ""

    @property
    def number(self) -> int:
        """The number that the release would have."""
        return self.manifest.number

    def content(self) -> list[Written]:
        """What the release keeps: the steps, then the records beside the values."""
        return [*(Written(step.key, step.old, step.new) for step in self.steps), *self.records]

    def changes(self) -> list[dict[str, Any]]:
        """The changed keys as the answer tells them; `old` and `new` are absent where there is no (readable) value."""
        return [change_of(step.key, step.old, step.new) for step in self.steps if step.writes]


def change_of(key: str, old: bytes | None, new: bytes | None) -> dict[str, Any]:
    """One changed key, by its stored bytes, as answers tell it."""
    change: dict[str, Any] = {"key": key, "op": "delete" if new is None else "set"}
    for name, raw in (("old", old), ("new", new)):
        value = value_of(raw)
        if value is not None:
            change[name] = msgspec.Raw(value)
    return change


def value_of(raw: bytes | None) -> bytes | None:
    """The value in an entry's stored bytes, as canonical JSON; None where there is none that can be read."""
    if raw is None:
        return None
    try:
        return canonical(msgspec.json.decode(decode_entry(raw).value))
    except Unreadable:
        return None


def digest_of(values: Mapping[str, bytes]) -> str:
    """The digest of a submitted state, whatever the order of its keys."""
    digest = hashlib.sha256()
    for key in sorted(values):
        for part in (key.encode(), values[key]):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()


def plan(command: Command, view: View, about: About, guards: Guards) -> Plan:
    """Plan a command on what is there.

    What stands in the way is listed in the plan, all of it. Raises `NotFound` where there is nothing to delete: such a
    request has no meaning.
    """
    return _finish(command, _draft(command, view, about), view, about, guards)


def _draft(command: Command, view: View, about: About) -> "_Draft":
    match command:
        case Change():
            return _plan_change(command, view, about)
        case Expire():
            return _plan_expiry(command, view)
        case Repair():
            return _plan_repair(view)
        case _:
            return _plan_state(command, view, about)


class _Draft:
    """What planning has found so far: steps by key, and what is pending afterwards."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.number = max(view.release, view.newest) + 1
        self.steps: dict[str, Step] = {}
        self.overrides: dict[str, int] = dict(view.head.overrides) if view.head else {}
        self.records: dict[str, Override] = dict(view.overrides)
        self.drift = view.drift()
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

    def end(self, key: str) -> None:
        self.overrides.pop(key, None)
        self.records.pop(key, None)

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


def _plan_state(command: Deploy | Promote | Rollback | Restore, view: View, about: About) -> _Draft:
    draft = _Draft(view)
    wanted = _wanted(command, view, about)
    pending = draft.overrides.keys() | draft.drift if view.deployed else set()
    policy: Policy = "discard" if isinstance(command, Restore) else command.overrides
    kept: set[str] = set()
    for key in sorted(wanted.keys() | view.entries.keys()):
        want = wanted.get(key)
        if _is(view.raw(key), want):
            draft.adopt(key)
        elif key in pending and policy == "keep":
            kept.add(key)
            _keep(draft, key, want, about)
        else:
            draft.put(key, want.raw if want else None)
            if key in pending and policy == "refuse":
                draft.refused.append(key)
    # A key deleted by hand and not wanted either is in neither of the two.
    for key in sorted(draft.drift - wanted.keys() - view.entries.keys()):
        draft.adopt(key)
    for key in (draft.overrides.keys() | draft.records.keys()) - kept:
        draft.end(key)
    if kept:
        draft.warnings.append(f"kept pending overrides: {_names(kept)}")
    if isinstance(command, Restore):
        for key, record in command.overrides.items():
            # One that is pending here already stays the one that it is: the same restore twice changes nothing.
            there, since = view.overrides.get(key), view.head.overrides.get(key) if view.head else None
            is_same = there is not None and there == msgspec.structs.replace(record, release=there.release)
            number = since if since is not None and is_same else draft.number
            draft.overrides[key] = number
            draft.records[key] = msgspec.structs.replace(record, release=number)
        if command.ended:
            draft.warnings.append(f"overrides whose time passed since the backup have ended: {_names(command.ended)}")
    return draft


def _keep(draft: _Draft, key: str, want: _Wanted | None, about: About) -> None:
    """The override stays as it is and pending; what was deployed now is what comes back when it ends."""
    release = draft.overrides.setdefault(key, draft.number)
    before = draft.records.get(key) or Override(release=release, by=about.by, reason="changed by hand")
    draft.records[key] = msgspec.structs.replace(before, release=release, returns=want.raw if want else None)
    draft.adopt(key)


def _wanted(command: Deploy | Promote | Rollback | Restore, view: View, about: About) -> dict[str, _Wanted]:
    if isinstance(command, Rollback | Restore):
        return {key: _Wanted(raw, None, exact=True) for key, raw in command.entries.items()}
    metadata = {"created_by": about.by, "created_at": about.at}
    if command.approved_by:
        metadata["approved_by"] = command.approved_by
    if isinstance(command, Deploy) and command.git_commit:
        metadata["git_commit"] = command.git_commit
    wanted = {
        key: _Wanted(encode_entry(value, command.version, metadata), value, exact=False)
        for key, value in command.values.items()
    }
    if isinstance(command, Promote):
        for key in command.stays:
            wanted.pop(key, None)
            if (raw := view.raw(key)) is not None:
                wanted[key] = _Wanted(raw, None, exact=True)
    return wanted


def _is(raw: bytes | None, want: _Wanted | None) -> bool:
    if raw is None or want is None:
        return raw is None and want is None
    return raw == want.raw if want.exact else value_of(raw) == want.value


# ---- some keys -------------------------------------------------------------------------------------------------------


def _plan_change(command: Change, view: View, about: About) -> _Draft:
    draft = _Draft(view)
    missing = [key for key in command.delete if key not in view.entries]
    if missing:
        near = sorted(view.entries)[:5]
        raise NotFound(f"nothing is stored under {_names(missing)}", code="key_not_found", keys=missing, near=near)
    metadata = {"created_by": about.by, "created_at": about.at}
    for key in sorted(command.set.keys() | set(command.delete)):
        value = command.set.get(key)
        returns = draft.returns(key)
        new = None if value is None else encode_entry(value, None, metadata)
        if value_of(view.raw(key)) != value or view.raw(key) is None:
            draft.put(key, new)
        else:
            draft.adopt(key)
        deployed = view.deployed > 0
        back = deployed and value == value_of(returns) and (value is None) == (returns is None)
        if back or not (deployed or command.expires_at):
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


def _plan_expiry(command: Expire, view: View) -> _Draft:
    draft = _Draft(view)
    for key, release in sorted(command.keys.items()):
        record = view.overrides.get(key)
        if record is None or record.release != release or record.expires_at is None:
            continue
        if key in draft.drift:
            # Somebody changed it by hand meanwhile: that is an override of its own, and no timer may undo it.
            draft.warnings.append(f"{key} was changed by hand since and stays as it is")
            draft.adopt(key)
            draft.end(key)
            if view.deployed:
                draft.records[key] = msgspec.structs.replace(record, release=draft.number, expires_at=None)
                draft.overrides[key] = draft.number
            continue
        if view.raw(key) != record.returns:
            draft.put(key, record.returns)
        draft.end(key)
    return draft


def _plan_repair(view: View) -> _Draft:
    draft = _Draft(view)
    for key in sorted(draft.drift):
        draft.adopt(key)
    # A release that was given up half way has left records that the head does not know.
    for key, record in view.overrides.items() if view.deployed else ():
        if key in draft.overrides:
            draft.overrides[key] = record.release
        else:
            draft.end(key)
    return draft


# ---- the plan --------------------------------------------------------------------------------------------------------


def _finish(command: Command, draft: _Draft, view: View, about: About, guards: Guards) -> Plan:
    kind = kind_of(command)
    head = view.head or Head()
    steps = tuple(draft.steps.values())
    records = tuple(_records(view, draft.records))
    submitted = _submitted(command)
    same = not steps and not records and draft.overrides == head.overrides and kind != "repair"
    # The first deploy makes a release also where it changes nothing: from then on there is something to override.
    first = kind in DEPLOYING and not view.deployed and bool(view.entries)
    unchanged = same and not first
    version = None if isinstance(command, Change | Expire | Repair) else command.version
    warnings = [*draft.warnings, *_warnings(view, steps)]
    manifest = Manifest(
        number=draft.number,
        id=about.id,
        content="",
        kind=kind,
        version=version,
        digest=submitted,
        by=about.by,
        at=about.at,
        reason=about.reason,
        base=view.release,
        source=_source(command, about),
        keys=[step.key for step in steps if step.writes][:MAX_NAMES],
        count=sum(step.writes for step in steps),
        warnings=warnings,
    )
    after = msgspec.structs.replace(
        head,
        release=draft.number,
        version=version,
        id=about.id,
        applying=None,
        overrides=draft.overrides,
        deployed=draft.number if kind in DEPLOYING else head.deployed,
    )
    label = None
    if version is not None and submitted is not None:
        label = Label(release=view.release if unchanged else draft.number, digest=submitted)
    found = Plan(
        scope=view.scope,
        kind=kind,
        base=view.release,
        head=head if unchanged else after,
        manifest=manifest,
        steps=steps,
        records=records,
        label=label if label != view.label else None,
        warnings=tuple(warnings),
        unchanged=unchanged,
        digest=_digest(kind, view, steps, records, submitted),
    )
    blocked = _blocked(command, draft, found, view, about, guards)
    return msgspec.structs.replace(found, blocked=tuple(blocked))


def _blocked(
    command: Command, draft: _Draft, found: Plan, view: View, about: About, guards: Guards
) -> Iterable[ConfigSvcError]:
    if about.base_release is not None and about.base_release != view.release:
        yield Conflict(
            f"the scope is at release {view.release}, not at {about.base_release}",
            code="base_moved",
            base_release=about.base_release,
            release=view.release,
        )
    if about.digest is not None and about.digest != found.digest:
        yield Conflict(
            "the plan with that digest is not what would be done now; look at the new one",
            code="plan_changed",
            digest=found.digest,
            release=view.release,
        )
    frozen = view.head.frozen if view.head else None
    if frozen and found.kind in ("deploy", "promote") and frozen.until > about.at:
        yield Conflict(
            f"{view.scope} is frozen until {frozen.until}: {frozen.reason}",
            code="scope_frozen",
            until=frozen.until,
            reason=frozen.reason,
            by=frozen.by,
        )
    if view.label and found.manifest.digest != view.label.digest:
        yield Conflict(
            f"version {found.manifest.version} stands for release {view.label.release} with another state; "
            "a label may come again only with the same state",
            code="version_exists",
            release=view.label.release,
        )
    if draft.refused:
        yield Conflict(
            f"pending overrides would be changed: {_names(draft.refused)}; "
            "say overrides=keep to leave them, overrides=discard to replace them",
            code="override_pending",
            overrides=[_override(view, key) for key in draft.refused],
        )
    if isinstance(command, Promote):
        yield from _unfit(command, view, about)
    if not found.unchanged and not about.force and found.kind not in _UNGUARDED:
        before = {key: stored.raw for key, stored in view.entries.items()}
        after = dict(before)
        for step in found.steps:
            if step.new is None:
                after.pop(step.key, None)
            else:
                after[step.key] = step.new
        if problems := guards.problems(before, after, found.kind, view.recent):
            yield Unprocessable(
                f"{'; '.join(problems)}. Say force=<reason> if that is meant",
                code="blast_radius",
                problems=problems,
            )


def _unfit(command: Promote, view: View, about: About) -> Iterable[ConfigSvcError]:
    lacking = sorted(key for key in command.stays & command.values.keys() if key not in view.entries)
    problems = [f"{key} differs by environment and is not set in {view.scope}; set it first" for key in lacking]
    if not about.force:
        problems += command.doubts
    if problems:
        yield Unprocessable("; ".join(problems), code="source_unfit", problems=problems)


def _override(view: View, key: str) -> dict[str, Any]:
    """A pending override for people: who set it, and the value that would be lost."""
    record = view.overrides.get(key)
    found: dict[str, Any] = {
        "key": key,
        "release": view.head.overrides.get(key) if view.head else None,
        "by": record.by if record else "changed by hand",
        "reason": record.reason if record else None,
    }
    if (value := value_of(view.raw(key))) is not None:
        found["value"] = msgspec.Raw(value)
    return found


def kind_of(command: Command) -> Kind:
    """How releases name what a command does."""
    match command:
        case Deploy():
            return "deploy"
        case Promote():
            return "promote"
        case Rollback():
            return "rollback"
        case Restore():
            return "restore"
        case Change():
            return command.kind
        case Expire():
            return "expiry"
        case Repair():
            return "repair"


def _submitted(command: Command) -> str | None:
    if isinstance(command, Deploy | Promote):
        return digest_of(command.values)
    return command.digest if isinstance(command, Rollback | Restore) else None


def _source(command: Command, about: About) -> dict[str, str]:
    found = {"force": about.force}
    match command:
        case Deploy():
            found |= {"git_commit": command.git_commit, "approved_by": command.approved_by}
        case Promote():
            found |= {
                "from": command.source,
                "release": str(command.release),
                "approved_by": command.approved_by,
            }
        case Rollback():
            found["target"] = str(command.target)
        case Restore():
            found["from"] = command.source
    return {name: value for name, value in found.items() if value}


def _records(view: View, after: Mapping[str, Override]) -> Iterable[Written]:
    """What becomes of the records of pending overrides, by whole etcd key."""
    prefix = overrides_prefix(view.scope).decode()
    for key in sorted(view.overrides.keys() | after.keys()):
        old, new = view.overrides.get(key), after.get(key)
        if old != new:
            yield Written(prefix + key, encode_record(old) if old else None, encode_record(new) if new else None)


def _warnings(view: View, steps: Iterable[Step]) -> list[str]:
    found = []
    if view.expected is None:
        found.append("the scope's history cannot be read: what was changed by hand is not known")
    broken = [step.key for step in steps if step.writes and step.old is not None and value_of(step.old) is None]
    if broken:
        found.append(f"what was stored was no readable entry: {_names(broken)}")
    return found


def _digest(kind: Kind, view: View, steps: Iterable[Step], records: Iterable[Written], submitted: str | None) -> str:
    """Names a plan by what it starts from and what it does; not by when, or in whose name.

    The release that it starts from stands in front, so that a refusal can say what happened since.
    """
    changes = [[step.key, _hash(step.old), _hash(value_of(step.new) or step.new)] for step in steps]
    others = sorted({record.key for record in records})
    text = msgspec.json.encode([kind, view.scope, view.release, submitted, changes, others])
    return f"{view.release}-{hashlib.sha256(text).hexdigest()[:32]}"


def base_of(digest: str) -> int | None:
    """The release that the plan with this digest was made on; None for what is no digest of a plan."""
    number, dash, rest = digest.partition("-")
    return int(number) if dash and rest and number.isascii() and number.isdigit() and len(number) < 19 else None


def _hash(raw: bytes | None) -> str | None:
    return None if raw is None else hashlib.sha256(raw).hexdigest()


def _names(keys: Iterable[str]) -> str:
    names = sorted(keys)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
