"""The errors of the client, in one tree.

    ConfigError
    ├── ConfigKeyError (also KeyError)      no value and no default under that key
    ├── ConfigValueError (also ValueError)  a value that is not of the type or within the bounds that a read wants
    ├── InvalidOption (also ValueError)     an argument or variable that cannot be right
    ├── ClientClosed (also RuntimeError)    waiting for a client that was closed
    ├── LinkFailed (also RuntimeError)      a defect ended the link; `wait_ready` and `close` raise it
    └── LinkError                           why a connection was left; never raised to the application

Reads raise `ConfigKeyError`, typed reads also `ConfigValueError`, and nothing else whatever happens to the network;
`wait_ready` also `TimeoutError`.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Literal


class ConfigError(Exception):
    """Base of all errors of this package."""


class ConfigKeyError(ConfigError, KeyError):
    """Nothing is stored under `key`, its schema has no default, and the caller gave none."""

    def __init__(self, key: str, known: Iterable[str] = (), hint: str = "") -> None:
        super().__init__(key)
        self.key = key
        self._known = known
        self._hint = hint

    @property
    def near(self) -> list[str]:
        """Known keys that look like this one, best first; looked for only when asked, because reads may be many."""
        return get_close_matches(self.key, list(self._known), n=3)

    def __str__(self) -> str:
        text = f"no value for {self.key!r} and no default given"
        if self._hint:
            text += f" ({self._hint})"
        near = self.near
        return f"{text}; near: {', '.join(near)}" if near else text

    def __reduce__(self) -> tuple[type["ConfigKeyError"], tuple[str, list[str], str]]:
        return type(self), (self.key, self.near, self._hint)


class ConfigValueError(ConfigError, ValueError):
    """What is stored is not what a typed read wants, and the caller gave no default.

    `problems` says for each key what is stored and what was wanted. `get_int` and its like look at one key; `as_struct`
    at many, and names all at once, also those that are missing, because a struct without them cannot be made.
    """

    def __init__(self, problems: Mapping[str, str], hint: str = "") -> None:
        super().__init__(problems, hint)
        self.problems = dict(problems)
        self._hint = hint

    @property
    def key(self) -> str:
        """The first key that does not fit."""
        return next(iter(self.problems), "")

    def __str__(self) -> str:
        lines = [f"{key!r}: {problem}" for key, problem in self.problems.items()]
        text = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} values do not fit:", *lines])
        return f"{text} ({self._hint})" if self._hint else text


class InvalidOption(ConfigError, ValueError):
    """An argument or environment variable that cannot be right; the text names it."""


class ClientClosed(ConfigError, RuntimeError):
    """The client was closed, and what was asked of it needs an open one."""


class LinkFailed(ConfigError, RuntimeError):
    """A defect ended the link to the service. Reads go on with the last state; `__cause__` has the defect."""


Kind = Literal[
    "unreachable",  # refused, no such host, reset before an answer
    "timeout",  # no answer in time
    "ended",  # the stream ended or was cut
    "stalled",  # the stream is open and silent
    "draining",  # the service said that it is going
    "not_live",  # the service has nothing newer to offer, another one may
    "older",  # the service is behind what this client has shown, or in a history that was left
    "garbage",  # an event that makes no sense
    "not_a_stream",  # an answer of another type, or a redirect
    "status",  # an HTTP status other than 200
    "unknown_scope",  # nobody says which namespace or environment to read
    "not_configsvc",  # what answers at a default address is something else
    "token",  # the token file cannot be read
]


PASSING_STATUS = frozenset({408, 425, 429})
"""Refusals of one moment: a later request may be answered."""


def printable(text: str, max_chars: int = 300) -> str:
    """Text that came over the network, fit for a log line and for `status`."""
    return "".join(char if char.isprintable() else " " for char in text[:max_chars])


class LinkError(ConfigError):
    """Why a connection was left, as data: `addresses.classify` decides what follows from it."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        status: int | None = None,
        retry_after_s: float = 0.0,
        is_final: bool = False,
    ) -> None:
        self.detail = printable(detail)
        super().__init__(self.detail)
        self.kind = kind
        self.status = status
        self.retry_after_s = retry_after_s
        self.is_final = is_final
        """Whether the service itself has refused, for a reason that a person must remove."""
