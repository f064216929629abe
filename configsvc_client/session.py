"""The link's decisions as one state machine: what an event does, whether a service is believed, when to leave it.

Pure: events, errors and the time come in; the next state, a delay and notices come out. Knows no sockets, tasks or
logs, so every rule about lagging replicas and forked histories can be tested by calling it. Times are seconds.

- State never steps back. Within an epoch the *position* (the id of the last event) is the order, and it is separate
  from the snapshot's revision: a heartbeat moves it on although nothing changed. A replica that is behind is heard, not
  obeyed.
- A snapshot below the position, or of an epoch that this client left, is refused, and the next address is tried. When
  nobody has offered better for `believe_after_s` the store was probably restored, and it is believed, with a notice.
- An event that makes no sense ends the connection, and the next one asks for a snapshot instead of resuming.
- What polls bring (`poll.py`) counts like what streams bring. What is older than the position, but not than it was when
  the question was asked, was overtaken on its way and is ignored.
- A state kept from an earlier run is like one that was received, except that it is not *proved*: it is resumed from and
  never stepped back from, and the client is `connecting` until a service has shown that nothing newer is known.
"""

import math
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Literal

from configsvc_client.addresses import Addresses, Attempt
from configsvc_client.doubt import Doubt, Proof
from configsvc_client.errors import Kind, LinkError, printable
from configsvc_client.events import read_change, read_snapshot, read_status
from configsvc_client.freshness import Freshness, View, word_of
from configsvc_client.options import Endpoint, Options
from configsvc_client.outcome import NOTHING, Outcome
from configsvc_client.poll import Answer, Ask, Polls, etag_of
from configsvc_client.protocol import CHANGE, SNAPSHOT, STATUS, Baseline, EventId
from configsvc_client.pulse import Pulse
from configsvc_client.snapshot import Snapshot
from configsvc_client.sse import Event


