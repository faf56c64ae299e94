"""Numbers with their uncertainty, and columns that stand under each other."""

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvision.continual.statistics import Interval

__all__ = ["MEANING", "PRIVATE", "aligned", "duration", "number", "plus_minus"]

MEANING = "±: half of the 95 % confidence interval of the mean over runs (Student t); –: one run cannot tell."
PRIVATE = (
    "each ε is that of one run. Runs on the same records add up if they are published together, and choosing one among "
    "them costs more than it says."
)


def aligned(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> list[str]:
    """Return one line per row: the columns ``left`` flush left, the others flush right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if place in left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def number(value: float) -> str:
    """Return a number as tables show it: fractions with four decimals, – if it is undefined."""
    if math.isnan(value):
        return "–"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def plus_minus(interval: "Interval | None") -> str:
    """Return a mean with half the width of its confidence interval."""
    if interval is None:
        return "–"
    return f"{number(interval.mean)} ± {number((interval.high - interval.low) / 2)}"


def duration(seconds: float) -> str:
    """Return seconds as a clock shows them: ``1:05`` or ``1:02:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
