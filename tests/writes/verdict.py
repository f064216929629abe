"""What a schedule may leave behind, and what readers may have seen on the way. Each check raises `AssertionError`.

The history is what etcd's watch told, revision by revision. Readers are replicas of the service's own code, which are
fed from it as the follower feeds them, from the beginning and from cold starts anywhere; what they should show is
worked out here from the states alone.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from configsvc.core.commands import Deploy, Rollback
from configsvc.core.model import (
    Head,
    content_prefix,
    entry_path,
    epoch_path,
    head_path,
    labels_prefix,
    manifests_prefix,
    overrides_prefix,
    releases_prefix,
    scope_prefix,
    value_of,
)
from configsvc.core.plan import change_of
from configsvc.core.records import Event, Record, read_entry, sort_listing
from configsvc.core.release import (
    Manifest,
    Written,
    decode_content,
    decode_label,
    decode_manifest,
    decode_override,
    entries_of,
    manifest_name,
    replay,
)
from configsvc.core.replica import Relist, Replica
from configsvc.errors import InvalidRequest, OutcomeUnknown
from configsvc.etcd.ops import Compacted, Header, KeyValue, Range, RangeResult, WatchEvent, prefix_end
from configsvc.history import before_window
from tests.writes.explorer import Run
from tests.writes.naming import asked, head_of
from tests.writes.turns import Answer

CLUSTER = "cluster"
State = Mapping[bytes, KeyValue]


class Past:
    """Every state of one namespace, by revision."""

    def __init__(self, events: Sequence[WatchEvent]) -> None:
        self.revisions = [0]
        self.states: list[State] = [{}]
        self.events: list[list[WatchEvent]] = [[]]
        for revision, group in groupby(events, key=lambda event: event.mod_revision):
            state, part = dict(self.states[-1]), list(group)
            for event in part:
                state.pop(event.key, None)
                if event.kv is not None:
                    state[event.key] = event.kv
            self.revisions.append(revision)
            self.states.append(state)
            self.events.append(part)

    def at(self, revision: int) -> State:
        return self.states[bisect_right(self.revisions, revision) - 1]

    def steps(self) -> Iterator[tuple[int, State, list[WatchEvent]]]:
        return zip(self.revisions[1:], self.states[1:], self.events[1:], strict=True)


class PastEtcd:
    """Reads of an etcd that is at `revision`, and has forgotten what was before `compacted`."""

    def __init__(self, past: Past, revision: int, compacted: int) -> None:
        self._past, self._revision, self._compacted = past, revision, compacted

    async def range(self, request: Range, **_: object) -> RangeResult:
        if 0 < request.revision < self._compacted:
            raise Compacted("compacted")
        state = self._past.at(request.revision or self._revision)
        end = request.range_end or request.key + b"\0"
        kvs = [state[key] for key in sorted(state) if request.key <= key < end]
        return RangeResult(header=Header(cluster_id=CLUSTER, revision=self._revision), kvs=kvs, count=len(kvs))

    async def list(self, prefix: bytes, *, revision: int = 0) -> RangeResult:
        return await self.range(Range(key=prefix, range_end=prefix_end(prefix), revision=revision))


@dataclass
class Release:
    """One release as the history has it."""

    number: int
    id: str
    revision: int
    """From which readers see it."""
    opened: int
    """Where its window opened; without one the same as `revision`."""
    manifest: Manifest
    content: list[Written]
    head: Head
    before: State
    """What was there before anything of it was written."""


class History:
    """What became of a scope: its releases in order, and what readers may see at each revision."""

    def __init__(self, run: Run, past: Past) -> None:
        self.run, self.past, self.scope = run, past, run.scope
        self.releases: list[Release] = []
        self.frozen: dict[int, int] = {}
        """For each revision at which a window was open, the revision before its opening."""
        self.windows: dict[int, list[int]] = {}
        opened, window, known, state_before = 0, ("", 0), "", past.states[0]
        for revision, state, _ in past.steps():
            kv = state.get(head_path(self.scope))
            head = head_of(kv.value if kv else None)
            if head and head.applying:
                opened = opened or revision
                window = window if head.applying.id == window[0] else (head.applying.id, revision)
            elif head or not opened or not (kv or self.entries(state)):
                # Only a head that reads ends a window, or that nothing is left at all.
                if head and head.release and head.id != known:
                    self._add(head, revision, window[1] if opened and head.id == window[0] else revision, state)
                    known = head.id
                opened, window = 0, ("", 0)
            if opened:
                self.frozen[revision] = opened - 1
            state_before = state
        self.last = state_before

    def _add(self, head: Head, revision: int, opened: int, state: State) -> None:
        stored = state.get(manifests_prefix(self.scope) + manifest_name(head.release))
        assert stored is not None, f"release {head.release} has no manifest"
        manifest = decode_manifest(stored.value)
        assert manifest.id == head.id, f"the head has release {manifest.number} under another id than its manifest"
        content = list(entries_of(content_of(self, state, manifest)))
        found = Release(head.release, head.id, revision, opened, manifest, content, head, self.past.at(opened - 1))
        self.releases.append(found)

    def entries(self, state: State) -> dict[str, KeyValue]:
        prefix = entry_path(self.scope, "")
        names = {key: key[len(prefix) :].decode() for key in state if key.startswith(prefix)}
        return {name: state[key] for key, name in names.items() if not name.startswith("_")}

    def shown_at(self, revision: int) -> int:
        """The revision whose state readers see: an earlier one while a window is open."""
        return self.frozen.get(self.past.revisions[bisect_right(self.past.revisions, revision) - 1], revision)

    def expected(self, revision: int) -> tuple[dict[str, Any], int | None]:
        """What readers see, and which release that is."""
        state = self.past.at(self.shown_at(revision))
        kv = state.get(head_path(self.scope))
        head = head_of(kv.value if kv else None)
        entries = {key: read_entry(_record(kv)) for key, kv in self.entries(state).items()}
        return entries, head.shown_release if head else None


def content_of(history: History, state: State, manifest: Manifest) -> list[Written]:
    """A release's content, from a state."""
    prefix = content_prefix(history.scope, manifest.content)
    chunks = [state[key].value for key in sorted(state) if manifest.content and key.startswith(prefix)]
    assert chunks or not manifest.content or history.run.damaged, f"the content of {manifest.number} is gone"
    return decode_content(b"".join(chunks))


