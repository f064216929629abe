"""What a reader was told, and what follows from it: the state by the documented rules, and no code of ours."""

import json
from typing import Any


class Transcript:
    """Messages in the order in which a reader got them. Adding one that a stream must never send is an error."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.revisions: list[int] = []
        """Of each change, as they came."""
        self.snapshots: list[int] = []
        """The revision of each snapshot."""
        self.states: set[str] = set()
        """Those that statuses have named."""
        self.last_id = ""
        self._at: tuple[str, int] | None = None

    def __repr__(self) -> str:
        return f"<Transcript at {self.last_id}: {len(self.snapshots)} snapshots, changes {self.revisions}>"

    def add(self, event: str, id: str, data: str | dict[str, Any]) -> None:
        """Take one message. `id` is empty where it has none, or the last one where the client repeats it."""
        body: dict[str, Any] = json.loads(data) if isinstance(data, str) else data
        self._move(id)
        match event:
            case "snapshot":
                self.snapshots.append(body["revision"])
                self.values = {key: entry["value"] for key, entry in body["entries"].items()}
            case "change":
                self._change(body)
            case "status":
                self.states.add(body["state"])
            case _:
                raise AssertionError(f"unknown event {event!r}")

    def _move(self, id: str) -> None:
        if not id:
            return
        epoch, _, revision = id.partition(":")
        at = (epoch, int(revision))
        assert self._at is None or self._at[0] != epoch or self._at <= at, f"went back to {id}: {self}"
        self._at, self.last_id = at, id

    def _change(self, body: dict[str, Any]) -> None:
        assert self.snapshots, "a change before the first snapshot"
        revision = body["revision"]
        seen = max([*self.revisions[-1:], self.snapshots[-1]])
        assert revision > seen, f"change {revision} after {seen}"
        self.revisions.append(revision)
        assert not body["set"].keys() & set(body["deleted"])
        for key in body["deleted"]:
            del self.values[key]
        self.values |= {key: entry["value"] for key, entry in body["set"].items()}
