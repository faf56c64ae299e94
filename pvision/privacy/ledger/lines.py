"""The bytes of a privacy ledger: one JSON object per line, each chained to the line before it by SHA-256.

A line is ``{"previous":"…","kind":"…",…,"hash":"…"}``. ``hash`` covers every byte of the line before ``,"hash":"``, and
``previous`` is the hash of the line before, so no byte of an inner line can change unseen.
"""

import hashlib
import json
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

__all__ = ["FORMAT", "ROOT_HASH", "LedgerMark", "decode", "encode"]

FORMAT = 1
ROOT_HASH = "0" * 64
"""What the first line gives as the hash of the line before it."""

_START = b'{"previous":"'
_SEAL = b',"hash":"'


class LedgerMark(NamedTuple):
    """A position in a ledger that a checkpoint carries: plain values, so that it loads as such.

    Attributes:
        id: the random id in the ledger's header.
        length: bytes of the ledger up to and including the line that was last.
        hash: the hash of that line.
    """

    id: str
    length: int
    hash: str


def encode(previous: str, entry: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the line of ``entry`` with its newline, and the line's hash.

    Args:
        previous: the hash of the line before, `ROOT_HASH` for the first.
        entry: plain values; ``kind`` comes first by custom.
    """
    text = json.dumps({"previous": previous, **entry}, separators=(",", ":"), allow_nan=False, default=_plain)
    body = text[:-1].encode("ascii")
    digest = hashlib.sha256(body).hexdigest()
    return body + _SEAL + digest.encode("ascii") + b'"}\n', digest


def decode(line: bytes, previous: str) -> tuple[bytes, dict[str, Any], str]:
    """Return what stands before the line's object (nothing, or a torn write), the object's entry, and its hash.

    Args:
        line: one line without its newline.
        previous: the hash that the line has to name as that of the line before.

    Raises:
        ValueError: if a byte was changed, or the line does not follow on ``previous``.
    """
    # No string inside an object can look like a start: JSON writes its quotation marks with a backslash.
    start = line.rfind(_START)
    body, seal, _ = line[start:].rpartition(_SEAL)
    digest = hashlib.sha256(body).hexdigest()
    if start < 0 or line[start:] != body + seal + digest.encode("ascii") + b'"}':
        raise ValueError("its hash does not fit what it says")
    entry = json.loads(line[start:])
    del entry["hash"]
    if entry.pop("previous") != previous:
        raise ValueError("it does not follow on the line before it")
    return line[:start], entry, digest


def _plain(value: object) -> int | float:
    """Return a number of another library, as a statement may hold one, as Python's own."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"a ledger holds plain values, not {type(value).__name__}")
