"""Hot reads: the bytes of a request to the bytes of its answer, while nothing has changed that the answer rests on.

Clients on keep-alive send the same bytes each time, and a read's answer is a function of these bytes, the feed's state,
how fresh it is, and what its sender may. So the ordinary path answers first, and what it said is said again: nothing is
decided here, only whether a decision still stands. `protocol.py` asks before its parser, and vouches that the bytes are
one whole request with nothing before it unanswered. Knows no socket and no server.
"""

import logging
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from email.utils import formatdate
from hashlib import blake2b
from time import time
from typing import NamedTuple

import aiohttp
import structlog

from configsvc.auth import Authenticator
from configsvc.core.feed import Feed
from configsvc.core.model import Scope
from configsvc.core.policy import Identity
from configsvc.errors import Unavailable
from configsvc.hub import Hub
from configsvc.metrics import LATENCY_BUCKETS_S, Metrics

TESTED_AIOHTTP = ("3.14.5",)
"""The memo stands beside aiohttp's parser and relies on how `RequestHandler` works inside: on no other it is off."""
MAX_ENTRIES = 4096
MAX_BYTES = 32 * 1024 * 1024
"""All answers together, with their requests. A body counts twice: as the feed has it, and with its head."""
MAX_REQUEST_BYTES = 8 * 1024
MAX_SIGHTED = 16_384
ENTRY_BYTES = 1024
"""What an entry costs beside its bytes, about."""
VARYING = frozenset({"Date", "Configsvc-Revision", "Configsvc-Staleness", "Configsvc-Source"})
"""Headers that are written anew while the rest stands."""

log = structlog.get_logger("configsvc.http")

# One head and nothing else, in a grammar so narrow that no two parsers can differ about where it ends. No body, no
# change of protocol, no end of the connection. The quantifiers are possessive: any bytes are judged in one pass.
_HEAD = re.compile(
    rb"GET [!-~]++ HTTP/1\.1\r\n"
    rb"(?:(?!(?i:content-length|transfer-encoding|upgrade|expect|proxy-connection):)"
    rb"(?!(?i:connection:(?![\t ]*+keep-alive[\t ]*+\r)))"
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~\x80-\xff]*+\r\n)++"
    rb"\r\n"
)
# Each request has its own: such an answer is never asked for again, or would repeat another request's id.
_EACH_ITS_OWN = re.compile(
    rb"\n(?i:traceparent|tracestate|baggage|x-request-id|x-correlation-id|x-amzn-trace-id|x-cloud-trace-context|"
    rb"uber-trace-id|sentry-trace|b3|x-b3-[a-z]+|x-datadog-[a-z-]+|range|if-range):"
)


def supported(version: str = aiohttp.__version__) -> bool:
    """Whether the memo was tested with this aiohttp; says so in the log where it was not."""
    if version in TESTED_AIOHTTP:
        return True
    log.warning("hot reads are off: they were not tested with this aiohttp", aiohttp=version, tested=TESTED_AIOHTTP)
    return False


def is_head(data: bytes) -> bool:
    """Whether `data` is the head of one GET without a body, whole, and nothing else."""
    return _HEAD.fullmatch(data) is not None


class Ground(NamedTuple):
    """What an answer rests on, noted by whoever made it."""

    feed: Feed
    generation: int
    identity: Identity


class Ticket(NamedTuple):
    """The claim that what the ordinary path is about to answer may be kept, under the rights as they were before it."""

    key: bytes
    rights: int


class Answer:
    """One answer: its parts, what it rests on, and how often it was given since that was last counted."""

    __slots__ = (
        "body",
        "data",
        "ground",
        "hits",
        "live_until",
        "moves",
        "rights",
        "route",
        "seconds",
        "size",
        "status",
        "template",
        "until",
        "used",
    )

    def __init__(
        self,
        ticket: Ticket,
        ground: Ground,
        *,
        route: str,
        status: int,
        template: bytes,
        body: bytes,
        live_until: float,
    ) -> None:
        self.ground, self.rights = ground, ticket.rights
        self.route, self.status = route, status
        self.template, self.body = template, body
        self.data = b""
        """What is sent: head and body as one piece."""
        self.size = len(ticket.key) + 2 * (len(template) + len(body)) + ENTRY_BYTES
        self.live_until = live_until
        """When, by the monotonic clock, its reader's identity ends."""
        self.until = float("-inf")
        """Up to when `data` may be sent as it is, unless the hub moves or rights change before."""
        self.moves = -1
        self.used = False
        """Whether it was given since room was last wanted."""
        self.hits = 0
        self.seconds = 0.0


