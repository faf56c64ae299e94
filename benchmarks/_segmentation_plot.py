"""The picture of `segmentation_results.py`: old against new classes, and what more steps bring."""

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from _labels import LEADER, free_height
from _segmentation_arms import ARMS, CURVE, MAIN

__all__ = ["draw"]

INK, GRID = "#22303c", "#e4e7eb"
COLOURS = ("#0072b2", "#d55e00", "#00795a", "#b04a86")  # Okabe and Ito's, darkened where text has them

METRICS = ("miou_old_without_background", "miou_new")
CROWD = (55, 73)  # where most methods keep old classes: names stand to the right of all of them


def draw(found: Mapping[str, Any], path: Path, chosen: Callable[..., Any], value: Callable[..., float]) -> None:
    """Draw new over old classes for each method, and both over the steps for a few."""
    from matplotlib.figure import Figure

    panels = [_methods, *([_curve] if any(chosen(found, name, times=2) for name in CURVE) else [])]
    figure = Figure(figsize=(6.25 * len(panels), 5.2), dpi=150, layout="constrained")
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axis, found, chosen, value)
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _methods(axis: Any, found: Mapping[str, Any], chosen: Callable[..., Any], value: Callable[..., float]) -> None:
    names = [name for name in ARMS if name in MAIN and chosen(found, name)]
    places = {
        name: tuple(mean(value(run, metric) for run in chosen(found, name)) for metric in METRICS) for name in names
    }
    taken: list[tuple[float, float]] = []
    for name in sorted(names, key=lambda one: places[one][1]):
        old, new = places[name]
        colour = {"barm": COLOURS[0], "plastic_barm": COLOURS[1], "joint": "#8a929a"}.get(name, INK)
        axis.plot(
            *([value(run, metric) for run in chosen(found, name)] for metric in METRICS), ".", color=colour, alpha=0.45
        )
        axis.plot(old, new, "o", color=colour, markersize=8)
        across = max(old + 2, CROWD[1]) if CROWD[0] < old < CROWD[1] else old + 2
        height = free_height(taken, across, new, near=25, gap=2.4)
        moved = across > old + 2 or height != new
        line = {**LEADER, "relpos": (0, 0.5)} if moved else None
        axis.annotate(
            ARMS[name].title,
            (old, new),
            xytext=(across, height),
            va="center",
            fontsize=9,
            color=colour,
            arrowprops=line,
        )
    axis.set_xlim(-3, 100)
    axis.set_ylim(bottom=-2)
    axis.set_xlabel("old classes: mIoU at the end, percent (small dots: seeds)", color=INK)
    axis.set_ylabel("new classes: mIoU at the end, percent", color=INK)


def _curve(axis: Any, found: Mapping[str, Any], chosen: Callable[..., Any], value: Callable[..., float]) -> None:
    for colour, name in zip(COLOURS, [name for name in CURVE if chosen(found, name, times=2)], strict=False):
        seed = chosen(found, name, times=2)[0]["settings"]["seed"]
        runs = {
            times: run
            for times in (1, 2, 4)
            for run in chosen(found, name, times=times)
            if run["settings"]["seed"] == seed
        }
        for metric, style in zip(METRICS, ("--", "-"), strict=True):
            axis.plot(list(runs), [value(run, metric) for run in runs.values()], style, marker="o", color=colour)
        axis.plot([], [], "-", color=colour, label=ARMS[name].title)
    axis.plot([], [], "--", color=INK, label="old classes")
    axis.plot([], [], "-", color=INK, label="new classes")
    axis.set_xscale("log", base=2)
    axis.set_xticks([1, 2, 4], ["1×", "2×", "4×"])
    axis.set_ylim(-2, 100)
    axis.set_xlabel("steps in each experience but the first", color=INK)
    axis.set_ylabel("mIoU at the end, percent", color=INK)
    axis.legend(frameon=False, fontsize=9, labelcolor=INK)
