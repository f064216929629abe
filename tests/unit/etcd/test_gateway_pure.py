"""The gateway's arithmetic, and when a token ends."""

import base64
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.etcd.auth import expiry
from configsvc.etcd.gateway import MAX_PAGE, backoff, next_limit


@given(st.integers(0, 10_000), st.floats(0.001, 1), st.floats(0.001, 5), st.integers())
def test_backoff_stays_below_its_cap(attempt: int, base_s: float, cap_s: float, seed: int) -> None:
    assert 0 <= backoff(attempt, base_s, cap_s, random.Random(seed)) <= min(cap_s, base_s * 2.0 ** min(attempt, 30))


@given(st.integers(1, MAX_PAGE), st.integers(0, 2**30), st.integers(1, 2**26))
def test_pages_grow_slowly_and_stay_positive(limit: int, page_bytes: int, aim_bytes: int) -> None:
    assert 1 <= next_limit(limit, page_bytes, aim_bytes) <= min(MAX_PAGE, 16 * limit)


def test_pages_aim_at_a_size() -> None:
    assert next_limit(32, 32 * 400, 4_000_000) == 512
    assert next_limit(512, 512 * 400, 4_000_000) == 8192
    assert next_limit(32, 32 * 1_400_000, 4_000_000) == 2


def token(claims: Any) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (token({"exp": 1700000000, "username": "ÿþ>?"}), 1700000000.0),
        (token({"username": "app"}), None),
        (token({"exp": "soon"}), None),
        (token([1]), None),
        ("QvWTYNWlGKRMAGmP.11", None),
        ("a.b.c", None),
        ("a.ü.c", None),
        ("", None),
    ],
)
def test_expiry(text: str, expected: float | None) -> None:
    assert expiry(text) == expected


@given(st.text())
def test_expiry_of_anything(text: str) -> None:
    for candidate in (text, f"{text}.{text}.{text}"):
        assert expiry(candidate) is None or isinstance(expiry(candidate), float)
