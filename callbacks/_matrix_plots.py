"""Pictures of an accuracy matrix: the matrix itself, and how the accuracy on each experience moves."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pvision.callbacks._figures import INK, literal, new_figure
from pvision.continual.metrics import accuracy_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_table", "curves", "heatmap"]

GRID = "#e4e7eb"
LIGHT_TO_DARK = (
    "#fdf6e9",
    "#d6e2d3",
    "#7cb2b8",
    "#12566e",
)  # sand where all is forgotten, deep water where all is kept
FULL_NAMES = 8  # of more experiences than this the picture shows the numbers only
LONGEST_NAME = 18
MOST_LABELS = 25  # lines that can be named beside their ends; of more, only the average is


def heatmap(
    accuracy: np.ndarray, names: Sequence[str], *, measure: str = "accuracy", forgotten: Collection[int] = ()
) -> "Figure":
    """Draw the lower triangle in percent, and each row's average over what was learned so far beside it.

    Args:
        accuracy: R, fractions ``(T, T)``: row t was measured after experience t; NaN cells stay empty.
        names: of the T experiences.
        measure: what the numbers are.
        forgotten: columns that do not count in the averages, because they were forgotten on request.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    count = len(accuracy)
    cell = max(0.42, 0.78 - 0.02 * count)
    figure = new_figure("Drawing the accuracy matrix", width=cell * (count + 1.6) + 2.6, height=cell * count + 1.9)
    table, averages = figure.subplots(1, 2, width_ratios=[count, 1])
    lower = np.where(np.tri(count, dtype=bool), accuracy, np.nan)
    _cells(table, lower, size=_number_size(count))
    _cells(averages, accuracy_curve(accuracy, forgotten=forgotten)[:, None], size=_number_size(count))
    labels = _labels(names)
    upright = all(len(label) <= 3 for label in labels)
    turned: dict[str, Any] = {} if upright else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    for axis in (table, averages):
        axis.set_yticks(range(count), labels)
    table.set_xticks(range(count), labels, **turned)
    table.set_xlabel("test set of experience")
    table.set_ylabel("after training on experience")
    averages.set_xticks([0], ["average"], **turned)
    averages.tick_params(labelleft=False)
    figure.suptitle(f"{measure[:1].upper()}{measure[1:]} in percent", color=INK, fontsize=12, fontweight="bold")
    return figure


