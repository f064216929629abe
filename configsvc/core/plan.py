"""Plans: what a command would do to a scope as it is, key by key, and everything that stands in its way.

`plan` is the only place that decides what a write changes, who wins where two sources want different things, and what
becomes of pending overrides. Pure: the same command, view and guards give the same plan; a dry run shows it, and the
writer applies it under guards on everything that it was made from.

Overrides (an emergency, a single change, a deletion, a value put by hand): once a scope was deployed to, such a value
is never overwritten in silence. A deploy that wants another value is blocked until it says `keep` or `discard`; one
that wants the same settles it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Set
from typing import Any

import msgspec

from configsvc.core.commands import (
    About,
    Change,
    Command,
    Deploy,
    Expire,
    Promote,
    Repair,
    Restore,
    Rollback,
    View,
)
from configsvc.core.draft import BY_HAND, Draft, Step, draft, have_same_value, names
from configsvc.core.guards import Guards
from configsvc.core.model import MAX_HEAD_BYTES, Head, Scope, encode_head, overrides_prefix, value_of
from configsvc.core.release import (
    DEPLOYING,
    MAX_NAMES,
    Kind,
    Label,
    Manifest,
    Override,
    Written,
    encode_record,
    entries_of,
)
from configsvc.errors import ConfigSvcError, Conflict, Unprocessable

_UNGUARDED: frozenset[str] = frozenset({"expiry", "repair", "rollback"})
"""Kinds whose outcome was a state of the scope before: it was looked at then."""


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
        return changes_of(self.content())


def change_of(key: str, old: bytes | None, new: bytes | None) -> dict[str, Any]:
    """One changed key, by its stored bytes, as answers tell it."""
    change: dict[str, Any] = {"key": key, "op": "delete" if new is None else "set"}
    for name, raw in (("old", old), ("new", new)):
        value = value_of(raw)
        if value is not None:
            change[name] = msgspec.Raw(value)
    return change


def changes_of(content: Iterable[Written]) -> list[dict[str, Any]]:
    """The keys that a release changed, as answers tell them."""
    return [change_of(*record) for record in entries_of(content) if record.old != record.new]


def differences(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """What is different between two states, key by key, as answers tell it."""
    pairs = ((key, before.get(key), after.get(key)) for key in sorted(before.keys() | after.keys()))
    return [change_of(*pair) for pair in pairs if pair[1] != pair[2] and not have_same_value(*pair[1:])]


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
    return _finish(command, draft(command, view, about), view, about, guards)


# ---- the plan --------------------------------------------------------------------------------------------------------


def _finish(command: Command, drafted: Draft, view: View, about: About, guards: Guards) -> Plan:
    kind = kind_of(command)
    head = view.head or Head()
    steps = tuple(drafted.steps.values())
    records = tuple(_records(view, drafted.records, drafted.kept))
    submitted = _submitted(command)
    same = (
        not steps
        and all(one.old == one.new for one in records)
        and drafted.overrides == head.overrides
        and not view.is_headless
        and (kind != "repair" or view.expected is not None)
    )
    # The first deploy makes a release also where it changes nothing: from then on there is something to override.
    first = kind in DEPLOYING and not view.deployed and bool(view.entries)
    unchanged = same and not first
    version = None if isinstance(command, Change | Expire | Repair) else command.version
    warnings = [*drafted.warnings, *_warnings(kind, view, steps)]
    manifest = Manifest(
        number=drafted.number,
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
        # Those that are only taken over come last: a key's history looks for its name.
        keys=[step.key for step in sorted(steps, key=lambda step: not step.writes)][:MAX_NAMES],
        count=sum(step.writes for step in steps),
        warnings=warnings,
    )
    after = msgspec.structs.replace(
        head,
        release=drafted.number,
        version=version,
        id=about.id,
        applying=None,
        overrides=drafted.overrides,
        deployed=drafted.number if kind in DEPLOYING else view.deployed,
    )
    label = None
    if version is not None and submitted is not None:
        # Where nothing changes it means what was deployed: the head's release may be an emergency since.
        release = view.deployed if unchanged else drafted.number
        label = Label(release=release, digest=submitted) if release else None
        if unchanged and view.label and view.label.release >= view.oldest:
            # It means a release that was made under it, as long as that is kept.
            label = view.label
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
    blocked = _blocked(command, drafted, found, view, about, guards)
    return msgspec.structs.replace(found, blocked=tuple(blocked))


def _blocked(
    command: Command, drafted: Draft, found: Plan, view: View, about: About, guards: Guards
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
    yield from _closed(command, found.kind, view, about)
    if view.label and found.manifest.digest != view.label.digest:
        yield Conflict(
            f"version {found.manifest.version} stands for release {view.label.release} with another state; "
            "a label may come again only with the same state",
            code="version_exists",
            release=view.label.release,
        )
    if drafted.refused:
        yield Conflict(
            f"pending overrides would be changed: {names(drafted.refused)}; "
            "say overrides=keep to leave them, overrides=discard to replace them",
            code="override_pending",
            overrides=[_override(view, key) for key in drafted.refused],
        )
    if isinstance(command, Promote):
        yield from _unfit(command, view, about)
    size = len(encode_head(found.head, view.head_raw))
    if size > max(MAX_HEAD_BYTES, len(view.head_raw or b"")) and found.kind != "repair":
        yield Unprocessable(
            f"{len(found.head.overrides)} overrides would be pending, and a head of {size} bytes cannot name them: at "
            f"most {MAX_HEAD_BYTES} are allowed. Deploy the state with what is pending first",
            code="too_many_overrides",
            problems=[f"{len(found.head.overrides)} overrides would be pending"],
        )
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


def _closed(command: Command, kind: Kind, view: View, about: About) -> Iterable[ConfigSvcError]:
    """Why a scope takes no writes of this kind now, whatever they would change."""
    if view.is_headless and isinstance(command, Promote):
        yield Conflict(
            f"the head of {view.scope} cannot be read, or is gone, and with it the list of its own keys, which no "
            "promotion may change; `configsvc repair` makes a release of what is there, then name them again",
            code="write_conflict",
        )
    frozen = view.head.frozen if view.head else None
    if frozen and kind in ("deploy", "promote") and frozen.until > about.at:
        yield Conflict(
            f"{view.scope} is frozen until {frozen.until}: {frozen.reason}",
            code="scope_frozen",
            until=frozen.until,
            reason=frozen.reason,
            by=frozen.by,
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
    # What a hand put over an override is no more that one's.
    by_hand = view.raw(key) != (view.expected or {}).get(key)
    record = None if by_hand else view.overrides.get(key)
    found: dict[str, Any] = {
        "key": key,
        "release": view.overridden.get(key) if record else None,
        "by": record.by if record else BY_HAND,
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


def _records(view: View, after: Mapping[str, Override], kept: Set[str]) -> Iterable[Written]:
    """What becomes of the records of pending overrides, by whole etcd key; of those that are kept also where that is
    nothing, so that the release can tell what it deployed under them."""
    prefix = overrides_prefix(view.scope).decode()
    for key in sorted(view.overrides.keys() | after.keys()):
        old, new = view.overrides.get(key), after.get(key)
        if old != new or key in kept:
            yield Written(prefix + key, encode_record(old) if old else None, encode_record(new) if new else None)


def _warnings(kind: Kind, view: View, steps: Iterable[Step]) -> list[str]:
    found = []
    # A restore replaces all that, and puts back what it was.
    if view.is_headless and kind != "restore":
        found.append("the scope's head was gone: a freeze and a list of own keys are lost, if it had them")
    if view.expected is None and kind != "restore":
        found.append("the scope's history cannot be read: what was changed by hand is not known")
    broken = [step.key for step in steps if step.writes and step.old is not None and value_of(step.old) is None]
    if broken:
        found.append(f"what was stored was no readable entry: {names(broken)}")
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
