"""What a backup says of a scope: what was put by hand since its release, and what cannot be told."""

import msgspec

from configsvc.core import backup as file_format
from configsvc.core.model import (
    Head,
    Scope,
    canonical,
    content_prefix,
    encode_entry,
    encode_head,
    entry_path,
    head_path,
    manifests_prefix,
    overrides_prefix,
)
from configsvc.core.release import Manifest, Override, Written, encode_content, encode_record, manifest_name
from configsvc.writes.backup import Saved, scopes_of

SCOPE = Scope("pay", "production")
LATER = "2026-01-01T00:00:00.000Z"
HAND = {"by": "somebody", "reason": "changed by hand"}


def raw(value: object) -> bytes:
    return encode_entry(canonical(value), None, {})


class Items:
    """A scope as a backup has it: release 1 deployed `a` and `b`, release 3 changed `b`; 2 was given up."""

    def __init__(self) -> None:
        self.head: Head | None = Head(release=3, version="v1", id="id3", deployed=1)
        self.entries = {"a": raw(1), "b": raw(2)}
        self.overrides: dict[str, Override] = {}
        self.manifests = [
            Manifest(number=1, id="id1", content="c1", checkpoint="s1", base=0, digest="d1"),
            Manifest(number=2, id="id2", content="c2", base=1),
            Manifest(number=3, id="id3", content="c3", base=1, digest="d3"),
        ]
        self.contents = {
            "s1": [Written("a", None, raw(1)), Written("b", None, raw(1))],
            "c2": [Written("a", raw(1), raw(7))],
            "c3": [Written("b", raw(1), raw(2))],
        }

    def saved(self) -> Saved:
        items = {entry_path(SCOPE, key): value for key, value in self.entries.items()}
        if self.head is not None:
            items[head_path(SCOPE)] = encode_head(self.head, None)
        for key, override in self.overrides.items():
            items[overrides_prefix(SCOPE) + key.encode()] = encode_record(override)
        for manifest in self.manifests:
            items[manifests_prefix(SCOPE) + manifest_name(manifest.number)] = encode_record(manifest)
        for id, content in self.contents.items():
            for number, chunk in enumerate(encode_content(content)):
                items[content_prefix(SCOPE, id) + b"%06d" % number] = chunk
        head = file_format.Head(created_at=LATER, cluster_id="1", revision=1, namespace=None, by="ann")
        (found,) = scopes_of(file_format.Contents(head=head, items=items), None)
        return found


def test_as_the_release_left_it_nothing_is_pending() -> None:
    saved = Items().saved()
    assert (saved.overrides, saved.version, saved.digest) == ({}, "v1", "d3")


def test_without_a_head_the_records_tell_what_is_pending() -> None:
    items = Items()
    items.head = None
    items.overrides = {"a": Override(release=2, returns=raw(1), by="ann", reason="fire")}
    assert items.saved().overrides == items.overrides


def test_what_was_put_by_hand_is_pending() -> None:
    items = Items()
    items.entries = {"a": raw(9), "d": raw(4)}
    assert items.saved().overrides == {
        "a": Override(release=3, returns=raw(1), **HAND),
        "b": Override(release=3, returns=raw(2), **HAND),
        "d": Override(release=3, returns=None, **HAND),
    }


def test_over_an_override_it_has_what_that_one_returns_to_and_no_timer() -> None:
    """Who made the override did not make this value."""
    items = Items()
    items.overrides = {key: Override(release=3, returns=raw(1), expires_at=LATER, by="ann") for key in "ab"}
    items.head = msgspec.structs.replace(items.head, overrides={"a": 3, "b": 3})
    items.entries["a"] = raw(9)
    kept = items.overrides["a"]
    assert items.saved().overrides == {"a": msgspec.structs.replace(kept, expires_at=None, **HAND), "b": kept}


def test_before_the_first_deploy_it_overrides_nothing() -> None:
    items = Items()
    items.head = msgspec.structs.replace(items.head, deployed=0)
    items.overrides = {key: Override(release=3, returns=raw(1), expires_at=LATER) for key in "ab"}
    items.entries |= {"a": raw(9), "d": raw(4)}
    assert items.saved().overrides == {"b": items.overrides["b"]}


def test_without_its_history_all_is_taken_as_it_is() -> None:
    for number in range(5):
        items = Items()
        items.entries["a"] = raw(9)
        if number < 2:
            del items.manifests[number * 2]
        elif number == 2:
            del items.contents["s1"]
        elif number == 3:
            del items.contents["c3"]
        else:
            items.head = msgspec.structs.replace(items.head, id="other")
        assert items.saved().overrides == {}


def test_more_than_a_head_could_name_is_taken_for_deployed_and_has_no_label() -> None:
    items = Items()
    items.overrides = {"a": Override(release=3, returns=raw(1), expires_at=LATER)}
    items.head = msgspec.structs.replace(items.head, overrides={"a": 3})
    items.entries |= {f"{'x' * 200}{number}": raw(1) for number in range(2000)} | {"a": raw(9)}
    saved = items.saved()
    assert saved.overrides == {"a": Override(release=3, returns=raw(1), **HAND)}
    assert (saved.version, saved.digest) == (None, None)


def test_many_overrides_of_releases_keep_the_label() -> None:
    items = Items()
    items.overrides = {f"{'x' * 200}{number}": Override(release=3) for number in range(2000)}
    items.head = msgspec.structs.replace(items.head, overrides=dict.fromkeys(items.overrides, 3))
    saved = items.saved()
    assert (saved.overrides, saved.version) == (items.overrides, "v1")