class Memo:
    """Answers by request, bounded in count and bytes; the least used make room.

    The key of an answer begins with a secret of this process, so no sender can aim at the hash table, and with the
    listener and the client certificate, so one caller's answer is never another's. A token is part of the request.
    `varying` gives a read's headers of freshness, as the ordinary path has them.
    """

    def __init__(
        self,
        hub: Hub,
        metrics: Metrics,
        authenticator: Authenticator,
        varying: Callable[[Hub, Scope], Mapping[str, str]],
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        wall: Callable[[], float] = time,
    ) -> None:
        self.bytes = 0
        self._hub, self._metrics, self._authenticator, self._varying = hub, metrics, authenticator, varying
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._clock, self._wall = hub.freshness.clock, wall
        self._secret = secrets.token_bytes(32)
        self._answers: dict[bytes, Answer] = {}
        self._sighted: set[int] = set()
        self._date = (0, b"")
        self._root = logging.getLogger()

    def __len__(self) -> int:
        return len(self._answers)

    def caller(self, listener: str, certificate: bytes) -> bytes:
        """What the keys of a connection begin with."""
        name = listener.encode()
        parts = len(name).to_bytes(4, "big") + name + certificate
        return blake2b(parts, key=self._secret, digest_size=16).digest()

    # ---- again --------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Answer | None:
        """The answer to a request whose like was answered before, counted as given; None where it has to be made."""
        answer = self._answers.get(key)
        if answer is None or self._root.isEnabledFor(logging.DEBUG):
            # At level debug every request has its log line, which the ordinary path writes.
            return None
        now = self._clock()
        current = now < answer.until and answer.moves == self._hub.moves
        if answer.rights != self._authenticator.generation or not (current or self._renew(answer, now)):
            self._drop(key)
            return None
        answer.used = True
        seconds = self._clock() - now
        if seconds > LATENCY_BUCKETS_S[0]:
            # Something came between; the others are all of one bucket, and are counted together.
            self._metrics.answered_again(answer.route, answer.status, 1, seconds)
        else:
            answer.hits += 1
            answer.seconds += seconds
        return answer

    def _renew(self, answer: Answer, now: float) -> bool:
        """Write the varying headers anew; False where the answer does not stand any more."""
        hub, (feed, generation, identity) = self._hub, answer.ground
        if hub.draining or now >= answer.live_until or not self._authenticator.holds(identity):
            return False
        try:
            if hub.feed(feed.scope) is not feed or feed.generation != generation:
                return False
        except Unavailable:
            return False
        wall = self._wall()
        if self._date[0] != int(wall):
            self._date = (int(wall), formatdate(int(wall), usegmt=True).encode())
        values = {name.encode(): value.encode() for name, value in self._varying(hub, feed.scope).items()}
        answer.data = answer.template % {**values, b"Date": self._date[1]} + answer.body
        answer.moves = hub.moves
        answer.until = min(now + 1 - wall % 1, hub.live_until(feed.scope), answer.live_until)
        return True

    # ---- admission ----------------------------------------------------------------------------------------------

    def ticket(self, key: bytes) -> Ticket | None:
        """Before the ordinary path: a claim to keep what it will answer, at the second sight of a request."""
        if len(key) > MAX_REQUEST_BYTES or _EACH_ITS_OWN.search(key):
            return None
        if (sight := hash(key)) in self._sighted:
            return Ticket(key, self._authenticator.generation)
        if len(self._sighted) >= MAX_SIGHTED:
            self._sighted.clear()
        self._sighted.add(sight)
        return None

    def admit(
        self,
        ticket: Ticket,
        ground: Ground,
        *,
        route: str,
        status: int,
        reason: str,
        headers: Iterable[tuple[str, str]],
        body: bytes,
    ) -> None:
        """After the ordinary path: keep what it answered, where that is worth its bytes."""
        expires_at = ground.identity.expires_at
        live_until = float("inf") if expires_at is None else self._clock() + expires_at - self._wall()
        template = _template(status, reason, headers)
        answer = Answer(ticket, ground, route=route, status=status, template=template, body=body, live_until=live_until)
        self._drop(ticket.key)
        if answer.size > self._max_bytes // 4:
            return
        self._keep(ticket.key, answer)
        while len(self._answers) > self._max_entries or self.bytes > self._max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        """Drop the oldest answer that was not given of late; one that was becomes the newest."""
        key = next(iter(self._answers))
        answer = self._answers[key]
        self._drop(key)
        if answer.used:
            answer.used = False
            self._keep(key, answer)

    def _keep(self, key: bytes, answer: Answer) -> None:
        self._answers[key] = answer
        self.bytes += answer.size

    def _drop(self, key: bytes) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self.bytes -= answer.size
            self._count(answer)

    # ---- metrics ------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Count the answers that were given since the last time, as the ordinary path counts its own."""
        for answer in self._answers.values():
            self._count(answer)
        self._metrics.memo_entries, self._metrics.memo_bytes = len(self._answers), self.bytes

    def _count(self, answer: Answer) -> None:
        if answer.hits:
            self._metrics.answered_again(answer.route, answer.status, answer.hits, answer.seconds)
            answer.hits, answer.seconds = 0, 0.0


def _template(status: int, reason: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} {reason}".replace("%", "%%")]
    for name, value in headers:
        lines.append(f"{name}: %({name})b" if name in VARYING else f"{name}: {value}".replace("%", "%%"))
    return "\r\n".join([*lines, "", ""]).encode()
