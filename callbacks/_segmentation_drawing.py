"""A table of pictures: the image, the labels that are true, and those that were predicted."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pvision.callbacks._figures import INK, new_figure, short_name
from pvision.callbacks._label_colours import palette
from pvision.continual.masks import BACKGROUND, VOID

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["WHAT", "DrawnMask", "draw_masks"]

WHAT = "Drawing masks"
"""For what matplotlib is needed."""

_ACROSS, _OPACITY = 2.6, 0.6  # inches; how much of the image a class hides


class DrawnMask(NamedTuple):
    """What is known of one image.

    Attributes:
        name: of the image.
        image: from 0 to 1, ``(3, H, W)``.
        truth: labels, ``(H, W)``.
        found: predicted labels, ``(H, W)``.
    """

    name: str
    image: Tensor
    truth: Tensor
    found: Tensor


def draw_masks(
    images: Sequence[DrawnMask], class_names: Sequence[str], *, learned: Collection[int], title: str
) -> "Figure":
    """Draw a row for each image: itself, the truth on it, the prediction on it; below, what the colours mean.

    Args:
        images: at least one.
        class_names: of the classes from 1 on.
        learned: labels that can be predicted by now; the legend says which of the others the truth shows.
        title: of the whole.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    heights = [_ACROSS * image.image.shape[1] / image.image.shape[2] for image in images]
    figure = new_figure(WHAT, width=3 * _ACROSS, height=sum(heights) + 0.25 * len(images) + 1.2)
    axes = figure.subplots(len(images), 3, squeeze=False, height_ratios=heights)
    for row, one in zip(axes, images, strict=True):
        picture = one.image.float().clamp(0, 1).permute(1, 2, 0).numpy()
        for axis, shown in zip(row, (picture, _over(picture, one.truth), _over(picture, one.found)), strict=True):
            axis.imshow(shown, interpolation="nearest")
            axis.set_axis_off()
        row[0].set_title(short_name(one.name), fontsize=7, color=INK, loc="left", pad=2)
    for axis, heading in zip(axes[0], ("image", "truth", "prediction"), strict=True):
        axis.set_title(heading, fontsize=10, color=INK, fontweight="bold", pad=12)
    shown = np.unique(np.concatenate([mask.numpy().ravel() for one in images for mask in (one.truth, one.found)]))
    _legend(figure, [int(label) for label in shown if label != BACKGROUND], class_names, learned)
    figure.suptitle(title, color=INK, fontsize=11)
    return figure


def _over(picture: npt.NDArray[np.float32], mask: Tensor) -> npt.NDArray[np.float64]:
    """Lay the colours of the labels over a picture; the background stays as it is."""
    labels = mask.numpy()
    colours = np.array(palette(), dtype=np.float64)[labels] / 255
    opacity = np.where(labels == BACKGROUND, 0.0, _OPACITY)[..., None]
    mixed: npt.NDArray[np.float64] = (1 - opacity) * picture + opacity * colours
    return mixed


def _legend(figure: "Figure", labels: Sequence[int], class_names: Sequence[str], learned: Collection[int]) -> None:
    from matplotlib.patches import Patch

    if not labels:
        return
    colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette()]
    patches = [
        Patch(facecolor=colours[label], edgecolor=INK, label=_called(label, class_names, learned)) for label in labels
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 4), fontsize=8, frameon=False)


def _called(label: int, class_names: Sequence[str], learned: Collection[int]) -> str:
    if label == VOID:
        return "void"
    name = short_name(class_names[label - 1]) if label <= len(class_names) else str(label)
    return name if label in learned else f"{name} (not learned yet)"
