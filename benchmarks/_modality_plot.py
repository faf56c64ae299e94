"""The picture of `modality_results.py`: what is gained on the new modality against what is kept of RGB."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _labels import LEADER, free_height
from _modality_arms import ARMS

__all__ = ["draw"]

INK, GRID = "#22303c", "#e4e7eb"
KEPT, CHANGED = ("#0072b2", "o"), ("#d55e00", "s")  # Okabe and Ito's colours; markers for print without colours


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw, for infrared and depth, average precision there over that on RGB images afterwards."""
    from matplotlib.figure import Figure

    kinds = {"lwir-1": "simulated infrared", "depth-1": "simulated depth"}
    shown = [kind for kind in kinds if any(name.endswith(f"/{kind}") for name in found["groups"])]
    figure = Figure(figsize=(1 + 5 * len(shown), 5.2), dpi=150, layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _panel(axis, found["groups"], kind, kinds[kind])
    figure.savefig(path)


def _panel(axis: Any, groups: Mapping[str, Any], kind: str, title: str) -> None:
    shown = [(name, groups[f"{name}/{kind}"]) for name in ARMS if f"{name}/{kind}" in groups]
    taken: list[tuple[float, float]] = []
    for name, group in sorted(shown, key=lambda one: one[1]["metrics"]["map_new"]["mean"]):
        new, rgb = (100 * group["metrics"][metric]["mean"] for metric in ("map_new", "map_rgb"))
        colour, marker = KEPT if group["detector_unchanged"] else CHANGED
        axis.plot(rgb, new, marker, color=colour, markersize=7, zorder=3)
        to_the_right = group["detector_unchanged"] or rgb < 25  # where there is room
        height = free_height(taken, rgb + (20 if to_the_right else -20), new, near=30, gap=2.2)
        line = {**LEADER, "relpos": (1 - to_the_right, 0.5)}
        axis.annotate(
            ARMS[name].title,
            (rgb, new),
            xytext=(rgb + (2 if to_the_right else -2), height),
            fontsize=8,
            color=colour,
            ha="left" if to_the_right else "right",
            va="center",
            arrowprops=line if abs(height - new) > 1 else None,
        )
    axis.plot([], [], KEPT[1], color=KEPT[0], label="detector unchanged, bit for bit")
    axis.plot([], [], CHANGED[1], color=CHANGED[0], label="detector changed")
    axis.legend(loc="lower left", frameon=False, fontsize=8, labelcolor=INK)
    axis.set_xlabel("average precision on RGB images afterwards, percent", color=INK)
    axis.set_ylabel(f"average precision on {title}, percent", color=INK)
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 60)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
