"""The picture of `continual_results.py`: accuracy against the cost of one prediction."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["draw"]

INK, GRID, LEAD = "#22303c", "#e4e7eb", "#c3cad1"
STYLES = {  # Okabe and Ito's colours, which the colour-blind tell apart; markers for print without colours
    "reference": ("#6b7680", "D"),
    "sequential": ("#b87a00", "v"),
    "prompts": ("#b04a86", "P"),
    "low-rank, separate": ("#0072b2", "o"),
    "closed form": ("#00795a", "s"),
    "DualLoRA": ("#d55e00", "*"),
}
GAP = 0.036  # between the names, as a share of the axis


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw average accuracy with its interval over GMACs per image, a colour and a marker for each family."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 6.2), dpi=160, layout="constrained")
    axis = figure.subplots()
    methods = list(found["methods"].values())
    costs = [one["cost"]["cost/gmacs_per_image"]["mean"] for one in methods]
    least, most = min(costs), max(costs)
    span = (most - least) or least
    axis.set_xlim(least - 0.06 * span, most + 0.38 * span)
    axis.set_ylim(0, 1)
    for group in _columns(methods, costs, near=0.12 * span):
        _column(axis, group, shift=0.014 * span)
    for family, (colour, marker) in STYLES.items():
        if any(one["family"] == family for one in methods):
            axis.plot([], [], marker, color=colour, label=family)
    axis.legend(loc="lower right", frameon=False, fontsize=9, title="family", title_fontsize=9, labelcolor=INK)
    axis.set_xlabel("GMACs for one image (methods of equal cost stand side by side)", color=INK)
    axis.set_ylabel("accuracy on all 30 classes at the end", color=INK)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _columns(methods: list[Any], costs: list[float], *, near: float) -> list[list[tuple[float, Any]]]:
    """Return the methods in groups of about equal cost, each from the lowest accuracy to the highest."""
    ordered = sorted(zip(costs, methods, strict=True), key=lambda one: one[0])
    groups: list[list[tuple[float, Any]]] = []
    for cost, method in ordered:
        if groups and cost - groups[-1][0][0] < near:
            groups[-1].append((cost, method))
        else:
            groups.append([(cost, method)])
    return [sorted(group, key=lambda one: _accuracy(one[1])["mean"]) for group in groups]


def _column(axis: Any, group: list[tuple[float, Any]], *, shift: float) -> None:
    """Draw methods of about equal cost side by side, with their names in a column on the right."""
    heights = _apart([_accuracy(method)["mean"] for _, method in group])
    right = max(cost for cost, _ in group) + shift * 7
    for place, ((cost, method), height) in enumerate(zip(group, heights, strict=True)):
        colour, marker = STYLES[method["family"]]
        found = _accuracy(method)
        where = cost + (place % 4) * shift  # intervals of equal cost would hide each other
        mean, low, high = found["mean"], found["low"], found["high"]
        around = None if low is None else [[mean - max(low, 0)], [min(high, 1) - mean]]
        axis.errorbar(
            where,
            mean,
            yerr=around,
            fmt=marker,
            color=colour,
            markersize=13 if marker == "*" else 7,
            elinewidth=1.1,
            capsize=2.5,
            zorder=3,
        )
        axis.plot([where, right - shift / 2], [mean, height], color=LEAD, linewidth=0.8, zorder=1)
        axis.annotate(method["label"], (right, height), color=colour, fontsize=8.5, va="center", ha="left")


def _apart(heights: list[float]) -> list[float]:
    """Return rising heights for names, moved as little as keeps them from touching."""
    placed = list(heights)
    for _ in range(200):
        for place in range(len(placed) - 1):
            lack = GAP - (placed[place + 1] - placed[place])
            if lack > 0:
                placed[place] -= lack / 2
                placed[place + 1] += lack / 2
    lowest = min(placed, default=0.0)
    return [height + max(0.0, 0.02 - lowest) for height in placed]


def _accuracy(method: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = method["metrics"]["continual/average_accuracy"]
    return found
