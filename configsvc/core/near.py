"""Names that look like one that is not there. Pure."""

from collections.abc import Iterable
from difflib import get_close_matches

MAX_CANDIDATES = 500
"""How many names are looked at: finding near ones must stay cheaper than the request."""


def near(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of `names` that look like `name`, the most alike first."""
    candidates: list[str] = []
    if len(name) <= 128:
        for one in names:
            if abs(len(one) - len(name)) <= max(3, len(name) // 3):
                candidates.append(one)
                if len(candidates) == MAX_CANDIDATES:
                    break
    return get_close_matches(name, candidates, n=3, cutoff=0.7)
