"""The picture of a comparison: accuracy along the stream, and where each group ends."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvision.cli.comparison.groups import Group, lower_is_better, titles
from pvision.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["picture", "save"]

# Okabe and Ito's colours, which people with any colour vision can tell apart, the yellow darkened for thin lines.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b", "#5a5a5a")
_MARKERS = "osD^vP*X"
_INK, _GRID = "#333333", "#e3e3e3"
_MOST_PANELS = 4
_LONGEST_NAME = 36
_CAPTION = "Bands and bars: 95 % confidence interval of the mean over runs. Ticks: single runs."


def picture(groups: Sequence[Group], metrics: Sequence[str], *, title: str) -> "Figure":
    """Draw average accuracy over experiences where runs kept their matrix, and the last value of each metric.

    Args:
        groups: one colour each; bands and bars are 95 % confidence intervals of the mean over runs.
        metrics: the first four are drawn.
        title: above all.

    Raises:
        MissingExtraError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots", "Drawing plots") from error
    metrics, curves = metrics[:_MOST_PANELS], any(group.curves for group in groups)
    rows = len(metrics)
    height = max(4.2 if curves else 0, rows * (0.62 + 0.22 * len(groups)) + 0.9)
    # Figure without pyplot: no window system, no global state.
    figure = Figure(figsize=(10.5 if curves else 7, height), layout="constrained")
    figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    figure.supxlabel(_CAPTION, x=0.01, ha="left", fontsize=8, color="#777777")
    grid = figure.add_gridspec(rows, 2 if curves else 1, width_ratios=(1.25, 1) if curves else None)
    if curves:
        _draw_curves(figure.add_subplot(grid[:, 0]), groups)
    for row, (metric, name) in enumerate(titles(metrics).items()):
        _draw_ends(figure.add_subplot(grid[row, -1]), groups, metric, name=name)
    return figure


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG and return its path."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the picture shows a box, the table the name
        figure.savefig(path, dpi=150, facecolor="white")
    return path


def _draw_curves(panel: Any, groups: Sequence[Group]) -> None:
    from pvision.continual.statistics import mean_interval

    longest = 0
    for number, group in enumerate(groups):
        # As far as all runs of the group went: a mean over fewer would jump for no reason of the method.
        columns = [[value for value in column if math.isfinite(value)] for column in zip(*group.curves, strict=False)]
        if not columns:
            continue
        colour, longest = _COLOURS[number % len(_COLOURS)], max(longest, len(columns))
        places = [place for place, column in enumerate(columns, start=1) if column]
        points = [mean_interval(column) for column in columns if column]
        panel.fill_between(
            places, [p.low for p in points], [p.high for p in points], color=colour, alpha=0.16, linewidth=0
        )
        panel.plot(
            places,
            [p.mean for p in points],
            color=colour,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linewidth=1.8,
            label=f"{_name(group)} (n = {len(group.curves)})",
        )
    panel.set_xlabel("experiences learned", fontsize=9, color=_INK)
    measure = next(group.measure for group in groups if group.curves)
    panel.set_title(f"Average {measure} over what was learned so far", loc="left", fontsize=10, color=_INK)
    panel.set_xlim(0.7, longest + 0.3)
    if longest <= 20:
        panel.set_xticks(range(1, longest + 1))
    panel.set_ylim(top=min(1.005, panel.get_ylim()[1]), bottom=max(0, panel.get_ylim()[0]))
    panel.grid(axis="y", color=_GRID, linewidth=0.8)
    _tidy(panel)
    panel.legend(frameon=False, fontsize=9, loc="best")


def _draw_ends(panel: Any, groups: Sequence[Group], metric: str, *, name: str) -> None:
    for number, group in enumerate(groups):
        interval, values = group.interval(metric), group.values(metric)
        if interval is None:
            continue
        colour, place = _COLOURS[number % len(_COLOURS)], -number
        if interval.n > 1:
            panel.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2.4, alpha=0.55)
            panel.plot(values, [place] * len(values), "|", color=colour, markersize=9, alpha=0.8, markeredgewidth=1)
        panel.plot([interval.mean], [place], _MARKERS[number % len(_MARKERS)], color=colour, markersize=7, zorder=3)
    better = "lower is better" if lower_is_better(metric) else "higher is better"
    panel.set_title(f"{name.replace('_', ' ')} – {better}", loc="left", fontsize=10, color=_INK)
    panel.set_yticks([-number for number in range(len(groups))], [_name(group) for group in groups], fontsize=9)
    panel.set_ylim(-len(groups) + 0.35, 0.65)
    panel.grid(axis="x", color=_GRID, linewidth=0.8)
    panel.margins(x=0.08)
    _tidy(panel)


def _name(group: Group) -> str:
    """Return a group's name as far as there is room, without what matplotlib takes for a formula."""
    name = group.name if len(group.name) <= _LONGEST_NAME else f"{group.name[: _LONGEST_NAME - 1]}…"
    return name.replace("$", r"\$")


def _tidy(panel: Any) -> None:
    panel.set_axisbelow(True)
    panel.tick_params(colors=_INK, labelsize=9, length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color("#999999")
