"""What really happened to one scope, by a watch that shares no code with the service, and what that makes of a record.

`History` is pure: every revision of the scope and the state after it. `Tap` fills one from etcd's gateway by the
plainest means there are. `check_*` hold what readers saw against it; each raises `AssertionError` that says where.
"""

import asyncio
import base64
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from configsvc.core.model import Scope, scope_prefix
from configsvc.etcd.ops import prefix_end

State = dict[str, tuple[Any, int]]
"""Value and `mod_revision` by key."""
SILENCE_S = 3.0


class History:
    """Every state of a scope since `base`, the revision of a listing that had `state`."""

    def __init__(self, base: int, state: State) -> None:
        self.base = self.reached = base
        self._revisions = [base]
        self._states = [state]

    def add(self, revision: int, changes: Mapping[str, tuple[Any, int] | None]) -> None:
        """Note what one revision did."""
        state = dict(self._states[-1])
        for key, value in changes.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        self._revisions.append(revision)
        self._states.append(state)
        self.reached = revision

    def at(self, revision: int) -> State:
        """The state at a revision; beyond `reached` that is the last one, which holds once nobody writes any more."""
        assert revision >= self.base, f"{revision} is before the history begins, at {self.base}"
        return self._states[bisect_right(self._revisions, revision) - 1]

    def between(self, after: int, upto: int) -> list[int]:
        """The revisions that changed the scope, after one and up to another."""
        return self._revisions[bisect_right(self._revisions, after) : bisect_right(self._revisions, upto)]


class CompactedAway(AssertionError):
    """The tap itself fell behind a compaction: the test's fault, not the service's."""


class Tap:
    """Fills a history. Goes from one URL to the next as long as it must; `run` never ends by itself."""

    def __init__(self, urls: Iterable[str], scope: Scope, headers: Callable[[], Mapping[str, str]] = dict) -> None:
        self._urls = list(urls)
        self._prefix = scope_prefix(scope)
        self._headers = headers
        self.history = History(0, {})

    async def run(self) -> None:
        """List once, then watch for ever."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=1.0, sock_read=SILENCE_S)
        async with aiohttp.ClientSession(timeout=timeout, read_bufsize=2**22) as http:
            while True:
                for url in self._urls:
                    try:
                        if not self.history.base:
                            await self._list(http, url)
                        await self._watch(http, url)
                    except (aiohttp.ClientError, OSError, TimeoutError, KeyError):
                        pass
                    await asyncio.sleep(0.05)

    async def _list(self, http: aiohttp.ClientSession, url: str) -> None:
        async with http.post(url + "/v3/kv/range", json=self._range(), headers=self._headers()) as response:
            answer = await response.json()
        state: State = {}
        for kv in answer.get("kvs", ()):
            self._take(state, {"kv": kv})
        self.history = History(int(answer["header"]["revision"]), {k: v for k, v in state.items() if v})

    def _range(self) -> dict[str, str]:
        key, end = (base64.b64encode(part).decode() for part in (self._prefix, prefix_end(self._prefix)))
        return {"key": key, "range_end": end}

    async def _watch(self, http: aiohttp.ClientSession, url: str) -> None:
        create = {**self._range(), "start_revision": str(self.history.reached + 1), "progress_notify": True}
        headers = {**self._headers(), "Grpc-Metadata-hasleader": "true"}
        body = {"create_request": create}
        async with http.post(url + "/v3/watch", json=body, headers=headers) as response:
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._line(json.loads(line)["result"])

    def _line(self, result: dict[str, Any]) -> None:
        if "compact_revision" in result:
            raise CompactedAway(f"the tap was at {self.history.reached}, compacted at {result['compact_revision']}")
        revisions: dict[int, dict[str, Any]] = {}
        for event in result.get("events", ()):
            revision = int(event["kv"]["mod_revision"])
            if revision > self.history.reached:
                self._take(revisions.setdefault(revision, {}), event)
        for revision, changes in sorted(revisions.items()):
            if changes:
                self.history.add(revision, changes)

    def _take(self, changes: dict[str, Any], event: dict[str, Any]) -> None:
        key = base64.b64decode(event["kv"]["key"])[len(self._prefix) :].decode()
        if not key.startswith("_meta/"):
            deleted = event.get("type") == "DELETE"
            changes[key] = None if deleted else decode(base64.b64decode(event["kv"]["value"]), event["kv"])

    async def started(self) -> None:
        """Wait until the history has begun."""
        async with asyncio.timeout(20):
            while not self.history.base:
                await asyncio.sleep(0.01)

    async def reaches(self, revision: int) -> None:
        """Wait until the history has `revision`, which has to be one that changed the scope."""
        async with asyncio.timeout(20):
            while self.history.reached < revision:
                await asyncio.sleep(0.01)


def decode(stored: bytes, kv: Mapping[str, Any]) -> tuple[Any, int]:
    """A stored entry as a state has it."""
    return json.loads(stored)["value"], int(kv["mod_revision"])


@dataclass
class Seen:
    """What one reader saw of one epoch, in order: the state it held and the revision that it was given for it."""

    who: str
    epoch: str
    states: list[tuple[int, State]] = field(default_factory=list)
    changes: list[tuple[int, frozenset[str]]] = field(default_factory=list)
    """Revision and keys of each `change` of a stream."""
    bases: list[int] = field(default_factory=list)
    """Ids of the `snapshot` events of a stream."""


def check_no_torn_pair(who: str, state: Mapping[str, Any]) -> None:
    """Keys `x.a` and `x.b` are only ever written together, with the same value."""
    values = {key: value[0] if isinstance(value, tuple) else value for key, value in state.items()}
    for key in values.keys() | {f"{key[:-2]}.a" for key in values if key.endswith(".b")}:
        if key.endswith(".a"):
            one, other = values.get(key), values.get(f"{key[:-2]}.b")
            assert one == other, f"{who} saw a torn pair {key}: {one!r} and {other!r}"


def check_states(seen: Seen, history: History) -> None:
    """Every state equals etcd's at the revision that was said, and no revision is below the one before."""
    last = 0
    for revision, state in seen.states:
        check_no_torn_pair(seen.who, state)
        assert revision >= last, f"{seen.who} stepped back from {last} to {revision}"
        last = revision
        expected = history.at(revision)
        assert state == expected, f"{seen.who} at {revision}: {difference(state, expected)}"


def check_changes(seen: Seen, history: History, *, complete: bool) -> None:
    """A stream's changes: strictly increasing, each of them etcd's own; with `complete`, each exactly once."""
    revisions = [revision for revision, _ in seen.changes]
    assert revisions == sorted(set(revisions)), f"{seen.who}: changes repeated or reordered: {revisions}"
    if complete and seen.bases:
        assert len(seen.bases) == 1, f"{seen.who}: got a snapshot again, at {seen.bases}"
        expected = history.between(seen.bases[0], revisions[-1] if revisions else seen.bases[0])
        assert revisions == expected, f"{seen.who}: revisions differ: {sorted(set(revisions) ^ set(expected))}"


def difference(state: State, expected: State) -> str:
    """The keys in which two states differ, in words."""
    keys = sorted(key for key in state.keys() | expected.keys() if state.get(key) != expected.get(key))
    return "; ".join(f"{key} is {state.get(key)}, in etcd {expected.get(key)}" for key in keys)