def _record(kv: KeyValue) -> Record:
    return Record(key=kv.key, value=kv.value, mod_revision=kv.mod_revision, create_revision=kv.create_revision)


async def judge(run: Run) -> History:
    """Check everything. The counters of the run get what can be seen in the history only."""
    events = run.etcd.events.pop(run.scope.namespace.encode(), [])
    history = History(run, Past(events))
    check_numbers(history)
    check_answers(history)
    check_contents(history)
    check_states(history)
    check_overrides(history)
    check_end(history)
    check_late(history)
    await check_readers(history)
    count_cases(history)
    return history


# ---- what was written ------------------------------------------------------------------------------------------------


def check_numbers(history: History) -> None:
    """Numbers have no gap, and no release comes twice."""
    numbers = [one.number for one in history.releases]
    if history.run.beheaded or history.run.damaged:
        assert numbers == sorted(set(numbers)), f"releases came as {numbers}"
    else:
        assert numbers == list(range(1, len(numbers) + 1)), f"releases came as {numbers}"
    ids = [asked(one.id) for one in history.releases]
    assert len(set(ids)) == len(ids), f"a write was carried out twice: {ids}"


def check_answers(history: History) -> None:
    """Each accepted answer is in the history with exactly its changes, no refused one is; what is unknown is either."""
    made = {asked(one.id): one for one in history.releases}
    for answer in history.run.answers:
        release = made.get(answer.id)
        assert not isinstance(answer.error, InvalidRequest), f"{answer.step}: {answer.error}"
        if answer.outcome is not None and answer.outcome.plan is None:
            _check_repeated(history, answer, made)
        elif answer.outcome is not None and answer.outcome.unchanged:
            assert release is None, f"{answer.step}: answered as unchanged, but it made release {release}"
        elif answer.outcome is not None:
            assert release is not None, f"{answer.step}: answered with release {answer.outcome.release}, not there"
            assert answer.outcome.release == release.number, f"{answer.step}: another number than in the history"
            changes = [change_of(*record) for record in release.content if record.old != record.new]
            lost = history.run.damaged and not release.content
            assert answer.outcome.changes == changes or lost, f"{answer.step}: its changes are not the release's"
            assert answer.outcome.revision == release.revision, f"{answer.step}: another revision"
        elif answer.error is not None and not isinstance(answer.error, OutcomeUnknown):
            assert release is None, f"{answer.step}: refused ({answer.error}), but it made release {release}"


