"""The rows of the table, one module per group. Each is a function that measures and adds its lines to the run."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.harness import Bench


class World(msgspec.Struct, frozen=True):
    """What a row is given: the run it adds to, and a folder of its own."""

    bench: Bench
    folder: Path


Row = Callable[[World], None]
