"""A table of pictures: what the sensor saw, what the detector saw, what is there and what was found."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from pvision.callbacks._figures import INK, new_figure, short_name
from pvision.detection.records import Prediction, Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["WHAT", "DrawnImage", "draw", "for_the_eye"]

WHAT = "Drawing detections"
"""For what matplotlib is needed."""

# Told apart by most people with a colour vision deficiency, and bright enough for dark images.
COLOURS = ("#ffb000", "#4cc9f0", "#ff5d8f", "#80ed99", "#c77dff", "#f4f1de", "#ff7b00", "#64dfdf")
_ACROSS, _GAP = 2.6, 0.35  # inches


class DrawnImage(NamedTuple):
    """What is known of one image.

    Attributes:
        name: of the image.
        raw: as the sensor gave it, ``(C, H, W)``.
        target: what is there.
        found: what was found.
        seen: what the detector saw, ``(3, H, W)`` from 0 to 1, if known.
        found_before: what was found before adaptation, if known.
    """

    name: str
    raw: Tensor
    target: Target
    found: Prediction
    seen: Tensor | None
    found_before: Prediction | None


def draw(images: Sequence[DrawnImage], class_names: Sequence[str], *, score: float, modality: str) -> "Figure":
    """Draw a row for each image, and a column for each thing that is known of it.

    Args:
        images: at least one, all with the same things known.
        class_names: by label.
        score: below which no box is drawn.
        modality: for the title.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    titles = ["the sensor", "objects"]
    titles += ["the detector saw"] * (images[0].seen is not None)
    titles += ["found before"] * (images[0].found_before is not None)
    titles += ["found"]
    heights = [_ACROSS * image.raw.shape[-2] / image.raw.shape[-1] for image in images]
    labels = sorted({label for image in images for label in _labels(image, score)})
    figure = new_figure(WHAT, width=_ACROSS * len(titles), height=sum(heights) + _GAP * len(images) + 1.1)
    axes = figure.subplots(len(images), len(titles), squeeze=False, height_ratios=heights)
    for row, image in zip(axes, images, strict=True):
        raw = for_the_eye(image.raw)
        seen = raw if image.seen is None else _as_picture(image.seen)
        cells: list[tuple[Any, Target | Prediction | None]] = [(raw, None), (raw, image.target)]
        cells += [] if image.seen is None else [(seen, None)]
        cells += [] if image.found_before is None else [(raw, image.found_before)]
        cells += [(seen, image.found)]
        for axis, (picture, boxes) in zip(row, cells, strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_axis_off()
            if boxes is not None:
                _boxes(axis, boxes, score=score, width=picture.shape[1])
        row[0].set_title(short_name(image.name), fontsize=7, color=INK, loc="left", pad=2)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10, color=INK, fontweight="bold", pad=14)
    _legend(figure, labels, class_names)
    figure.suptitle(f"{modality}: boxes from a score of {score:g} on", color=INK, fontsize=11)
    return figure


def for_the_eye(raw: Tensor) -> np.ndarray:
    """Return a sensor's values as a picture from 0 to 1, ``(H, W)`` or ``(H, W, 3)``, by their 1st and 99th percentile.

    Three channels that hold 0 to 255 are a colour picture as it is. Of any other number of channels the first is shown.
    """
    if raw.shape[0] == 3 and 1 < float(raw.max()) <= 255 and float(raw.min()) >= 0:
        return _as_picture(raw / 255)
    values = raw[0].double().numpy()
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, [1, 99]) if known.size else (0.0, 1.0)
    if high <= low:  # most of it is one value: what stands out is what matters
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    scaled = (values - low) / (high - low if high > low else 1.0)
    picture: np.ndarray = np.clip(np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    return picture


def _boxes(axis: Any, boxes: Target | Prediction, *, score: float, width: int) -> None:
    from matplotlib.patches import Rectangle

    scores: Any = boxes.get("scores")  # of a target there are none
    shown = [1.0] * len(boxes["labels"]) if scores is None else scores.tolist()
    rows = zip(boxes["boxes"].tolist(), boxes["labels"].tolist(), shown, strict=True)
    kept = [row for row in rows if row[2] >= score]
    for (left, top, right, bottom), label, value in reversed(kept):  # the best on top
        colour = _colour(label)
        corner, sides = (left - 0.5, top - 0.5), (right - left, bottom - top)  # pixel 0 is drawn from -0.5 to 0.5
        axis.add_patch(Rectangle(corner, *sides, fill=False, edgecolor="black", linewidth=2.2, alpha=0.6))
        axis.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=colour, linewidth=1.2))
        if scores is not None:
            axis.annotate(
                f"{value:.2f}",
                (min(left, width - 1), top),
                xytext=(1, 1),
                textcoords="offset points",
                fontsize=5,
                color="black",
                bbox={"boxstyle": "square,pad=0.1", "facecolor": colour, "edgecolor": "none"},
                annotation_clip=False,
            )


def _legend(figure: "Figure", labels: Sequence[int], class_names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    if not labels:
        return
    known = [class_names[label] if label < len(class_names) else str(label) for label in labels]
    patches = [
        Patch(facecolor=_colour(label), edgecolor=INK, label=short_name(name))
        for label, name in zip(labels, known, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 6), fontsize=8, frameon=False)


def _labels(image: DrawnImage, score: float) -> set[int]:
    found = [one for one in (image.found, image.found_before) if one is not None]
    kept = [label for one in found for label in one["labels"][one["scores"] >= score].tolist()]
    return {*image.target["labels"].tolist(), *kept}


def _colour(label: int) -> str:
    return COLOURS[label % len(COLOURS)]


def _as_picture(image: Tensor) -> np.ndarray:
    return image.float().clamp(0, 1).permute(1, 2, 0).numpy()
