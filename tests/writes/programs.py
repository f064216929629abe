"""What a schedule is made of: writers with a few commands each, and decisions that say whose turn it is and what fails.

Everything is plain data and comes from one seed, so that a failure can be run again, and made smaller: `shrunk` takes
away commands and decisions as long as the failure stays.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise

import msgspec

from configsvc.core.commands import Policy

KEYS = ("a", "b", "c", "d")
Decision = tuple[str, ...]
"""What happens next, such as `("go", "w1")` or `("hand", "a", "h3")`; what cannot happen then is passed over.

`go` lets an actor's call through (`until`: all before one that begins so), `down` refuses a read, `lost` carries a
write out and loses the answer, `ghost` says that there is no answer, and the write comes later (`deliver`), `kill` ends
an actor before its call, `kill-ghost` with the request on its way, `expire` ends an actor's leases, `hand` puts a key
(without a value: deletes it), `behead` deletes the head or garbles it, `damage` removes the content of an open window,
`compact` forgets the past, `later` lets time pass.
"""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One command of a writer. `back` is for a rollback: how many releases."""

    kind: str
    set: dict[str, str] = {}
    delete: tuple[str, ...] = ()
    policy: Policy = "refuse"
    label: str | None = None
    ttl_s: float | None = None
    back: int = 1
    keyed: bool = False
    """With an Idempotency-Key, and sent again after an answer that says that the outcome is not known."""

    def __str__(self) -> str:
        parts = [self.kind, *(f"{k}={v}" for k, v in self.set.items()), *(f"-{k}" for k in self.delete)]
        if self.kind in ("deploy", "rollback"):
            parts.append(f"overrides={self.policy}")
        parts += [f"version={self.label}"] * bool(self.label) + [f"ttl={self.ttl_s}s"] * bool(self.ttl_s)
        return " ".join(parts + ["with a key"] * self.keyed)


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A scope, what was done to it before, and what the writers want, all at once."""

    seed: int
    setup: tuple[Step, ...]
    writers: tuple[tuple[Step, ...], ...]
    janitor: bool
    max_steps: int
    chunk_records: int
    sweep: bool
    """Whether the janitor looks for what is left over, at the end."""

    def __str__(self) -> str:
        lines = [f"before: {'; '.join(map(str, self.setup)) or 'nothing'}"]
        lines += [f"w{n}: {'; '.join(map(str, steps)) or 'nothing'}" for n, steps in enumerate(self.writers, 1)]
        size = f"more than {self.max_steps} keys go through a window, in chunks of {self.chunk_records}"
        return "\n".join([*lines, size + (", beside a janitor" if self.janitor else "")])


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """How a schedule is drawn: how often another actor comes, and how often which fault."""

    switch: float
    fault: float
    faults: tuple[str, ...]


LOSSES = ("lost", "ghost", "ghost", "down")
DEATHS = ("kill", "kill-ghost", "expire", "expire-live")
HANDS = ("hand", "hand", "later", "compact")


def program(seed: int) -> tuple[Program, Style, random.Random]:
    """The program of a seed, how its schedule is drawn, and the dice for it."""
    rng = random.Random(seed)
    count = rng.choice((2, 2, 3, 3, 4))
    keys = KEYS[:count]
    labels = ("v1", "v2", None, None)
    setup: tuple[Step, ...] = ()
    if rng.random() < 0.65:
        some = [key for key in keys if rng.random() < 0.75] or [keys[0]]
        setup = (Step(kind="deploy", set={key: f"s-{key}" for key in some}, label=rng.choice(labels)),)
        if rng.random() < 0.4:
            setup += (Step(kind="deploy", set=dict.fromkeys(keys, "s2")),)
        if rng.random() < 0.5:
            key, ttl = rng.choice(keys), rng.choice((None, 2.0, 20.0))
            setup += (Step(kind="emergency", set={key: "s-e"}, ttl_s=ttl),)
    writers = tuple(
        tuple(_step(rng, keys, f"{writer}.{number}", labels) for number in range(rng.choice((1, 1, 2))))
        for writer in range(1, rng.choice((2, 2, 3)) + 1)
    )
    faults = [LOSSES, DEATHS, HANDS, LOSSES + DEATHS, LOSSES + DEATHS + HANDS]
    if rng.random() < 0.1:
        faults = [("behead", "kill", "hand"), ("damage", "kill", "expire")]
    made = Program(
        seed=seed,
        setup=setup,
        writers=writers,
        janitor=rng.random() < 0.25,
        max_steps=rng.choice((1, 1, 1, 100)),
        chunk_records=rng.choice((1, 1, 2)),
        sweep=rng.random() < 0.2,
    )
    style = Style(
        switch=rng.choice((0.03, 0.1, 0.3, 0.6)), fault=rng.choice((0.0, 0.05, 0.1, 0.2)), faults=rng.choice(faults)
    )
    return made, style, rng


def _step(rng: random.Random, keys: Sequence[str], value: str, labels: Sequence[str | None]) -> Step:
    kind = rng.choice(("deploy", "deploy", "deploy", "change", "change", "emergency", "delete", "rollback", "expire"))
    keyed = rng.random() < 0.5
    policy: Policy = rng.choice(("refuse", "refuse", "keep", "discard"))
    # Now and then what others want too, or what is there: then nothing changes, or an override is settled.
    word = rng.choice((value, value, value, "same"))
    match kind:
        case "deploy":
            some = [key for key in keys if rng.random() < 0.8] or [keys[0]]
            return Step(kind=kind, set=dict.fromkeys(some, word), policy=policy, label=rng.choice(labels), keyed=keyed)
        case "change" | "emergency":
            some = rng.sample(list(keys), rng.choice((1, 1, 2)))
            gone = (some.pop(),) if len(some) > 1 and rng.random() < 0.3 else ()
            ttl_s = rng.choice((None, 1.0, 5.0)) if kind == "emergency" else None
            return Step(kind=kind, set=dict.fromkeys(some, word), delete=gone, ttl_s=ttl_s, keyed=keyed)
        case "delete":
            return Step(kind=kind, delete=(rng.choice(keys),), keyed=keyed)
        case "rollback":
            return Step(kind=kind, back=rng.choice((1, 1, 2)), policy=policy, keyed=keyed)
    return Step(kind=kind, back=rng.choice((0, 0, 0, 1)))


class Dice:
    """Draws the next decision. `waiting` are those whose turn it could be, `dead` the dead that still have leases."""

    def __init__(self, style: Style, rng: random.Random) -> None:
        self._style = style
        self._rng = rng
        self._count = 0

    def __call__(self, waiting: Sequence[str], last: str, ghosts: int, dead: Sequence[str]) -> Decision:
        rng, style = self._rng, self._style
        actor = last if last in waiting and rng.random() >= style.switch else rng.choice(waiting)
        if ghosts and rng.random() < 0.08:
            return ("deliver", str(rng.randrange(ghosts)))
        if dead and rng.random() < 0.05:
            return ("expire", rng.choice(dead))
        if rng.random() >= style.fault:
            return ("go", actor)
        match fault := rng.choice(style.faults):
            case "hand":
                self._count += 1
                key = rng.choice(KEYS[:3])
                return ("hand", key) if rng.random() < 0.25 else ("hand", key, f"h{self._count}")
            case "later":
                return ("later", rng.choice(("3", "30")))
            case "compact":
                return ("compact",)
            case "behead":
                return ("behead", rng.choice(("delete", "garble")))
            case "damage":
                return ("damage",)
            case "expire":
                return ("expire", rng.choice(dead)) if dead else ("go", actor)
            case "expire-live":
                return ("expire", actor)
        return (fault, actor)


class Replay:
    """Decisions as they were drawn; after the last one everybody goes on, one after the other."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self._left = list(reversed(decisions))

    def __call__(self, waiting: Sequence[str], last: str, ghosts: int, dead: Sequence[str]) -> Decision:
        if self._left:
            return self._left.pop()
        # Writers come first among the waiting; a janitor has no end.
        return ("go", last if last in waiting and last.startswith("w") else waiting[0])


