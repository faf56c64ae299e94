"""Rows of the comparison, the table that prints them, and what they say in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Row", "format_table", "verdict"]

_OURS = ("MaskDP", "MaskDP, ε for replace", "drop-only", "not private")


@dataclass(frozen=True)
class Row:
    """One method at one ε: accuracies over noise seeds.

    Attributes:
        region: what is sensitive.
        method: the method's name.
        epsilon: the ε made equal between methods, 0 for drop-only, infinite without privacy.
        epsilon_zero_out: ε for content removed.
        epsilon_replace: ε for content exchanged.
        full: accuracy on the full view, one value per noise seed.
        redacted: accuracy on the redacted view, one value per noise seed.
        parameters: parameters trained under noise.
        seconds: of the private training alone, mean over seeds.
    """

    region: str
    method: str
    epsilon: float
    epsilon_zero_out: float
    epsilon_replace: float
    full: Sequence[float]
    redacted: Sequence[float]
    parameters: int
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """The row's numbers under the names of the metrics."""
        return {
            "test/accuracy": float(np.mean(self.full)),
            "test/accuracy_std": float(np.std(self.full)),
            "test/accuracy_redacted": float(np.mean(self.redacted)),
            "test/accuracy_redacted_std": float(np.std(self.redacted)),
            "privacy/epsilon_zero_out": self.epsilon_zero_out,
            "privacy/epsilon_replace": self.epsilon_replace,
            "model/private_parameters": float(self.parameters),
            "time/private_seconds": self.seconds,
        }


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as a table, regions and ε in order."""
    lines = []
    for region in dict.fromkeys(row.region for row in rows):
        lines += ["", f"Sensitive: {region}", _HEADER, "-" * len(_HEADER)]
        lines += [_line(row) for row in rows if row.region == region]
    return "\n".join(lines)


_HEADER = (
    f"{'method':<32} {'ε zero-out':>10} {'ε replace':>10} {'full view':>13} {'redacted view':>14} "
    f"{'private params':>14} {'seconds':>8}"
)


def _line(row: Row) -> str:
    return (
        f"{row.method:<32} {_number(row.epsilon_zero_out):>10} {_number(row.epsilon_replace):>10} "
        f"{_spread(row.full):>13} {_spread(row.redacted):>14} {row.parameters or '-':>14} {row.seconds:>8.1f}"
    )


def _number(value: float) -> str:
    return "inf" if math.isinf(value) else f"{value:.2f}"


def _spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.3f}"
    return f"{mean} ±{np.std(values):.3f}" if len(values) > 1 else f"{mean}       "


def verdict(rows: Sequence[Row], *, test_clips: int) -> list[str]:
    """Return, in words, where MaskDP wins and where it does not.

    Two accuracies on the same clips count as different if they lie further apart than two standard errors of their
    noise seeds plus one of the difference that as many clips can show.

    Args:
        rows: the whole comparison.
        test_clips: how many clips each accuracy was measured on.
    """
    sentences = []
    for row in (row for row in rows if row.method == "MaskDP"):
        others = [other for other in rows if other.region == row.region]
        drop_only = next(other for other in others if other.method == "drop-only")
        rivals = [other for other in others if other.epsilon == row.epsilon and other.method not in _OURS]
        full = [_compared(row.full, drop_only.redacted, "drop-only on redacted clips", test_clips)]
        full += [_compared(row.full, rival.full, rival.method, test_clips) for rival in rivals]
        redacted = [_compared(row.redacted, rival.redacted, rival.method, test_clips) for rival in rivals]
        sentences += [
            f"{row.region}, ε = {row.epsilon:g}, full view: MaskDP {', '.join(full)}.",
            f"{row.region}, ε = {row.epsilon:g}, redacted view: MaskDP is drop-only there; it {', '.join(redacted)}.",
        ]
    return sentences


def _compared(mine: Sequence[float], theirs: Sequence[float], name: str, clips: int) -> str:
    difference = float(np.mean(mine) - np.mean(theirs))
    seeds = math.hypot(np.std(mine) / math.sqrt(len(mine)), np.std(theirs) / math.sqrt(len(theirs)))
    # On the same clips two methods mostly err alike: the error of their difference is that of the clips they part on.
    error = math.sqrt(max(abs(difference), 0.02) / clips)
    if abs(difference) <= 2 * seeds + error:
        return f"ties with {name} ({100 * difference:+.1f} points)"
    return f"{'beats' if difference > 0 else 'loses to'} {name} by {100 * abs(difference):.1f}"