def _check_repeated(history: History, answer: Answer, made: Mapping[str, Release]) -> None:
    """What is answered from a receipt is what the first request did."""
    assert answer.resent is not None, f"{answer.step}: a receipt for a request that was sent once"
    assert answer.outcome is not None
    first = made.get(answer.resent.id)
    if not answer.outcome.unchanged:
        assert first is not None, f"{answer.step}: a receipt says release {answer.outcome.release}, not there"
        assert first.number == answer.outcome.release, f"{answer.step}: the receipt has another number"
    assert answer.id not in made, f"{answer.step}: carried out again although there was a receipt"


def check_contents(history: History) -> None:
    """Each release changed what its content says, from what was there."""
    for one in history.releases:
        if history.run.damaged and not one.content:
            continue
        # What a hand changed and changed back between plan and verification is as it was.
        hands = [history.past.at(hand) for hand in history.run.hands if one.opened < hand < one.revision]
        before = [history.entries(state) for state in (one.before, *hands)]
        for record in one.content:
            was = [_raw(entries, record.key) for entries in before]
            assert record.old in was, f"release {one.number} says that {record.key} was {record.old!r}, it was {was}"


def check_states(history: History) -> None:
    """At each revision outside windows the scope is what its releases made it, but for keys that were put by hand."""
    state: dict[str, bytes] = {}
    releases = iter([*history.releases, None])
    coming = next(releases)
    by_hand: set[str] = set()
    for revision, now, events in history.past.steps():
        entries = history.entries(now)
        if revision in history.run.hands:
            by_hand |= history.entries({event.key: None for event in events}).keys()  # type: ignore[misc]
        while coming is not None and coming.revision <= revision:
            if coming.manifest.checkpoint is not None:
                # The first one of a history keeps all that was there, whoever had put it.
                state = _checkpoint(history, now, coming)
            state = replay(state, coming.content)
            coming = next(releases)
        if revision in history.frozen or (not state and not history.releases):
            continue
        if history.run.beheaded and coming is not None and coming.manifest.base == 0:
            # Without its head a release that was half applied is nobody's, until the next one takes in what is there.
            continue
        if history.run.damaged and (coming is not None or revision < history.run.finished_at):
            # What is half applied is adopted by a repair, and is there to see until then.
            continue
        for key in entries.keys() | state.keys():
            kv = entries.get(key)
            if (kv.value if kv else None) == state.get(key):
                by_hand.discard(key)
                continue
            wrong = f"at revision {revision} {key} is {kv.value if kv else None!r}, the releases say {state.get(key)!r}"
            assert key in by_hand, wrong
            assert kv is None or kv.mod_revision in history.run.hands, wrong


def _checkpoint(history: History, state: State, release: Release) -> dict[str, bytes]:
    prefix = content_prefix(history.scope, release.manifest.checkpoint or "")
    chunks = [state[key].value for key in sorted(state) if release.manifest.checkpoint and key.startswith(prefix)]
    return replay({}, decode_content(b"".join(chunks)))


def check_overrides(history: History) -> None:
    """No deploy and no rollback changed what an override or a hand had set, unless it was told to discard that."""
    if history.run.damaged:
        return
    commands = {answer.id: answer.wanted for answer in history.run.answers}
    after: dict[str, bytes] = {}
    for before, one in zip([None, *history.releases], history.releases, strict=False):
        command = commands.get(asked(one.id))
        if before is not None and before.head.deployed and isinstance(command, Deploy | Rollback):
            found = {key: kv.value for key, kv in history.entries(one.before).items()}
            found |= {record.key: record.old for record in one.content}  # type: ignore[misc]
            drift = {key for key in found.keys() | after.keys() if found.get(key) != after.get(key)}
            pending = before.head.overrides.keys() | drift
            changed = {r.key for r in one.content if r.old != r.new and value_of(r.old) != value_of(r.new)}
            lost = pending & changed
            if command.overrides != "discard" and not history.run.beheaded:
                assert not lost, f"release {one.number} ({command.overrides}) changed pending overrides: {sorted(lost)}"
            history.run.cases["override discarded"] += bool(lost)
            history.run.cases["override kept"] += any("kept pending" in text for text in one.manifest.warnings)
        if one.manifest.checkpoint is not None:
            after = _checkpoint(history, history.past.at(one.revision), one)
        after = replay(after, one.content)


