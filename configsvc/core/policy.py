"""Who may do what: identities, permissions, and the one decision that every path of the service asks for.

Pure, and closed by default: what no permission names is refused. A permission is a string `verb:namespace/environment`,
`*` standing for any of a part (`read:payments/*`, `admin:*`). Knows neither tokens (`configsvc.auth`) nor routes, which
name the verb that they need.
"""

from typing import Literal

import msgspec

from configsvc.core.model import Scope

Action = Literal["open", "self", "read", "deploy", "emergency", "admin"]
"""What a route needs: nothing at all, any identity, or a permission for its scope.

`deploy` covers everything that changes a scope in the ordinary way, `emergency` a change past review, and `admin` what
is about the store as a whole; whoever has `admin` may do all.
"""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A caller as an authenticator knows it. `expires_at` is a Unix time, None where the identity does not end."""

    name: str
    permissions: tuple[str, ...] = ()
    expires_at: float | None = None


ANONYMOUS = Identity(name="anonymous", permissions=("admin:*",))
"""Everybody, where authentication is off."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Yes or no, and why: the reason is for the log and for the refused caller."""

    allowed: bool
    reason: str


def decide(identity: Identity | None, action: str, scope: Scope | None = None) -> Decision:
    """Say whether `identity` may do `action` to `scope`.

    An action that needs a permission is refused where no scope is given, unless a permission covers every scope.
    """
    if action == "open":
        return Decision(allowed=True, reason="open to everybody")
    if identity is None:
        return Decision(allowed=False, reason="no identity")
    if action == "self":
        return Decision(allowed=True, reason="open to every identity")
    for permission in identity.permissions:
        if _covers(permission, action, scope):
            return Decision(allowed=True, reason=f"granted by {permission}")
    return Decision(allowed=False, reason=f"{identity.name} has no permission {action}:{scope or '*'}")


def _covers(permission: str, action: str, scope: Scope | None) -> bool:
    verb, colon, where = permission.partition(":")
    if not colon or verb not in (action, "admin"):
        return False
    if where in ("*", "*/*"):
        return True
    namespace, slash, environment = where.partition("/")
    if scope is None or not slash:
        return False
    return namespace in ("*", scope.namespace) and environment in ("*", scope.environment)
