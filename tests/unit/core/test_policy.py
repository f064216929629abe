"""Decisions: closed by default, whatever the permissions look like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.core.model import Scope
from configsvc.core.policy import ANONYMOUS, Identity, decide

SCOPE = Scope("payments", "production")


@pytest.mark.parametrize(
    ("permission", "allowed"),
    [
        ("read:payments/production", True),
        ("read:payments/*", True),
        ("read:*/production", True),
        ("read:*/*", True),
        ("read:*", True),
        ("admin:*", True),
        ("admin:payments/*", True),
        ("read:payments", False),
        ("read:payments/staging", False),
        ("read:orders/*", False),
        ("read:pay*/production", False),
        ("read:payments/production/x", False),
        ("deploy:payments/production", False),
        ("Read:payments/production", False),
        ("read", False),
        ("read:", False),
        ("*:*", False),
        ("", False),
        (":*", False),
    ],
)
def test_what_a_permission_covers(permission: str, allowed: bool) -> None:
    decision = decide(Identity(name="x", permissions=(permission,)), "read", SCOPE)
    assert decision.allowed is allowed
    assert decision.reason


@given(st.text(), st.from_regex("[A-Za-z0-9][a-z]{0,5}", fullmatch=True), st.from_regex("[a-z]{1,5}", fullmatch=True))
def test_without_a_permission_nothing_is_allowed(action: str, namespace: str, environment: str) -> None:
    if action not in ("open", "self"):
        assert not decide(Identity(name="x"), action, Scope(namespace, environment)).allowed
        assert not decide(Identity(name="x"), action).allowed
        assert not decide(None, action, Scope(namespace, environment)).allowed


def test_where_authentication_is_off_everybody_may_do_everything() -> None:
    for action in ("self", "read", "deploy", "emergency", "admin"):
        assert decide(ANONYMOUS, action, SCOPE).allowed
        assert decide(ANONYMOUS, action).allowed


def test_nobody_gets_what_is_open_and_no_more() -> None:
    assert decide(None, "open").allowed
    assert not decide(None, "self").allowed
