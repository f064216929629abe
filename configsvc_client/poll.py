"""Polling: when to ask for the state because the stream does not bring it, and what the answer means.

Proxies that buffer hold a stream back: its head never comes, or heartbeats come late or never, while ordinary requests
are answered. A frozen service answers neither. Pure: times and answers come in. Knows neither sockets (`link.py`) nor
what a state does to the one that is held (`session.py`).

The rules:

- A stream that is silent for longer than heartbeats explain is *suspected*, and the address is asked for the state,
  once per heartbeat at most. Before the first state that is after a second, because an application waits.
- A stream given up while answers came is opened again at once: perhaps only that connection was dead. When the next one
  is silent too the address is *polled*: the answers are the link, and the stream is tried again more and more seldom.
- The stream is the link again after heartbeats in time. One snapshot is not enough: it can be what made a buffer
  overflow. Heartbeats that come in a bunch were held back.
- A poll that fails ends polling like a failed stream ends a stream.
"""

import re
import zlib
from collections.abc import Mapping
from random import Random
from typing import NamedTuple

import msgspec

from configsvc_client.errors import LinkError
from configsvc_client.freshness import read_staleness
from configsvc_client.options import Endpoint, Options
from configsvc_client.protocol import Baseline, Entry, EventId, check_nesting, decode_baseline, parse_event_id
from configsvc_client.snapshot import Snapshot

SUSPECT_AFTER = (1.25, 1.35)
"""Heartbeats of silence; a range, so that clients of one service that stood still do not poll in step."""
SPREAD = (1.0, 1.1)
"""Heartbeats between polls."""
SILENT_STREAMS = 2
"""So many silent streams in a row, with answers to polls beside each, are no accident."""
TIMELY_BEATS = 3
MAX_TRIALS = 16

# As RFC 9110 has them, in ASCII: what is sent back must fit into a header.
_ETAG = re.compile(r'(?:W/)?"[!#-~]{0,256}"', re.ASCII)
_REVISION = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class Ask(NamedTuple):
    """A poll: where, and what was held when it was sent."""

    endpoint: Endpoint
    position: EventId | None
    snapshot: Snapshot | None
    etag: str | None


class Answer(NamedTuple):
    """What a poll brought: a state, or None where it is the one that was held; and up to where it is proved."""

    position: EventId
    source: str
    staleness_s: float | None
    baseline: Baseline | None
    etag: str | None


class Polls:
    """For each address whether its streams are silent, and when the next poll and the next stream are due."""

    def __init__(self, options: Options, random: Random) -> None:
        tuning = options.tuning
        self._random = random
        self._backoff, self._stream_retry = tuning.backoff, tuning.stream_retry
        self._impatient_s = tuning.connect_timeout_s / 2
        # Half of what an application waits for its first value at most; one that never waits is in no hurry.
        self._first_s = min(tuning.first_poll_after_s, options.start_timeout_s / 2 or tuning.first_poll_after_s)
        self._url = ""
        self._silent: dict[str, int] = {}
        self._trials: dict[str, int] = {}
        self._next_at: dict[str, float] = {}
        self._stream_at: dict[str, float] = {}
        self.interval_s = options.heartbeat_s
        """Between polls where they are the link."""
        self._suspect_after = SUSPECT_AFTER[0]
        self._answered_at: float | None = None
        self._heard = False
        self._beats = 0

    def at(self, endpoint: Endpoint) -> None:
        """Speak of this address from now on."""
        self._url = endpoint.url
        self._answered_at = None
        self._heard = False

    def inherit(self, other: "Polls", endpoint: Endpoint) -> None:
        """Begin with what another process has found out about proxies."""
        self._silent, self._trials, self.interval_s = dict(other._silent), dict(other._trials), other.interval_s
        self.at(endpoint)

    @property
    def is_polling(self) -> bool:
        """Whether polls are the link at this address."""
        return self._silent.get(self._url, 0) >= SILENT_STREAMS

    @property
    def patience(self) -> float:
        """How many times longer than usual a stream may be silent: a service's heartbeat may be a slow one."""
        return 2.0 ** self._trials.get(self._url, 0) if self.is_polling else 1.0

    # ---- the stream ---------------------------------------------------------------------------------------------

    def stream_at(self) -> float:
        """When a stream is to be tried, where polls are the link."""
        return self._stream_at.get(self._url, 0.0) if self.is_polling else 0.0

    def asked_stream(self) -> None:
        """A stream is being opened."""
        self._heard = False
        self._beats = 0
        self._suspect_after = self._random.uniform(*SUSPECT_AFTER)

    def heard(self) -> None:
        """The stream told something of the state."""
        self._heard = True

    def beat(self, gap_s: float | None, heartbeat_s: float) -> bool:
        """The stream brought a heartbeat, `gap_s` after the one before; returns whether that ends polling."""
        in_time = gap_s is not None and heartbeat_s / 2 <= gap_s <= SUSPECT_AFTER[1] * heartbeat_s
        self._beats = self._beats + 1 if in_time else 1
        if self._beats < TIMELY_BEATS:
            return False
        was_polling = self.is_polling
        self._silent.pop(self._url, None)
        self._trials.pop(self._url, None)
        return was_polling

    def late(self) -> None:
        """The stream brought what a poll had brought before."""
        self._beats = 0

    def is_answered(self, silent_since: float) -> bool:
        """Whether a poll was answered while the stream was silent."""
        return self._answered_at is not None and self._answered_at >= silent_since

    def stream_lost(self, error: LinkError, silent_since: float, heartbeat_s: float, now: float) -> float | None:
        """The delay before the next stream here; None where the loss is one of the address."""
        if error.kind == "draining" or self._answered_at is None:
            return None
        if not self.is_polling:
            was_silent = error.kind in ("timeout", "stalled") or (
                _is_cut(error) and now - silent_since >= self._suspect_after * heartbeat_s
            )
            if not was_silent or not self.is_answered(silent_since):
                return None
            silent = self._silent[self._url] = self._silent.get(self._url, 0) + 1
            if silent < SILENT_STREAMS:
                return self._backoff.delay_s(0, self._random)
            self.interval_s = heartbeat_s
        trial = self._trials.get(self._url, 0)
        self._trials[self._url] = min(trial + 1, MAX_TRIALS)
        delay = self._stream_retry.ceiling_s(trial) * self._random.uniform(0.8, 1.0)
        self._stream_at[self._url] = now + delay
        return delay

    # ---- polls --------------------------------------------------------------------------------------------------

    def due(self, silent_since: float, heartbeat_s: float, *, is_open: bool, is_proved: bool) -> float:
        """When the next poll is to be made unless an event comes before."""
        if self.is_polling or (self._silent.get(self._url) and not self._heard):
            suspect_at = 0.0
        elif not is_proved and not self._heard:
            suspect_at = silent_since + self._first_s
        else:
            limit_s = self._suspect_after * heartbeat_s
            suspect_at = silent_since + (limit_s if is_open else min(limit_s, self._impatient_s))
        return max(suspect_at, self._next_at.get(self._url, 0.0))

    def asked(self, heartbeat_s: float, now: float) -> float:
        """A poll is being made; returns the heartbeat that it is one of."""
        interval_s = self.interval_s if self.is_polling else heartbeat_s
        self._next_at[self._url] = now + interval_s * self._random.uniform(*SPREAD)
        return interval_s

    def answered(self, now: float) -> None:
        """It was answered."""
        self._answered_at = now

    def failed(self, error: LinkError, now: float) -> bool:
        """It failed; returns whether the address is to be left."""
        self._next_at[self._url] = max(self._next_at.get(self._url, 0.0), now + min(error.retry_after_s, 60.0))
        # Perhaps it is only polls that fail now.
        self._stream_at.pop(self._url, None)
        return self.is_polling


