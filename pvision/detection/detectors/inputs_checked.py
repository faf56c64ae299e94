"""What a detector is given, checked before its library meets it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pvision.detection.records import Prediction, Target
from pvision.errors import ConfigError, DataError

__all__ = ["by_size", "check_images", "check_targets", "sorted_by_score"]


def check_images(images: Sequence[Tensor]) -> None:
    """Refuse what is no image of three channels.

    Raises:
        DataError: naming the image's place in the batch.
    """
    for place, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point() or not image.numel():
            raise DataError(
                f"A detector takes images of shape (3, H, W) as floats from 0 to 1, but image {place} is {image.dtype} "
                f"of shape {tuple(image.shape)}. Bring it into this form first, for example with ImageInput."
            )


def check_targets(images: Sequence[Tensor], targets: Sequence[Target], class_names: Sequence[str]) -> None:
    """Refuse targets that do not fit the images or the detector's classes.

    Raises:
        DataError: if there are no images, not as many targets, a box without area, or arrays of other shapes.
        ConfigError: naming a label that the detector does not have.
    """
    if not images or len(images) != len(targets):
        raise DataError(
            f"A loss needs at least one image and a target for each, but {len(images)} images and {len(targets)} "
            "targets came. Use `no_boxes()` for an image without objects."
        )
    for place, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise DataError(
                f"Target {place} must have boxes (N, 4) and N labels, but {tuple(boxes.shape)} and "
                f"{tuple(labels.shape)} came. Use `check_target` where the data is read."
            )
        if not bool((boxes[:, 2:] > boxes[:, :2]).all()):
            raise DataError(
                f"Target {place} has a box without area: boxes are left, top, right, bottom. Use `check_target` where "
                "the data is read."
            )
        _check_labels(labels, class_names)


def _check_labels(labels: Tensor, class_names: Sequence[str]) -> None:
    for label in sorted(set(labels.tolist())):
        if not 0 <= label < len(class_names) or not class_names[label]:
            known = ", ".join(f"{number} {name}" for number, name in enumerate(class_names) if name)
            raise ConfigError(
                f"The detector has no class of label {label}. It has: {known}. Targets carry the detector's own "
                "labels: ask `label_of(name)` for them."
            )


def by_size(images: Sequence[Tensor], function: Callable[[list[Tensor]], list[Prediction]]) -> list[Prediction]:
    """Predict images of one size together, and keep their order.

    Libraries pad the images of a batch to the largest one, and convolutions see the padding: what is found in an image
    would depend on the others.
    """
    groups: dict[torch.Size, list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(image.shape, []).append(place)
    found: dict[int, Prediction] = {}
    for places in groups.values():
        found.update(zip(places, function([images[place] for place in places]), strict=True))
    return [found[place] for place in range(len(images))]


def sorted_by_score(boxes: Tensor, scores: Tensor, labels: Tensor) -> Prediction:
    """Return a prediction with its best box first."""
    order = scores.argsort(descending=True, stable=True)
    return {"boxes": boxes[order], "scores": scores[order], "labels": labels[order]}
