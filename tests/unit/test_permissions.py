"""Ranges of keys that etcd grants, against what a service needs."""

import pytest

from configsvc.epochs import FORKS
from configsvc.etcd.facts import Permission
from configsvc.permissions import excess, lacks_writing, needed

NEED = needed("a", writes=True)
NO_SLASH = "(the '/' at its end is missing, so names that only begin alike are open too)"


def granted(*ranges: tuple[bytes, bytes]) -> list[Permission]:
    return [Permission(kind="READWRITE", key=key, range_end=end) for key, end in ranges]


@pytest.mark.parametrize(
    ("ranges", "lacks"),
    [
        ([], True),
        ([(b"/config/a/", b"/config/a0")], False),
        ([(b"/config/a/", b"")], True),
        ([(b"/config/a/", b"/config/a/m"), (b"/config/a/m", b"/config/a0")], False),
        ([(b"/config/a/m", b"/config/a0"), (b"/config/a/", b"/config/a/n")], False),
        ([(b"/config/a/", b"/config/a/m"), (b"/config/a/n", b"/config/a0")], True),
        ([(b"\0", b"\0")], False),
        ([(b"/c", b"\0")], False),
        ([(b"/config/a/x", b"\0")], True),
    ],
)
def test_several_grants_add_up(ranges: list[tuple[bytes, bytes]], lacks: bool) -> None:
    assert lacks_writing(granted(*ranges), NEED[0]) is lacks


def test_reading_is_not_writing() -> None:
    read = Permission(kind="READ", key=b"\0", range_end=b"\0")
    assert lacks_writing([read], NEED[0])
    assert not lacks_writing([], needed("a", writes=False)[0])


@pytest.mark.parametrize(
    ("permission", "words"),
    [
        (Permission(key=b"/config/a/", range_end=b"/config/a0"), []),
        (Permission(key=b"/config/a/one"), []),
        (Permission(key=b"/config/a/production/", range_end=b"/config/a/production0"), []),
        # Without the final slash another namespace is included.
        (
            Permission(key=b"/config/a", range_end=b"/config/b"),
            [f"read everything that begins with /config/a {NO_SLASH}"],
        ),
        (Permission(key=b"/config/a/", range_end=b"\0"), ["read the keys from /config/a/ on"]),
        (Permission(key=b"/a", range_end=b"/c"), ["read the keys from /a to /c"]),
        (Permission(kind="WRITE", key=b"/\xff"), ["write the key /\\xff"]),
    ],
)
def test_what_is_too_much(permission: Permission, words: list[str]) -> None:
    assert excess([permission], NEED) == words


def test_what_writing_needs_beyond_reading() -> None:
    reads = [str(need) for need in needed("a", writes=False)]
    assert reads == ["read /config/a/", "read /configsvc/releases/a/"]
    assert [need.prefix for need in needed("a", writes=True)] == [
        *("/config/a/", "/configsvc/releases/a/"),
        *("/configsvc/overrides/a/", "/configsvc/idempotency/"),
        FORKS.decode(),
    ]
    assert [need.prefix for need in needed(None, writes=True)] == ["/config/", "/configsvc/"]