def _is_cut(error: LinkError) -> bool:
    """Whether somebody between may have ended a stream that was silent for too long."""
    return error.kind in ("ended", "unreachable") or (error.status or 0) >= 500


# ---- answers ---------------------------------------------------------------------------------------------------------


class _Absent(msgspec.Struct, frozen=True):
    """A problem that says that a scope has neither a key nor a release, and what applies all the same: defaults."""

    code: str
    epoch: str
    entries: dict[str, Entry] = {}


_absent_decoder = msgspec.json.Decoder(_Absent)


def etag_of(snapshot: Snapshot) -> str:
    """The tag that a service gives this state."""
    return f'"{snapshot.epoch}:{snapshot.revision}"'


def read_answer(
    ask: Ask, status: int, content_type: str, headers: Mapping[str, str], body: bytes, *, scope: tuple[str, str]
) -> Answer | None:
    """Read a 200, a 304 or the 404 of a scope that holds nothing; None for a 404 that says anything else.

    Raises `LinkError` (`garbage`, `not_a_stream`) for what no service would send.
    """
    baseline: Baseline | None = None
    if status == 304:
        if ask.etag is None or ask.snapshot is None:
            raise LinkError("garbage", "304 without a question")
        epoch, least = ask.snapshot.epoch, ask.snapshot.revision
    elif status == 200:
        if content_type != "application/json":
            raise LinkError("not_a_stream", f"the answer is {content_type}, not application/json")
        baseline = _decoded(body)
        if (baseline.namespace, baseline.environment) != scope:
            raise LinkError("garbage", f"state of {baseline.namespace}/{baseline.environment}, which was not asked for")
        epoch, least = baseline.epoch, baseline.revision
    else:
        baseline = _absent(content_type, body, scope)
        if baseline is None:
            return None
        epoch, least = baseline.epoch, 0
    text = headers.get("Configsvc-Revision", "")
    position = parse_event_id(f"{epoch}:{text}") if _REVISION.fullmatch(text) else None
    if position is None or position.revision < least:
        raise LinkError("garbage", f"state {epoch}:{least} with Configsvc-Revision {text!r}")
    if status == 404 and baseline is not None:
        # Nothing is stored, so nothing says when that began.
        baseline = msgspec.structs.replace(baseline, revision=position.revision)
    source, staleness = headers.get("Configsvc-Source", ""), read_staleness(headers.get("Configsvc-Staleness"))
    etag = headers.get("ETag", "") if status == 200 else ""
    return Answer(position, source, staleness, baseline, etag if _ETAG.fullmatch(etag) else None)


def _decoded(body: bytes) -> Baseline:
    try:
        return decode_baseline(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LinkError("garbage", f"the state does not read: {error}") from error


def _absent(content_type: str, body: bytes, scope: tuple[str, str]) -> Baseline | None:
    if content_type != "application/problem+json":
        return None
    try:
        absent = _absent_decoder.decode(body)
        check_nesting(absent.entries)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if absent.code != "scope_not_found":
        return None
    return Baseline(namespace=scope[0], environment=scope[1], epoch=absent.epoch, revision=0, entries=absent.entries)


def unpacked(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """A body as it was before compression; never larger than `max_bytes`, whatever is in it."""
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise LinkError("garbage", f"the answer is encoded as {encoding!r}, which was not offered")
    unpacker = zlib.decompressobj(wbits=31)
    try:
        plain = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise LinkError("garbage", f"the answer does not unpack: {error}") from error
    if len(plain) > max_bytes:
        raise LinkError("garbage", f"the state is larger than {max_bytes} bytes")
    if not unpacker.eof:
        raise LinkError("garbage", "the answer does not unpack: it is cut")
    return plain
