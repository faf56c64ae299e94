"""The demo's pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pvision.cli.demo.results import Row
from pvision.errors import MissingExtraError
from pvision.privacy import PublicView

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["accuracy_against_epsilon", "bar_chart", "contact_sheet", "save"]


def bar_chart(rows: Sequence[Row]) -> "Figure":
    """Draw the accuracy of each method and ε on both views, one panel for each sensitive region."""
    regions = list(dict.fromkeys(row.region for row in rows))
    figure, panels = _subplots(len(regions), width=11, height=4.2 * len(regions))
    for panel, region in zip(panels, regions, strict=True):
        mine = [row for row in rows if row.region == region]
        places = np.arange(len(mine))
        for offset, view, colour in ((-0.2, "full", "#1f6f8b"), (0.2, "redacted", "#e0a458")):
            values = [getattr(row, view) for row in mine]
            means, spreads = [np.mean(value) for value in values], [np.std(value) for value in values]
            panel.bar(places + offset, means, 0.4, yerr=spreads, label=f"{view} test view", color=colour, capsize=2)
        panel.set_xticks(places, [_name(row) for row in mine], rotation=40, ha="right", fontsize=8)
        panel.set_ylim(0, 1)
        panel.set_ylabel("test accuracy")
        panel.set_title(f"Sensitive: {region}")
        panel.legend(frameon=False, ncols=2, loc="upper right")
    return figure


def accuracy_against_epsilon(rows: Sequence[Row]) -> "Figure":
    """Draw the full view's accuracy over ε (zero-out), with drop-only and non-private training as lines."""
    regions = list(dict.fromkeys(row.region for row in rows))
    figure, panels = _subplots(len(regions), width=10, height=4 * len(regions))
    for panel, region in zip(panels, regions, strict=True):
        mine = [row for row in rows if row.region == region]
        for method in dict.fromkeys(row.method for row in mine):
            chosen = [row for row in mine if row.method == method]
            if len(chosen) > 1:
                means, spreads = [np.mean(row.full) for row in chosen], [np.std(row.full) for row in chosen]
                panel.errorbar([row.epsilon for row in chosen], means, spreads, marker="o", capsize=3, label=method)
            else:
                view = chosen[0].redacted if method == "drop-only" else chosen[0].full
                panel.axhline(float(np.mean(view)), linestyle="--", color="grey", linewidth=1)
                panel.text(
                    8, float(np.mean(view)), _line_name(method), color="grey", fontsize=8, ha="right", va="bottom"
                )
        panel.set_xscale("log")
        panel.set_xticks([1, 3, 8], ["1", "3", "8"])
        panel.minorticks_off()
        panel.set_xlabel("ε for masked zero-out (for replace where the name says so), δ = 1e-5")
        panel.set_ylabel("test accuracy, full view")
        panel.set_title(f"Sensitive: {region}")
        panel.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def contact_sheet(clips: PublicView, class_names: Sequence[str], *, title: str) -> "Figure":
    """Draw redacted clips, one in a row; only public views may be drawn."""
    frames = clips.video.permute(0, 2, 3, 4, 1).numpy()
    figure, panels = _subplots(len(frames), width=1.1 * frames.shape[1], height=1.15 * len(frames))
    for panel, clip, label in zip(panels, frames, clips.label.tolist(), strict=True):
        panel.imshow(np.concatenate(list(clip), 1))
        panel.set_ylabel(class_names[label], rotation=0, ha="right", va="center", fontsize=8)
        panel.set_xticks([])
        panel.set_yticks([])
    figure.suptitle(title)
    return figure


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG and return its path."""
    figure.savefig(path, dpi=130)
    return path


def _name(row: Row) -> str:
    return row.method if row.epsilon in (0, float("inf")) else f"{row.method}, ε = {row.epsilon:g}"


def _line_name(method: str) -> str:
    return "drop-only (redacted view, ε = 0)" if method == "drop-only" else method


def _subplots(count: int, *, width: float, height: float) -> tuple["Figure", list[Any]]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots", "Drawing plots") from error
    # Figure without pyplot: no window system, no global state.
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(count, 1, squeeze=False)
    return figure, list(panels[:, 0])
