"""What a batch for detection holds, and which boxes are refused."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from pvision.errors import DataError

__all__ = ["DetectionBatch", "Prediction", "Target", "check_target", "no_boxes"]


class Target(TypedDict):
    """The objects in one image.

    Attributes:
        boxes: left, top, right, bottom in pixels, float32, ``(N, 4)``; N may be 0.
        labels: which class of the data, from 0, int64, ``(N,)``.
    """

    boxes: Tensor
    labels: Tensor


class Prediction(TypedDict):
    """What a detector found in one image.

    Attributes:
        boxes: left, top, right, bottom in pixels, float32, ``(N, 4)``.
        scores: from 0 to 1, float32, best first, ``(N,)``.
        labels: which class, int64, ``(N,)``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class DetectionBatch(NamedTuple):
    """Images of one modality, as the sensor gave them, with their objects.

    Attributes:
        images: raw values as float32, each ``(C, H, W)``: 0 to 255 for 8-bit images, counts for 16-bit ones, Kelvin,
            millimetres. What they mean, `pvision.detection.ImageInput` says.
        targets: of each image.
        names: of the images, for messages and tables.
        modality: which sensor, for example ``"rgb"`` or ``"lwir"``.
    """

    images: list[Tensor]
    targets: list[Target]
    names: list[str]
    modality: str


def no_boxes() -> Target:
    """Return the target of an image without objects, which is one to learn from too."""
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def check_target(target: Target, *, name: str, height: int, width: int, class_names: Sequence[str]) -> Target:
    """Return a target in float32 and int64, or refuse it.

    Args:
        target: the objects; boxes of any floating or integer type.
        name: of the image, for the message.
        height: of the image in pixels.
        width: of the image in pixels.
        class_names: of the data, by label.

    Raises:
        DataError: naming the image and the box, if the arrays do not fit each other, a box is not finite, has no area
            or leaves the image, or a label has no name.
    """
    boxes, labels = target["boxes"], target["labels"]
    if not boxes.numel():
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise DataError(
            f"{name}: boxes must be (N, 4) with N labels, but {tuple(boxes.shape)} and {tuple(labels.shape)} came."
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(f"{name}: labels must be whole numbers, but {labels.dtype} came.")
    kept = boxes.to(torch.float32)  # what counts: a box thinner than float32 can tell has no area either
    for index, (box, label) in enumerate(zip(kept.tolist(), labels.tolist(), strict=True)):
        if fault := _fault(box, label, height, width, class_names):
            written = tuple(boxes[index].tolist())
            raise DataError(f"{name}: box {index} {written} {fault} Mend or remove it in the annotations.")
    return {"boxes": kept, "labels": labels.to(torch.int64)}


def _fault(box: list[float], label: int, height: int, width: int, class_names: Sequence[str]) -> str | None:
    left, top, right, bottom = box
    if not all(math.isfinite(value) for value in box):
        return "is not finite."
    if right <= left or bottom <= top:
        return "has no area: boxes are left, top, right, bottom (not width and height)."
    if left < 0 or top < 0 or right > width or bottom > height:
        return f"leaves the image of {width} x {height} pixels."
    if not 0 <= label < len(class_names):
        known = ", ".join(f"{number} {text}" for number, text in enumerate(class_names))
        return f"has the label {label}, but the classes are {known}."
    return None
