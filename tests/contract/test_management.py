"""The management client reads what the service says that it answers: their types are written apart and stay alike."""

import pytest

from configsvc.web import messages
from configsvc_client import admin_types

ALIKE = {
    "Entry": "KeyEntry",
    "Entries": "ScopeEntries",
    "Release": "ReleaseDetails",
    "KeyReleases": "KeyHistory",
} | {
    name: name
    for name in (
        "PastValues",
        "Changed",
        "ReleaseRow",
        "Releases",
        "Difference",
        "KeyRelease",
        "Override",
        "Freeze",
        "Drift",
        "Frozen",
        "OwnKeys",
        "BackupHead",
        "RestoredScope",
        "Restored",
    )
}
"""The client's name for an answer, and the service's."""


@pytest.mark.parametrize(("client", "service"), ALIKE.items())
def test_both_sides_name_the_same_fields(client: str, service: str) -> None:
    ours, theirs = getattr(admin_types, client), getattr(messages, service)
    assert set(ours.__struct_encode_fields__) == set(theirs.__struct_encode_fields__)


def test_an_outcome_has_the_fields_of_what_was_done_and_of_what_would_be() -> None:
    both = {*messages.Written.__struct_encode_fields__, *messages.Planned.__struct_encode_fields__}
    assert set(admin_types.Outcome.__struct_encode_fields__) == both
