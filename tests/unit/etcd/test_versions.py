"""What is said of etcd's releases."""

import pytest

from configsvc.etcd.versions import advice, parse_version, too_old


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("2.3.8", "too old"),
        ("3.3.27", "too old"),
        ("3.4.23", "defects"),
        ("3.5.1", "diverge"),
        ("3.5.32", "defects"),
        ("3.5.33", None),
        ("3.6.13", "defects"),
        ("3.6.16", None),
        ("3.7.0", "defects"),
        ("3.7.3", None),
        ("3.8.0-rc.1", None),
        ("4.0.0", None),
        ("not provided", None),
    ],
)
def test_advice(version: str, says: str | None) -> None:
    line = advice(version)
    assert (line is None) if says is None else (says in (line or ""))


def test_too_old_is_what_has_no_usable_gateway() -> None:
    assert [too_old(version) for version in ("3.3.27", "3.4.0", "3.10.1", "x")] == [True, False, False, False]
    assert parse_version("3.6.16-alpha.0") == (3, 6, 16)
