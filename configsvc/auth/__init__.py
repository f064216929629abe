"""Who is calling: one question, answered by the backend that the settings name.

A backend turns a request's `Authorization` header into an identity, or raises `Unauthenticated`. It decides nothing
about what that identity may do (`core/policy.py`) and knows no HTTP server.
"""

from collections.abc import Callable
from typing import Protocol

from configsvc.core.policy import ANONYMOUS, Identity
from configsvc.settings import Settings


class Authenticator(Protocol):
    """Tells who sent a request."""

    generation: int
    """Moved by every change of tokens, keys or policy: an answer that was decided before is not given again."""

    async def identify(self, authorization: str | None) -> Identity:
        """The identity behind an `Authorization` header; raises `Unauthenticated` where there is none."""
        ...

    def holds(self, identity: Identity) -> bool:
        """Whether an identity is still good: asked before each write to an open stream, so it must not wait."""
        ...


class NoAuthentication:
    """Everybody is `anonymous`; tokens are not looked at."""

    generation = 0

    async def identify(self, authorization: str | None) -> Identity:
        return ANONYMOUS

    def holds(self, identity: Identity) -> bool:
        return True


BACKENDS: dict[str, Callable[[Settings], Authenticator]] = {"none": lambda settings: NoAuthentication()}


def authenticator(settings: Settings) -> Authenticator:
    """The backend that the settings name."""
    return BACKENDS[settings.auth](settings)
