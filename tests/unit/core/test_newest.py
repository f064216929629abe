"""The fingerprint of a mirror, kept up while keys change, is the one that all of its keys have."""

from heapq import nlargest
from operator import itemgetter

from hypothesis import given
from hypothesis import strategies as st

from configsvc.core.records import FINGERPRINT_KEYS, Fingerprint, Newest, fingerprint_of


def from_all(mirror: dict[bytes, int]) -> Fingerprint:
    return fingerprint_of(nlargest(FINGERPRINT_KEYS, mirror.items(), key=itemgetter(1)), len(mirror))


# Steps: a key that is put or deleted, and whether that is a revision of its own.
steps = st.lists(st.tuples(st.integers(0, 99), st.booleans(), st.booleans()), max_size=60)


@given(st.integers(0, 100), steps, st.booleans())
def test_it_follows_any_changes(listed: int, steps: list[tuple[int, bool, bool]], asked: bool) -> None:
    mirror = {b"%d" % number: 1 + number // 2 for number in range(listed)}
    newest, revision = Newest(mirror), 100
    for number, is_put, is_next in steps:
        key, revision = b"%d" % number, revision + is_next
        if is_put:
            mirror[key] = revision
            newest.put(key, revision)
        else:
            mirror.pop(key, None)
            newest.delete(key)
        if asked:
            assert newest.fingerprint() == from_all(mirror)
    assert newest.fingerprint() == from_all(mirror)


def test_it_follows_many_more_changes_than_it_keeps() -> None:
    mirror: dict[bytes, int] = {}
    newest = Newest(mirror)
    for revision in range(1, 5000):
        key = b"%d" % (revision * 7919 % 3000)
        mirror[key] = revision
        newest.put(key, revision)
    assert newest.fingerprint() == from_all(mirror)
    for key in sorted(mirror, key=mirror.__getitem__, reverse=True):
        del mirror[key]
        newest.delete(key)
        assert newest.fingerprint() == from_all(mirror)