def _raw(entries: Mapping[str, KeyValue], key: str) -> bytes | None:
    return entries[key].value if key in entries else None


def check_end(history: History) -> None:
    """After a last writer no window is open, and no record is left that belongs to nothing."""
    run, scope = history.run, history.scope
    state = history.past.at(run.finished_at)
    head = head_of(state[head_path(scope)].value)
    assert head is not None
    assert head.applying is None, "a window is left"
    prefix = releases_prefix(scope)
    kept = {one.number: one.manifest for one in history.releases}
    manifests = {
        int(key[len(manifests_prefix(scope)) :]): decode_manifest(kv.value).id
        for key, kv in state.items()
        if key.startswith(manifests_prefix(scope))
    }
    if not (run.beheaded or run.damaged):
        assert manifests == {number: one.id for number, one in kept.items()}, "manifests and releases differ"
    signs = [key for key in state if key.startswith(prefix + b"w/")]
    assert not signs, f"signs of life are left: {signs}"
    for key, kv in state.items():
        if key.startswith(labels_prefix(scope)):
            label = decode_label(kv.value)
            assert run.beheaded or label.release in kept, f"{key!r} means release {label.release}, which is not there"
    records = {
        key[len(overrides_prefix(scope)) :].decode(): decode_override(kv.value)
        for key, kv in state.items()
        if key.startswith(overrides_prefix(scope))
    }
    if not run.beheaded:
        for key, release in head.overrides.items():
            assert key in records, f"the override of {key} has no record"
            assert records[key].release == release, f"the record of {key} is of another release than the head says"
        timers = {key for key, one in records.items() if one.expires_at is not None}
        assert records.keys() <= head.overrides.keys() | timers, "a record of an override that is none"
    if run.program.sweep:
        named = {id for one in kept.values() for id in (one.content, one.checkpoint) if id}
        there = {key.split(b"/")[-2].decode() for key in history.last if key.startswith(content_prefix(scope, "")[:-1])}
        assert there <= named or run.beheaded or run.damaged, f"content is left: {there - named}"
        assert named <= there or run.damaged, f"the janitor removed content of a release: {named - there}"


def check_late(history: History) -> None:
    """Whatever came after the last answer changed nothing that readers or writers look at."""
    scope = history.scope
    watched = (scope_prefix(scope), manifests_prefix(scope), overrides_prefix(scope), labels_prefix(scope))

    def part(state: State) -> dict[bytes, int]:
        return {key: kv.mod_revision for key, kv in state.items() if key.startswith(watched)}

    assert part(history.last) == part(history.past.at(history.run.finished_at)), "a late write changed the scope"


# ---- what was read ---------------------------------------------------------------------------------------------------


async def check_readers(history: History) -> None:
    """A replica from the beginning, and replicas that start anywhere, show no mixture, and what etcd had."""
    rng = random.Random(history.run.program.seed)
    warm = Replica()
    follow(history, warm, 0, "a replica")
    places = range(1, len(history.past.revisions))
    inside = [at for at in places if history.past.revisions[at] in history.frozen]
    for at in {*rng.sample(places, 1), *rng.sample(inside, min(2, len(inside)))}:
        await check_cold(history, at, compacted=False)
        if at in inside:
            await check_cold(history, at, compacted=True)


