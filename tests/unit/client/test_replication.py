"""Whatever happens on the way, a client shows a state that the store had, never an older one, and then the newest.

The service's feed and the client's session back to back, in memory: replicas lag, restart and change epoch, the bytes
between are cut anywhere and lost anywhere, and polls ask beside the stream and are answered late.
"""

from datetime import UTC, datetime
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.core.feed import Feed, Update, status_frame
from configsvc.core.model import Scope
from configsvc_client.doubt import MAX_LEFT_EPOCHS
from configsvc_client.errors import LinkError
from configsvc_client.lastgood import decode, decode_head, encode, head_of, may_replace
from configsvc_client.options import Tuning, resolve
from configsvc_client.poll import Answer, Ask, read_answer
from configsvc_client.protocol import Delta, Entry, EventId, Status, parse_event_id
from configsvc_client.session import Session
from configsvc_client.snapshot import Snapshot, same_value
from configsvc_client.sse import Decoder

SCOPE = Scope("payments", "production")
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SINCE = "2026-01-01T00:00:00Z"


def values(snapshot: Snapshot) -> dict[str, Any]:
    return {key: entry.value for key, entry in snapshot.entries.items()}


class Store:
    """The history: each step is the state after it, and the delta that led to it where the scope changed."""

    def __init__(self) -> None:
        self.epochs = 1
        start = Snapshot(namespace=SCOPE.namespace, environment=SCOPE.environment, epoch=f"{1:012x}", revision=10)
        self.steps: list[tuple[int, Snapshot, Delta | None]] = [(10, start, None)]
        self.states: dict[EventId, dict[str, Any]] = {}
        self._note()

    def _note(self) -> None:
        revision, snapshot, _ = self.steps[-1]
        self.states[EventId(snapshot.epoch, revision)] = values(snapshot)

    def write(self, set: dict[str, Any], deleted: list[str]) -> None:
        revision, snapshot, _ = self.steps[-1]
        entries = {key: Entry(value=value, revision=revision + 1) for key, value in set.items()}
        delta = Delta(revision=revision + 1, set=entries, deleted=[key for key in deleted if key not in set])
        self.steps.append((revision + 1, snapshot.apply(delta), delta))
        self._note()

    def write_elsewhere(self) -> None:
        revision, snapshot, _ = self.steps[-1]
        self.steps.append((revision + 1, snapshot, None))
        self._note()

    def rotate(self) -> None:
        revision, snapshot, _ = self.steps[-1]
        self.epochs += 1
        epoch = f"{self.epochs:012x}"
        self.steps.append((revision + 1, Snapshot(**{**_fields(snapshot), "epoch": epoch}), None))
        self._note()


def _fields(snapshot: Snapshot) -> dict[str, Any]:
    return {name: getattr(snapshot, name) for name in snapshot.__struct_fields__}


class Replica:
    """A service that has read the history up to some step."""

    def __init__(self, store: Store, max_frames: int) -> None:
        self.store = store
        self.max_frames = max_frames
        self.at = 0
        self.restart()

    def restart(self) -> None:
        """Start again from a list: the log of frames is gone, and the revision is that of the list."""
        self.proved, snapshot, _ = self.store.steps[self.at]
        self.feed = Feed(Snapshot(**{**_fields(snapshot), "revision": self.proved}), max_frames=self.max_frames)

    def advance(self, steps: int) -> None:
        for at in range(self.at + 1, min(self.at + steps, len(self.store.steps) - 1) + 1):
            self.at = at
            self.proved, snapshot, delta = self.store.steps[self.at]
            # After a restart the feed's revision is the list's; the state is the same.
            state = snapshot if delta else Snapshot(**{**_fields(snapshot), "revision": self.feed.snapshot.revision})
            is_new = snapshot.epoch != self.feed.snapshot.epoch
            if delta or is_new:
                self.feed.publish(Update(scope=SCOPE, snapshot=state, delta=delta, baseline=is_new))


class Stream:
    """What one connection would send, by the rules of `interface.md`."""

    def __init__(self, replica: Replica, last: EventId | None) -> None:
        self.replica = replica
        self.last = last
        self.pipe = b""

    def pull(self) -> None:
        feed, proved = self.replica.feed, self.replica.proved
        epoch = feed.snapshot.epoch
        if self.last and self.last.epoch == epoch and self.last.revision > proved:
            self.pipe += status_frame(Status(revision=proved, state="behind", since=SINCE), None).sse
            return
        frames = feed.since(self.last) if self.last else None
        if frames is None:
            frames = [feed.snapshot_frame(proved)]
        frames.append(status_frame(Status(revision=proved, state="live", since=SINCE), EventId(epoch, proved)))
        self.pipe += b"".join(frame.sse for frame in frames)
        self.last = EventId(epoch, proved)