def class_table(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str) -> "Figure":
    """Draw a value per step and class in percent; NaN cells stay empty.

    Args:
        values: fractions ``(steps, classes)``.
        rows: names of the steps.
        columns: names of the classes; of more than 40 every second or further one is written.
        title: of the whole.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    steps, classes = values.shape
    across = 0.62 if classes <= MOST_LABELS else 0.24
    figure = new_figure("Drawing the accuracy matrix", width=across * classes + 2.8, height=0.45 * steps + 2.2)
    axis = figure.subplots()
    _cells(axis, values, size=9 if classes <= MOST_LABELS else 0)
    axis.set_yticks(range(steps), _labels(rows))
    shown = range(0, classes, -(-classes // 40))
    names = [_shortened(columns[place]) for place in shown]
    axis.set_xticks(list(shown), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axis.set_ylabel("after training on experience")
    figure.suptitle(title, color=INK, fontsize=12, fontweight="bold")
    return figure


def curves(
    accuracy: np.ndarray, names: Sequence[str], *, measure: str = "accuracy", forgotten: Collection[int] = ()
) -> "Figure":
    """Draw the accuracy on each experience from when it was learned on, and the average over those learned so far.

    Args and Raises as for `heatmap`.
    """
    count = len(accuracy)
    height = min(6.2, 4.2 + 0.1 * count)
    figure = new_figure("Drawing the accuracy matrix", width=min(11.0, 6.4 + 0.22 * count), height=height)
    axis = figure.subplots()
    colours = _colours(count)
    ends: list[tuple[float, str, Any]] = []
    for column, (label, colour) in enumerate(zip(_labels(names), colours, strict=True)):
        rows = np.arange(column, count)
        measured = ~np.isnan(accuracy[rows, column])
        values = 100 * accuracy[rows, column][measured]
        if values.size:
            axis.plot(rows[measured], values, color=colour, linewidth=1.6, marker="o", markersize=4)
            ends.append((float(values[-1]), label, colour))
    average = 100 * accuracy_curve(accuracy, forgotten=forgotten)
    if not np.isnan(average).all():
        axis.plot(np.arange(count), average, color=INK, linewidth=2.8, marker="o", markersize=5, zorder=5)
        ends.append((float(average[~np.isnan(average)][-1]), "average", INK))
    axis.set_xticks(range(count), _labels(names) if count <= FULL_NAMES else _numbers(count))
    margin = 0.03 * max(count - 1, 1)
    axis.set_xlim(-margin, count - 1 + margin)
    axis.set_ylim(-3, 103)
    axis.set_xlabel("after training on experience")
    axis.set_ylabel(f"{measure} in percent")
    axis.set_axisbelow(True)
    axis.grid(axis="y", color=GRID)
    named = ends if count <= MOST_LABELS else ends[-1:]
    _write_beside(axis, named, x=count - 1 + margin, inches=0.8 * height)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.suptitle("What is kept of each experience", color=INK, fontsize=12, fontweight="bold")
    return figure


def _cells(axis: Any, values: np.ndarray, *, size: float) -> None:
    """Colour the cells and write the percentage into each, unless ``size`` is 0; what was just learned stands out."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("kept", LIGHT_TO_DARK)
    axis.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto")
    digits = 1 if len(values) <= 10 else 0
    square = values.shape[0] == values.shape[1]
    for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True) if size else ():
        value = float(values[row, column])
        ink = "white" if value > 0.74 else INK
        weight = "bold" if square and row == column else "normal"
        text = f"{100 * value:.{digits}f}"
        axis.text(column, row, text, ha="center", va="center", fontsize=size, color=ink, fontweight=weight)
    # White lines between the cells, in place of a frame.
    axis.set_xticks(np.arange(values.shape[1] + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="both", length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _write_beside(axis: Any, ends: list[tuple[float, str, Any]], *, x: float, inches: float) -> None:
    """Write each line's name to the right of its end, moved apart where they would overlap."""
    size = 9 if len(ends) <= 12 else 8
    ends = sorted(ends, key=lambda end: end[0])
    gap = 1.25 * size / (72 * inches) * 106  # a line of text, in percent: the axis shows 106
    heights = _apart([value for value, _, _ in ends], gap)
    for height, (value, label, colour) in zip(heights, ends, strict=True):
        axis.annotate(
            f"{label}  {value:.0f}",
            (x, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=size,
            color=colour,
            fontweight="bold" if label == "average" else "normal",
            annotation_clip=False,
        )


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Return heights near rising ``values``, each at least ``gap`` above the one before.

    Labels that would overlap make a block around the middle of their values; blocks that touch become one.
    """
    blocks: list[list[float]] = []
    for place, value in enumerate(values):
        blocks.append([value - place * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    level = np.array([np.mean(block) for block in blocks for _ in block])
    # Within the axis, -3 to 103, as far as there is room.
    level = np.minimum(np.maximum(level, -2), 102 - gap * (len(level) - 1))
    return [float(height) + place * gap for place, height in enumerate(level)]


def _labels(names: Sequence[str]) -> list[str]:
    if len(names) > FULL_NAMES:
        return _numbers(len(names))
    return [_shortened(name) for name in names]


def _shortened(name: str) -> str:
    short = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1].rstrip()}…"
    return literal(short)


def _numbers(count: int) -> list[str]:
    """Return the numbers of experiences as people count them, and as the run prints them."""
    return [str(number) for number in range(1, count + 1)]


def _number_size(count: int) -> float:
    return 10 if count <= 10 else 8


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    # From the first to the last experience; the map's last fifth is too light for a white page.
    return [colormaps["plasma"](place) for place in np.linspace(0.12, 0.78, max(count, 2))[:count]]