def follow(history: History, replica: Replica, after: int, who: str, *, loosely: bool = False) -> None:
    """Feed a replica every revision after one, and look at it each time."""
    for revision, state, events in history.past.steps():
        changes = [
            Event(key=event.key, record=_record(event.kv) if event.kv else None)
            for event in events
            if event.key.startswith(b"/config/")
        ]
        if revision <= after or not changes:
            continue
        try:
            replica.apply(revision, changes)
        except Relist:
            if not history.run.beheaded:
                raise
            listed = sort_listing(
                [_record(kv) for key, kv in state.items() if key.startswith(b"/config/")], revision, CLUSTER
            )
            windows, _ = replica.needs(listed)
            replica.rebase(listed, windows=dict.fromkeys(need.scope for need in windows), found={})
            return
        # What was rebuilt without etcd's past is checked to the letter once its window has closed.
        loosely = loosely and revision in history.frozen
        check_shown(history, replica, revision, who, loosely=loosely)


def check_shown(history: History, replica: Replica, revision: int, who: str, *, loosely: bool = False) -> None:
    """What a replica shows at a revision. Loosely: the values, and not when each was put."""
    entries, release = history.expected(revision)
    state = replica.scopes.get(history.scope)
    snapshot = state.snapshot if state else None
    shown = dict(snapshot.entries) if snapshot else {}
    if loosely:
        entries = {key: bytes(entry.value) for key, entry in entries.items()}
        shown = {key: bytes(entry.value) for key, entry in shown.items()}
    assert shown == entries, f"{who} at {revision} shows {_values(shown)}, not {_values(entries)}"
    if not history.run.beheaded:
        assert (snapshot.release if snapshot else None) == release, f"{who} at {revision} shows another release"
    proved = replica.proved(history.scope)
    assert proved == history.shown_at(revision) or loosely, f"{who} at {revision} says that it has proved {proved}"


def _values(entries: Mapping[str, Any]) -> dict[str, str]:
    return {key: bytes(getattr(entry, "value", entry)).decode() for key, entry in sorted(entries.items())}


async def check_cold(history: History, at: int, *, compacted: bool) -> None:
    """A replica that starts at a revision; with `compacted` etcd has forgotten everything before it."""
    revision, state = history.past.revisions[at], history.past.states[at]
    run = history.run
    if run.beheaded or (compacted and run.damaged):
        return
    who = f"a replica started {'after a compaction ' if compacted else ''}at {revision}"
    etcd: Any = PastEtcd(history.past, revision, revision if compacted else 0)
    records = [_record(kv) for key, kv in state.items() if key.startswith(b"/config/")]
    listed = sort_listing(records, revision, CLUSTER)
    replica = Replica()
    windows, _ = replica.needs(listed)
    before = {need.scope: await before_window(etcd, need, listed.scopes[need.scope]) for need in windows}
    replica.rebase(listed, windows=before, found={})
    run.cases[f"cold {'inside a window' if windows else 'outside'}{', compacted' * compacted}"] += 1
    opened = history.shown_at(revision) + 1
    if compacted and any(opened <= hand <= revision for hand in run.hands):
        # A key that a hand put meanwhile: nobody knows any more what it was.
        return
    check_shown(history, replica, revision, who, loosely=compacted)
    follow(history, replica, revision, who, loosely=compacted)


# ---- what can be counted in the history only -------------------------------------------------------------------------


def count_cases(history: History) -> None:
    run = history.run
    for one in history.releases:
        run.cases[f"made: {one.manifest.kind}"] += 1
        state = history.past.at(one.revision)
        run.cases["the epoch key is made"] += state[epoch_path(history.scope.namespace)].create_revision == one.opened
        run.cases["made in a window"] += one.opened != one.revision
        inside = {hand for hand in run.hands if one.opened < hand < one.revision}
        touched = {record.key for record in one.content}
        keys = set()
        for hand in inside:
            events = history.past.events[bisect_right(history.past.revisions, hand) - 1]
            keys |= history.entries({event.key: None for event in events}).keys()  # type: ignore[misc]
        run.cases["another key by hand inside a window"] += bool(keys - touched)
        named = any("overwritten" in text for text in one.manifest.warnings)
        run.cases["a release's key by hand inside a window, overwritten and named"] += named
        stays = any("was changed by hand since" in text for text in one.manifest.warnings)
        run.cases["an expiry leaves what a hand changed"] += stays
        run.cases["number after a lost head"] += run.beheaded and one.manifest.base == 0 and one.number > 1
