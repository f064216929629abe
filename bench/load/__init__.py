"""Programs that make load or stand in for a bare reference. Each is a process of its own, takes commands as lines of
JSON on its input, and answers each with one line."""

import base64
import json
import sys
from collections.abc import Iterator
from typing import Any


def commands() -> Iterator[dict[str, Any]]:
    """The commands, until whoever gives them is gone."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(**fields: Any) -> None:
    """Answer a command."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def unpacked(text: str) -> bytes:
    """Bytes that travelled in JSON."""
    return base64.b64decode(text)


def packed(data: bytes) -> str:
    """Bytes for JSON."""
    return base64.b64encode(data).decode()