Fails = Callable[[Program, Sequence[Decision]], Awaitable[bool]]


async def shrunk(
    made: Program, decisions: Sequence[Decision], fails: Fails, *, runs: int = 400
) -> tuple[Program, list[Decision]]:
    """A smaller schedule that fails too: fewer commands, fewer decisions, fewer switches between actors."""
    left = [runs]

    async def still(candidate: Program, order: Sequence[Decision]) -> bool:
        left[0] -= 1
        return left[0] >= 0 and await fails(candidate, order)

    best = list(decisions)
    size = max(1, len(best) // 2)
    while left[0] > 0:
        before = (made, list(best))
        for smaller in _smaller(made):
            if await still(smaller, best):
                made = smaller
                break
        at = 0
        while at < len(best):
            candidate = best[:at] + best[at + size :]
            if await still(made, candidate):
                best = candidate
            else:
                at += size
        for at, (one, other) in enumerate(pairwise(best)):
            # Fewer switches: whoever went before goes on.
            if one[0] == other[0] == "go" and one != other and at + 2 < len(best) and best[at + 2] == one:
                candidate = [*best[: at + 1], best[at + 2], other, *best[at + 3 :]]
                if await still(made, candidate):
                    best = candidate
                    break
        if size == 1 and (made, best) == before:
            break
        size = max(1, size // 2)
    return made, best


def _smaller(made: Program) -> list[Program]:
    """The program with one thing less, each in turn."""
    replace = msgspec.structs.replace
    found = []
    for at, steps in enumerate(made.writers):
        for number in range(len(steps)):
            fewer = (*made.writers[:at], (*steps[:number], *steps[number + 1 :]), *made.writers[at + 1 :])
            found.append(replace(made, writers=fewer))
    found += [replace(made, setup=made.setup[:-1])] * bool(made.setup)
    found += [replace(made, janitor=False)] * made.janitor + [replace(made, sweep=False)] * made.sweep
    return found
