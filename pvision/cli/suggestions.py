"""What the user may have meant."""

import difflib
from collections.abc import Collection

__all__ = ["did_you_mean", "nearest"]

_MOST_LISTED = 12


def nearest(word: str, known: Collection[str], *, count: int = 1) -> list[str]:
    """Return up to ``count`` of ``known`` that look like ``word``, the likest first."""
    return difflib.get_close_matches(word, known, n=count, cutoff=0.6)


def did_you_mean(word: str, known: Collection[str], *, count: int = 1, prefix: str = "") -> str:
    """Return the end of a sentence: what ``word`` may stand for, or what there is if nothing is like it."""
    found = nearest(word, known, count=count)
    if found:
        return f"; did you mean {' or '.join(prefix + name for name in found)}?"
    if 0 < len(known) <= _MOST_LISTED:
        return f"; there is {', '.join(prefix + name for name in known)}."
    return "."
