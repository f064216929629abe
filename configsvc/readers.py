"""Those who follow a scope: where each of them stands, and what it lacks.

A reader is poked where there may be news, without a payload, and pulls what it lacks since its own position. What that
is depends on where it stands and on the hub, so readers that stand at the same place can share what one of them
pulled. Knows no transport: who pulls sends.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from configsvc.core.feed import Feed, Frame, status_frame
from configsvc.core.model import Scope
from configsvc_client.protocol import EventId, Status

if TYPE_CHECKING:
    from configsvc.hub import Hub


class Standing(NamedTuple):
    """Where a reader stands: all that it was told so far, as far as it matters to what it lacks."""

    scope: Scope
    position: EventId | None
    beat: int
    """The hub's heartbeat for which it was sent a status."""
    told: str
    """The state in the last status; a change of it is told at once, not with the next heartbeat."""


Shared = dict[Standing, tuple[list[Frame], Standing]]
"""What readers lack, by where they stand, and where they stand once they have it."""


class Reader:
    """One follower of a scope. Ids never go back.

    Either `async for frames in reader`, which yields lists of frames to send in order, at least one per heartbeat, and
    ends after a status `draining`; or set `poke`, which the hub calls where there may be news, and `pull` until
    `ended`.
    A context manager: leaving ends the subscription.
    """

    __slots__ = ("_hub", "_opened", "_standing", "_wake", "ended", "poke")

    def __init__(self, hub: "Hub", scope: Scope, position: EventId | None) -> None:
        self.ended = False
        """Whether the last frame has been pulled."""
        self.poke: Callable[[], None] = _nobody_waits
        """Look again; called by the hub, and must neither raise nor change what it has."""
        self._hub = hub
        self._opened = hub.clock()
        self._standing = Standing(scope, position, hub.beat, "")
        self._wake: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"<Reader {self.scope} at {self._standing.position}>"

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def scope(self) -> Scope:
        """What it follows."""
        return self._standing.scope

    def close(self) -> None:
        """End the subscription, if it has not ended yet."""
        self.poke = _nobody_waits
        self._hub.unsubscribe(self)

    def __aiter__(self) -> "Reader":
        self._wake = asyncio.Event()
        self.poke = self._wake.set
        return self

    async def __anext__(self) -> list[Frame]:
        assert self._wake is not None
        while not self.ended:
            self._wake.clear()
            if frames := self.pull():
                return frames
            await self._wake.wait()
        raise StopAsyncIteration

    def pull(self, shared: Shared | None = None) -> list[Frame]:
        """What this reader lacks now, in order; nothing where it has all and owes no heartbeat.

        Readers that are given `hub.shared()` and stand at the same place get the same list, made once.
        """
        hub = self._hub
        if hub.draining:
            self.ended = True
            frames = [status_frame(hub.status(self.scope), None, retry_ms=hub.retry_ms())]
        elif shared is not None and (found := shared.get(self._standing)) is not None:
            frames, self._standing = found
        else:
            frames = self._look(shared)
        sent = hub.frames_sent
        for frame in frames:
            sent[frame.event] = sent.get(frame.event, 0) + 1
        return frames

    def _look(self, shared: Shared | None) -> list[Frame]:
        hub, before = self._hub, self._standing
        feed = hub.feeds.get(before.scope)
        if feed is None or not hub.shows(before.scope):
            frames, after = _status(hub, before, "starting")
        elif not _is_ahead(hub, before, feed):
            frames, after = _news(hub, before, feed)
        else:
            # What becomes of it depends on when it came, so it is nobody else's.
            shared = None
            assert before.position is not None
            if hub.in_doubt(before.position, self._opened):
                frames, after = _news(hub, before._replace(position=None), feed)
            else:
                frames, after = _status(hub, before, "behind")
                hub.ahead.add(self)
        if shared is not None:
            shared[before] = frames, after
        self._standing = after
        return frames


def _nobody_waits() -> None:
    pass


def _is_ahead(hub: "Hub", standing: Standing, feed: Feed) -> bool:
    position = standing.position
    if position is None or position.epoch != feed.snapshot.epoch:
        return False
    return position.revision > max(hub.proved(standing.scope), feed.snapshot.revision)


def _news(hub: "Hub", standing: Standing, feed: Feed) -> tuple[list[Frame], Standing]:
    frames = None if standing.position is None else feed.since(standing.position)
    if frames is None:
        frames = [feed.snapshot_frame(hub.proved(standing.scope))]
    if frames:
        standing = standing._replace(position=frames[-1].id)
    heartbeat, standing = _status(hub, standing, "")
    return frames + heartbeat, standing


def _status(hub: "Hub", standing: Standing, state: str) -> tuple[list[Frame], Standing]:
    """The status that a reader is owed, if any; `state` is one that it is in whatever the hub's own is."""
    status = hub.status(standing.scope)
    shown = state or status.state
    if standing.beat == hub.beat and shown == (standing.told or "live"):
        return [], standing
    standing = standing._replace(beat=hub.beat, told=shown)
    if state:
        # No id: it would move the reader's position, which is not this replica's to say.
        status = Status(revision=status.revision, state=state, since=status.since, staleness_s=status.staleness_s)
        return [status_frame(status, None)], standing
    assert standing.position is not None
    if status.revision < standing.position.revision:
        return [status_frame(status, None)], standing
    position = EventId(standing.position.epoch, status.revision)
    return [status_frame(status, position)], standing._replace(position=position)
