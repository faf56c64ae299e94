"""Count what the entries of a privacy ledger charge."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

__all__ = ["Tally", "torn_entry"]


def torn_entry(tail: bytes, *, block: int) -> dict[str, Any]:
    """Return the entry that follows ``tail``, the beginning of a line that was cut, on the same line."""
    return {"kind": "torn", "bytes": len(tail), "sha256": sha256(tail).hexdigest(), "charged": block}


class Tally:
    """The running count of a ledger's entries, which refuses an entry that no writer of ours writes.

    Args:
        block: steps in a whole reservation, what a torn line is charged as.
        released_at: noise multiplier and sample rate of every release in this ledger.
    """

    def __init__(self, *, block: int, released_at: tuple[float, float] = (0.0, 0.0)) -> None:
        self.block = block
        self.charged = self.sessions = self.torn = 0
        self.crashes = self.lost = 0  # of the sessions before the last, and of torn lines
        self.open = False  # whether the last session has not settled
        self.reserved = 0  # its newest reservation: older ones were used up before that was made
        self._released_at = released_at

    def add(self, entry: Mapping[str, Any], *, before: bytes = b"") -> None:
        """Count ``entry``, which stands after the bytes ``before`` on its line.

        Raises:
            ValueError: if no writer of ours writes such an entry at this place.
        """
        kind = entry["kind"]
        if kind == "torn":
            self._add_torn(entry, before)
        elif before:
            raise ValueError("it does not begin where a line begins")
        elif kind == "open":
            self.crashes += self.open
            self.lost += self.reserved
            self.sessions += 1
            self.open, self.reserved = True, 0
        elif kind == "reserve":
            self._add_reserve(entry)
        elif kind == "settle":
            self.charged -= _whole(entry["unused"], most=self.reserved)
            self.open, self.reserved = False, 0
        else:
            raise ValueError(f"no entry is called {kind!r}")

    def _add_torn(self, entry: Mapping[str, Any], before: bytes) -> None:
        if not before or dict(entry) != torn_entry(before, block=self.block):
            raise ValueError("it does not describe the torn line before it")
        self.charged += self.block
        self.lost += self.block
        self.torn += 1

    def _add_reserve(self, entry: Mapping[str, Any]) -> None:
        steps = _whole(entry["steps"], most=self.block)
        if not self.sessions or steps < 1:
            raise ValueError("nobody can have reserved that")
        if (entry["noise_multiplier"], entry["sample_rate"]) != self._released_at:
            raise ValueError("it is about other noise than the header")
        self.charged += steps
        self.open, self.reserved = True, steps


def _whole(value: object, *, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{value!r} steps cannot be")
    return value