class Client:
    def __init__(self, store: Store, replicas: list[Replica]) -> None:
        self.store = store
        self.replicas = replicas
        urls = [f"http://r{n}" for n in range(len(replicas))]
        never = Tuning(believe_after_s=1e9)
        self.options = resolve({}, url=urls, namespace=SCOPE.namespace, environment=SCOPE.environment, tuning=never)
        self.urls = urls
        self.session = Session(self.options, Random(1), 0.0)
        self.now = 0.0
        self.file: bytes | None = None
        self.has_polled = False
        self.asked: list[tuple[Ask, Answer]] = []
        self.connect()

    @property
    def replica(self) -> Replica:
        return self.replicas[self.urls.index(self.session.endpoint.url)]

    def connect(self) -> None:
        attempt = self.session.attempt()
        # Over the wire an id is text.
        last = parse_event_id(str(attempt.last_event_id)) if attempt.last_event_id else None
        self.stream = Stream(self.replica, last)
        self.decoder = Decoder()
        self.session.asked(self.now)
        self.session.opened(self.now)

    def rerun(self) -> None:
        """The process ends, and another one begins with its last-known-good file."""
        proof = self.session.proof(self.now)
        held = decode_head(self.file) if self.file else None
        if proof is not None and may_replace(held, head_of(proof, NOW)):
            self.file = encode(proof, NOW)
        self.session = Session(self.options, Random(1), self.now)
        self.asked.clear()
        if self.file is not None:
            self.session.adopt(decode(self.file, **SCOPE._asdict(), now=NOW, max_age_s=1e9), self.now)
            self.check(None)
        self.connect()

    def lose(self, error: LinkError) -> None:
        if self.session.stream_lost(error, self.now) is None:
            self.leave(error)
        else:
            self.connect()

    def leave(self, error: LinkError) -> None:
        self.session.lost(error, self.now)
        self.asked.clear()
        self.connect()

    def ask(self, at: int) -> None:
        """A poll is answered by one of the replicas, perhaps not the stream's: they may share an address."""
        replica, ask = self.replicas[at % len(self.replicas)], self.session.ask()
        feed = replica.feed
        status, body = (304, b"") if ask.etag == f'"{feed.etag}"' else (200, feed.body("entries"))
        headers = {"Configsvc-Revision": str(replica.proved), "Configsvc-Source": "live", "ETag": f'"{feed.etag}"'}
        answer = read_answer(ask, status, "application/json", headers, body, scope=(SCOPE.namespace, SCOPE.environment))
        assert answer
        self.session.polls(self.now)
        self.asked.append((ask, answer))

    def answer(self) -> None:
        """The oldest answer arrives."""
        if not self.asked:
            return
        self.now += 0.1
        before = self.session.position
        try:
            self.has_polled = True
            self.session.polled(*self.asked.pop(0), self.now)
            self.check(before)
        except LinkError as error:
            if error.kind != "older":
                raise
            if self.session.poll_failed(error, self.now):
                self.leave(error)

    def deliver(self, size: int) -> None:
        self.stream.pull()
        self.now += 0.1
        chunk, self.stream.pipe = self.stream.pipe[:size], self.stream.pipe[size:]
        before = self.session.position
        try:
            for event in self.decoder.feed(chunk):
                self.session.receive(event, self.now)
                self.check(before)
        except LinkError as error:
            # What a stream says of a history that a poll has just moved on from makes no sense to it.
            if error.kind not in ("older", "garbage" if self.has_polled else "older"):
                raise
            self.lose(error)

    def check(self, before: EventId | None) -> None:
        snapshot, position = self.session.snapshot, self.session.position
        if snapshot is None or position is None:
            return
        assert same_value(values(snapshot), self.store.states[position])
        if before is not None:
            assert position.revision >= before.revision


KEYS = st.sampled_from(["a", "b", "c.d", "\u2028", "é", "long" * 30])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.dictionaries(KEYS, VALUES, max_size=3), st.lists(KEYS, max_size=2, unique=True)),
        st.tuples(st.just("elsewhere")),
        st.tuples(st.just("rotate")),
        st.tuples(st.just("advance"), st.integers(0, 2), st.sampled_from([1, 2, 50])),
        st.tuples(st.just("restart"), st.integers(0, 2)),
        st.tuples(st.just("deliver"), st.sampled_from([10**6, 10**6, 10**6, 300, 40, 1])),
        st.tuples(st.just("lose"), st.sampled_from(["stalled", "stalled", "ended", "garbage"])),
        st.tuples(st.just("ask"), st.integers(0, 2)),
        st.tuples(st.just("answer")),
        st.tuples(st.just("rerun")),
    ),
    min_size=10,
    max_size=80,
)


@settings(max_examples=500, deadline=None)
@given(steps=STEPS, count=st.integers(1, 3), max_frames=st.sampled_from([1, 2, 1000]))
def test_a_client_never_steps_back_and_ends_equal_to_the_store(steps: list[Any], count: int, max_frames: int) -> None:
    store = Store()
    replicas = [Replica(store, max_frames) for _ in range(count)]
    client = Client(store, replicas)
    client.deliver(10**9)
    for kind, *rest in steps:
        if kind == "write":
            store.write(*rest)
        elif kind == "elsewhere":
            store.write_elsewhere()
        elif kind == "rotate":
            # Epochs have no order. One that a client never saw is new to it, so each is seen before it is left.
            position = client.session.position
            if position and position.epoch == store.steps[-1][1].epoch and store.epochs < MAX_LEFT_EPOCHS:
                store.rotate()
        elif kind == "advance":
            replicas[rest[0] % count].advance(rest[1])
        elif kind == "restart":
            replicas[rest[0] % count].restart()
        elif kind == "lose":
            client.lose(LinkError(rest[0], "lost"))
        else:
            getattr(client, kind)(*rest)
    for replica in replicas:
        replica.advance(len(store.steps))
    client.deliver(10**9)
    client.deliver(10**9)
    client.asked.clear()
    client.ask(0)
    client.answer()
    revision, newest, _ = store.steps[-1]
    assert client.session.position == EventId(newest.epoch, revision)
    assert client.session.snapshot is not None
    assert same_value(values(client.session.snapshot), values(newest))
    assert client.session.view(client.now).state == "live"
