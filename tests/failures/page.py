"""docs/reference/failures.md as data: what each cell says, in words that can be compared with what was observed."""

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs/reference/failures.md"
READS = {"the last value": 1, "the new value": 2, "the file's value": 1, "the default": 0}
"""What a scenario's key reads as; once the failure is over it is always `AFTER`."""
AFTER = 9
_COLUMNS = ("reads", "`status`", "callbacks", "log", "what ends it")
_STATES = re.compile(r"`on_status`: ((?:`\w+`(?:, )?)+)")
_LINE = re.compile(r"\b(INFO|WARNING|ERROR) `([^`]+)`")


class Told(NamedTuple):
    """What an application is told: how often of its key's value, of which states, and the beginnings of log lines."""

    changes: int
    states: list[str]
    lines: list[str]

    def matching(self, said: list[str]) -> dict[str, int]:
        """How many of the lines that were logged each line of the page stands for."""
        return {line: sum(_begins(line, one) for one in said) for line in self.lines}

    def unknown(self, said: list[str]) -> list[str]:
        """What was logged and is not on the page."""
        return [one for one in said if not any(_begins(line, one) for line in self.lines)]


class Row(NamedTuple):
    """What the page says of one failure."""

    name: str
    reads: int
    status: list[str]
    during: Told
    after: Told | None
    """Until all is well again; None where nothing has to end."""


def _begins(line: str, said: str) -> bool:
    return re.match(".*".join(map(re.escape, line.split("…"))), said, re.DOTALL) is not None


def rows() -> list[Row]:
    """The rows of all tables, in order."""
    found = []
    for text in PAGE.read_text("utf-8").splitlines():
        if text.startswith("| "):
            name, *cells = (cell.strip() for cell in text.strip("|").split("|"))
            if name in ("what fails", "what there is"):
                assert tuple(cells) == _COLUMNS
            else:
                found.append(_row(name, *cells))
    return found


def _row(name: str, reads: str, status: str, callbacks: str, log: str, ends: str) -> Row:
    during = _told(callbacks, log)
    assert callbacks == "none" or during.changes or during.states, name
    assert log == "none" or during.lines, name
    after = None if ends == "nothing has to" else _told(ends, "")
    # The value that ends a scenario is told like any other.
    return Row(name, READS[reads], re.findall(r"`(\w+)`", status), during, after and after._replace(changes=1))


def _told(callbacks: str, log: str) -> Told:
    states = _STATES.search(callbacks)
    unread = re.sub(r"`on_change`", "", _STATES.sub("", _LINE.sub("", f"{callbacks} {log}")))
    assert "`" not in unread, f"not understood: {unread}"
    return Told(
        changes=callbacks.count("`on_change`"),
        states=re.findall(r"`(\w+)`", states[1]) if states else [],
        lines=[f"{level} {text}" for level, text in _LINE.findall(f"{callbacks} {log}")],
    )
