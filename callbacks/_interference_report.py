"""The certificate of a run as rows, metrics and files."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pvision.files import write_whole

__all__ = ["Row", "largest", "metrics_of", "write_files"]


@dataclass(frozen=True)
class Row:
    """What one experience's update did to one layer's outputs for the inputs of all experiences before.

    Attributes:
        experience: its index.
        layer: the layer's name.
        change: how far old outputs moved, as a fraction of their norm.
        bound: how far they can move if the update leaves memory and bias alone.
        leak: the size of that part of the update which acts on the memory, as a fraction of the weights'.
        update: the size of the update, the same way.
        rank: directions in the memory before the experience.
        dim: entries of an input.
        inputs: how many old inputs the second moments are of.
        token_margin: the largest excess of change over bound among the inputs that the user's images have after the
            update; None without.
    """

    experience: int
    layer: str
    change: float
    bound: float
    leak: float
    update: float
    rank: int
    dim: int
    inputs: int
    token_margin: float | None = None

    @property
    def excess(self) -> float:
        """By how much the change, or that for one of the user's images, exceeds its bound."""
        return max(self.change - self.bound, -math.inf if self.token_margin is None else self.token_margin)


def largest(rows: Sequence[Row]) -> dict[str, float]:
    """Return the largest change, bound, leak and excess of some rows; nothing of none."""
    if not rows:
        return {}
    return {
        f"certificate/{name}": max(getattr(row, name) for row in rows) for name in ("change", "bound", "leak", "excess")
    }


def metrics_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return what is logged of one experience: the largest values, and change and bound of each layer."""
    each = {f"certificate/{row.layer}/{name}": getattr(row, name) for row in rows for name in ("change", "bound")}
    return {**largest(rows), **each}


def write_files(rows: Sequence[Row], settings: Mapping[str, float | None], *, folder: Path) -> list[Path]:
    """Write all rows as ``interference.csv`` and ``interference.json``, and return the paths."""
    table = io.StringIO()
    writer = csv.DictWriter(table, [*Row.__dataclass_fields__], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    report = {**settings, **largest(rows), "rows": [asdict(row) for row in rows]}
    paths = [folder / "interference.csv", folder / "interference.json"]
    write_whole(paths[0], table.getvalue())
    write_whole(paths[1], json.dumps(report, indent=2, allow_nan=False) + "\n")
    return paths
