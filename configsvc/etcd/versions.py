"""What is known of etcd's releases, as far as it matters to those who read. Pure.

Source: etcd's changelogs and issues #13766, #18089, #19179, #20418, and the watch permission fix of 3.5.33, 3.6.14 and
3.7.1.
"""

import re

OLDEST = (3, 4)
SOUND = {(3, 5): 33, (3, 6): 14, (3, 7): 1}
"""The first patch release of each line that can be recommended."""

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)", re.ASCII)


def parse_version(text: str) -> tuple[int, int, int] | None:
    """`3.6.16` (also with a suffix such as `-rc.0`) as numbers; None for anything else."""
    match = _VERSION.match(text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def too_old(text: str) -> bool:
    """Whether this etcd has no gateway that can be followed (before 3.4)."""
    version = parse_version(text)
    return version is not None and version[:2] < OLDEST


def advice(text: str) -> str | None:
    """What an operator should know of this release; None where there is nothing to say."""
    version = parse_version(text)
    if version is None:
        return None
    line, patch = version[:2], version[2]
    if line < OLDEST:
        return f"etcd {text} is too old: 3.4 is the oldest that works, use 3.5.33, 3.6.14, 3.7.1 or later"
    if line == (3, 5) and patch <= 2:
        return f"etcd {text} may silently diverge after a crash and lose events after a compaction; use 3.5.33 or later"
    if line < (3, 5) or patch < SOUND.get(line, 0):
        return f"etcd {text} has defects that concern readers; use 3.5.33, 3.6.14, 3.7.1 or later"
    return None