class Session:
    """One scope as one client holds it, over any number of connections to any of the addresses."""

    def __init__(
        self, options: Options, random: Random, now: float, on_state: Callable[[], None] = lambda: None
    ) -> None:
        self.namespace = options.namespace
        self.environment = options.environment
        self.snapshot: Snapshot | None = None
        self.position: EventId | None = None
        self.last_error: str | None = None
        self.service_state: str | None = None
        self.connections = 0
        """Streams that were opened."""
        self.failures: Counter[Kind] = Counter()
        """Streams and addresses that were left, by why."""
        # Called with each other `snapshot` before the position, and with it what is told of the state, moves on.
        self._on_state = on_state
        self._options = options
        self._tuning = options.tuning
        self._random = random
        self.addresses = Addresses(options.endpoints, options.tuning, random)
        """Where services may be, and what is wrong there."""
        self._doubt = Doubt(options.tuning.believe_after_s)
        self._resume = True
        # This connection.
        self._opened_at: float | None = None
        self._pulse = Pulse(options.heartbeat_s, now)
        self._proved_here = False
        self._well_since = now
        # Polls beside it. The stream itself has come to `_floor`; polls brought what is between that and the position.
        self._polls = Polls(options, random)
        self._polls.at(self.endpoint)
        self._floor: EventId | None = None
        self._polled_here = False
        self._poll_error = ""
        self._etag: tuple[Snapshot, str] | None = None
        self.freshness = Freshness(options.max_staleness_s, now)

    def __repr__(self) -> str:
        is_up = self._opened_at is not None or self.freshness.is_live
        state = f"{self.position} {self.service_state if is_up else 'down'}"
        return f"<Session {self.namespace}/{self.environment} {state} via {self.endpoint.url}>"

    @property
    def endpoint(self) -> Endpoint:
        """The address that is being used or tried."""
        return self.addresses.current

    @property
    def heartbeat_s(self) -> float:
        """How often the service is expected to speak."""
        return self._pulse.heartbeat_s

    @property
    def transport(self) -> Literal["stream", "polling"]:
        """What brings the state at this address."""
        return "polling" if self._polls.is_polling else "stream"

    # ---- a state from an earlier run ----------------------------------------------------------------------------

    def adopt(self, kept: Proof, now: float) -> None:
        """Begin with a state that an earlier run was shown. Does nothing once a service has sent one."""
        if self.position is None:
            self.snapshot, self.position = kept.snapshot, kept.position
            self._doubt.left.extend(kept.left)
            self.freshness.adopt(now - kept.age_s)

    def inherit(self, other: "Session") -> None:
        """Begin with what another session holds, wherever it was interrupted: in a forked process, on a new loop."""
        self.namespace, self.environment = other.namespace, other.environment
        self.last_error = other.last_error
        self._pulse.inherit(other._pulse)
        self.connections, self.failures = other.connections, other.failures
        self.addresses.inherit(other.addresses)
        self.snapshot, held = other.snapshot, other.position
        self._polls.inherit(other._polls, self.endpoint)
        if self.snapshot is None:
            return
        # A step changes the snapshot first. What it had not come to is made up for here.
        own = EventId(self.snapshot.epoch, self.snapshot.revision)
        self.position = own if held is None or held.epoch != own.epoch else max(held, own)
        self._doubt.left.extend(epoch for epoch in other._doubt.left if epoch != own.epoch)
        self._resume = other._resume
        self.freshness.inherit(other.freshness)

    def forget_counts(self) -> None:
        """Count from nothing, in another process."""
        self.connections, self.failures = 0, Counter()

    def learn_scope(self, namespace: str | None, environment: str | None) -> None:
        """Take what the service says of itself where nobody said it; a state of another scope is forgotten then."""
        self.namespace = self.namespace or namespace
        self.environment = self.environment or environment
        held, said = self.snapshot, (self.namespace, self.environment)
        if held is not None and None not in said and said != (held.namespace, held.environment):
            self.snapshot = self.position = None
            self.freshness.adopt(None)

    def proof(self, now: float) -> Proof | None:
        """What is worth keeping for another run; None before a service has proved it, and said how old it is."""
        fresh, age_s = self.freshness, self.freshness.age_s(now)
        if not (fresh.is_proved and fresh.is_sure) or self.snapshot is None or self.position is None or age_s is None:
            return None
        return Proof(self.snapshot, self.position, age_s, tuple(self._doubt.left))

    @property
    def left(self) -> tuple[str, ...]:
        """The histories that this client was in before, the last one last."""
        return tuple(self._doubt.left)

    @property
    def is_proved(self) -> bool:
        """Whether a service has shown the state since the start, however old. True only after `snapshot` is."""
        return self.freshness.is_proved

    # ---- connections --------------------------------------------------------------------------------------------

    def attempt(self) -> Attempt:
        """The next connection."""
        return Attempt(self.endpoint, self.position if self._resume else None)

    def stream_at(self) -> float:
        """When to open the next stream: not before, where polls are the link."""
        return self._polls.stream_at()

    def asked(self, now: float) -> None:
        """A stream is being opened."""
        self._pulse.told(now)
        self._opened_at = None
        self._floor = self.position
        self._polled_here = False
        self._polls.asked_stream()

    def opened(self, now: float, staleness_s: float | None = None) -> None:
        """A service has answered with a stream, and perhaps said how old its state is."""
        self._opened_at = now
        self.freshness.opened(staleness_s, now)
        self._pulse.opened(now)
        self.connections += 1
        if not self._polls.is_polling:
            self._pulse.begin_anew()
            self.service_state = None

    def active(self, now: float, pending_bytes: int) -> None:
        """An event has come to so many bytes: a long snapshot over a slow line is no silence."""
        self._pulse.heard(now, pending_bytes)

    def deadline(self) -> float:
        """When this connection is to be given up unless an event moves it on."""
        # Where polls are the link, the service's own state is theirs to tell.
        return self._silent_at() if self._polls.is_polling else min(self._silent_at(), self._impatient_at())

    def _silent_at(self) -> float:
        return self._pulse.active_at + self._pulse.silence_s(self._polls.patience)

    def _impatient_at(self) -> float:
        """When to look for a service that is live, where there is another one."""
        return math.inf if len(self._options.endpoints) == 1 else self._pulse.impatient_at()

    def overdue(self) -> LinkError:
        """Why the connection is given up at `deadline`."""
        if not self._polls.is_polling and self._impatient_at() < self._silent_at():
            return self._not_live()
        silence_s = self._pulse.silence_s(self._polls.patience)
        if not self._polls.is_answered(self._pulse.active_at):
            self._pulse.missed(silence_s)
        what = "nothing" if self._pulse.is_silent else "nothing of a state, only other bytes,"
        return LinkError("stalled", f"{what} arrived for {silence_s:.1f} s")

    def _not_live(self) -> LinkError:
        self._pulse.looked_elsewhere()
        return LinkError("not_live", f"the service is {self.service_state}, another one may not be")

    def stream_lost(self, error: LinkError, now: float) -> float | None:
        """A stream failed: the delay before the next one here, where polls are answered; None to leave the address."""
        delay = self._polls.stream_lost(error, self._pulse.active_at, self.heartbeat_s, now)
        if delay is not None:
            self.failures[error.kind] += 1
            if error.kind == "garbage":
                self._resume = False
            self._opened_at = None
            if self._polls.is_polling:
                # What bunches of late heartbeats have taught is worth nothing.
                self._pulse.heartbeat_s = self._polls.interval_s
            self._note("stalled", f"{error.detail}; polls are answered")
        return delay

    def lost(self, error: LinkError, now: float) -> float:
        """Take note of a connection that failed or ended, choose the next address, and return the delay before it."""
        was_well = self._proved_here and now - self._well_since >= self.heartbeat_s
        if was_well:
            self.addresses.well()
        self.failures[error.kind] += 1
        if error.kind == "garbage":
            self._resume = False
        self._opened_at = None
        self.freshness.lost()
        said_by_poll = self._poll_error if error.kind in ("timeout", "stalled") else ""
        self._poll_error = ""
        self._note(error.kind, f"{error.detail}{said_by_poll}", is_final=error.is_final)
        self.service_state = "draining" if error.kind == "draining" else None
        delay = self.addresses.lost(error, worked=self._proved_here, is_start=not self.is_proved)
        self._proved_here = self._polled_here = False
        self._pulse.begin_anew()
        self._floor = self.position
        self._polls.at(self.endpoint)
        ends_in_s = self._doubt.ends_in_s(now)
        return delay if ends_in_s is None else min(delay, ends_in_s)

    def _note(self, kind: Kind, detail: str, *, is_final: bool = False) -> None:
        self.addresses.note(LinkError(kind, detail, is_final=is_final))
        self.last_error = self.addresses.reason

    def stopped(self) -> None:
        """Nobody moves this session any more."""
        self.freshness.lost()
        self._opened_at = self.service_state = None

    # ---- events -------------------------------------------------------------------------------------------------

    def receive(self, event: Event, now: float) -> Outcome:
        """Apply an event; raises `LinkError` where the connection is to be left. Unknown events do nothing."""
        self._pulse.heard(now)
        was_proved = self.is_proved
        outcome = self._receive(event, now)
        # Not reached while draining: that `retry` is for one time.
        if event.retry is not None:
            self.addresses.retry_s = event.retry / 1000
        # The first also where nothing changed since the earlier run.
        return outcome._replace(snapshot=self.snapshot) if self.is_proved and not was_proved else outcome

    def _receive(self, event: Event, now: float) -> Outcome:
        if event.event == SNAPSHOT:
            return self._snapshot(event, now)
        if event.event == CHANGE:
            return self._change(event, now)
        if event.event == STATUS:
            self._status(event, now)
        return NOTHING

    def _snapshot(self, event: Event, now: float) -> Outcome:
        baseline, position = read_snapshot(event, (self.namespace, self.environment))
        self._told(now)
        if self._overtaken(position):
            return NOTHING
        notice = self._doubt.look(position, self.position, now)
        self._take(baseline, position)
        self._floor = position
        self._shown(now)
        # One that nobody knows the age of is told of when that is known: the next status says so.
        return Outcome(self.snapshot if self.is_proved else None, notice)

    def _overtaken(self, position: EventId) -> bool:
        """Whether polls have brought newer than this since the stream was asked for it.

        Epochs have no order: of two, the one that the later question was answered with is taken.
        """
        held, floor = self.position, self._floor
        if held is None or not self._polled_here:
            return False
        if position.epoch != held.epoch:
            raise LinkError("older", f"the stream is at {position}, polls have brought {held}")
        if position.revision >= held.revision:
            return False
        late = floor is None or floor.epoch != held.epoch or position.revision >= floor.revision
        if late:
            self._polls.late()
        return late

    def _take(self, baseline: Baseline, position: EventId) -> bool:
        """Hold this state; returns whether it is another one than before."""
        held = self.position
        if held is not None and held.epoch != position.epoch:
            self._doubt.leave(held.epoch, position.epoch)
        if held is not None and (held.epoch != position.epoch or held.revision > position.revision):
            self.freshness.another_history()
        # A new state, not a step from the old one: a snapshot is also how a damaged state is healed.
        taken = Snapshot(namespace=baseline.namespace, environment=baseline.environment).apply(baseline)
        is_same = self.snapshot is not None and self.snapshot.is_same(taken)
        if not is_same:
            self.snapshot = taken
            self._on_state()
        self.position = position
        self._resume = True
        return not is_same

    def _change(self, event: Event, now: float) -> Outcome:
        delta, id = read_change(event, self.position)
        assert self.snapshot is not None
        assert self.position is not None
        if id.revision < self.position.revision:
            return NOTHING
        self._told(now)
        old, self.snapshot = self.snapshot, self.snapshot.apply(delta)
        self._on_state()
        self._advance(id)
        self._shown(now)
        return Outcome(self.snapshot) if self.is_proved and self.snapshot is not old else NOTHING

    def _status(self, event: Event, now: float) -> None:
        status, id = read_status(event, self.position)
        if status.state != "draining":
            self.freshness.said(word_of(status.state, status.staleness_s, now))
        if status.state == "live" and id is None:
            # That is no proof of any state but of what it has just brought.
            if self.freshness.is_pending:
                self._shown(now)
            return
        self._told(now)
        gap = self._pulse.beat(now)
        self._polls.beat(gap, self.heartbeat_s)
        self._pulse.learn(gap)
        state = status.state
        if id is not None and self.position is not None:
            if self._overtaken(id):
                return
            if id.revision < self.position.revision:
                state = "behind"
            self._advance(id)
        if state == "draining":
            self.service_state = state
        elif self._polls.is_polling:
            return
        self.service_state = printable(state, 32)
        if state == "draining":
            retry_s = self.addresses.retry_s if event.retry is None else event.retry / 1000
            raise LinkError("draining", "the service is shutting down", retry_after_s=retry_s)
        if state == "live":
            self._polled_here = False
            self._proved(now)
            return
        self.freshness.not_live(state, now, speaks_of_it=id is not None)
        self._heard_not_live(f"{state} since {status.since}", now)

    def _told(self, now: float) -> None:
        """The stream tells something of the state; all else that it brings is silence."""
        self._pulse.told(now)
        self._polls.heard()

    def _heard_not_live(self, what: str, now: float) -> None:
        self._pulse.not_live(now)
        self._note("not_live", f"the service is {what}")

    def _shown(self, now: float) -> None:
        """The stream has brought a state: a proof by a service that is live, unless it was held back on its way."""
        if self._polls.is_polling:
            return
        self._polled_here = False
        if self.freshness.shown_by_stream(now, self._pulse.counts_s):
            self._live(now)
        else:
            self._worked(now)
            self.service_state = "stale"
            self._heard_not_live("stale", now)

    def _advance(self, id: EventId) -> None:
        if self.position is not None and id.revision > self.position.revision:
            self.position = id
        self._floor = self.position

    # ---- polls --------------------------------------------------------------------------------------------------

    def poll_at(self) -> float:
        """When to poll unless the stream brings something before."""
        is_open = self._opened_at is not None
        return self._polls.due(self._pulse.active_at, self.heartbeat_s, is_open=is_open, is_proved=self.is_proved)

    def polls(self, now: float) -> float:
        """A poll begins; returns for how long its answer is worth waiting. Raises `LinkError` to leave the address."""
        if self._polls.is_polling and now >= self._impatient_at():
            raise self._not_live()
        return min(self._tuning.connect_timeout_s, self._polls.asked(self.heartbeat_s, now))

    def ask(self) -> Ask:
        """What to ask for."""
        snapshot, etag = self.snapshot, None
        if snapshot is not None and self._resume:
            known = self._etag
            etag = known[1] if known is not None and known[0] is snapshot else etag_of(snapshot)
        return Ask(self.endpoint, self.position, snapshot, etag)

    def polled(self, ask: Ask, answer: Answer, now: float) -> Outcome:
        """Apply a poll's answer; raises `LinkError` where it is not to be believed."""
        position, held = answer.position, self.position
        changed, notice = not self.is_proved, None
        is_newer = held is None or (position.epoch == held.epoch and position.revision > held.revision)
        if held != ask.position and not is_newer:
            # The stream was quicker.
            self._polls.answered(now)
            return NOTHING
        if held is not None and position.epoch == held.epoch and position.revision < held.revision:
            # Replicas behind one address are never quite in step. One that stays behind for long has another past.
            can_believe = answer.baseline is not None and answer.source == "live"
            if not can_believe or not self._doubt.is_over(now):
                return self._polled_behind(position, now)
        if answer.baseline is None:
            if self.snapshot is not ask.snapshot:
                return NOTHING
            self.position = position
        else:
            notice = self._doubt.look(position, self.position, now)
            changed = self._take(answer.baseline, position) or changed
            if answer.etag is not None and self.snapshot is not None:
                self._etag = (self.snapshot, answer.etag)
        self._polled_here = True
        self._polls.answered(now)
        if answer.source == "live":
            self._proved(now)
        else:
            self.freshness.shown(word_of("stale", answer.staleness_s, now), now)
            self._doubt.end()
            self.service_state = "stale"
            self._heard_not_live("stale", now)
        return Outcome(self.snapshot if changed else None, notice)

    def _polled_behind(self, position: EventId, now: float) -> Outcome:
        """No proof, and nothing against the state either: it ages from here on."""
        self._polls.answered(now)
        self.freshness.lost()
        self._pulse.not_live(now)
        self.service_state = "behind"
        self._note("not_live", f"the service is behind, at {position}")
        return NOTHING

    def poll_failed(self, error: LinkError, now: float) -> bool:
        """Take note of a poll that failed; returns whether the address is to be left."""
        self._poll_error = f"; a poll: {error.detail}"
        return self._polls.failed(error, now)

    # ---- what the application is told ---------------------------------------------------------------------------

    def _proved(self, now: float) -> None:
        """The service has shown that the state is the newest it knows, and no older than what was held."""
        self.freshness.proved(now, self._pulse.counts_s)
        self._live(now)

    def _live(self, now: float) -> None:
        self._pulse.proved()
        self._worked(now)
        if not self._polls.is_polling:
            self.last_error = None
        self.service_state = "live"

    def _worked(self, now: float) -> None:
        self._doubt.end()
        self.addresses.worked()
        if not self._proved_here:
            self._proved_here, self._well_since = True, now

    def view(self, now: float) -> View:
        """How fresh the state is at this moment; the step to stale needs no event to happen."""
        return self.freshness.view(now, self._pulse.counts_s)

    def stale_in_s(self, now: float) -> float | None:
        """After how long the state turns stale by time alone; None where it does not, or has."""
        return self.freshness.stale_in_s(now, self._pulse.counts_s)
