"""COCO's average precision of boxes, the same for every order, batch size and number of processes."""

import importlib
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from pvision.detection.records import Prediction, Target
from pvision.errors import ConfigError, DataError, MissingExtraError

__all__ = ["AveragePrecision"]

_SUMMARY = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
# As COCO has them, in float64: in float32 an overlap of exactly 0.6 would miss the threshold 0.6.
_OVERLAPS: list[float] = np.linspace(0.5, 0.95, 10).tolist()
_RECALLS: list[float] = np.linspace(0.0, 1.0, 101).tolist()


class AveragePrecision(Metric):
    """Compute COCO's average precision, AP@[.5:.95], with `faster-coco-eval` behind `torchmetrics`.

    COCO's evaluation takes detections of equal score in the order of the images, so it gives another value when they
    come in another order. Here images are first sorted by what they hold, and boxes by score, class and place: the
    value depends on the set of images alone, however they were ordered, batched and shared among processes. Several
    processes may hold different numbers of images, also none; an image that two of them hold counts twice.

    Of an image the 100 best detections of each class count, as in COCO.

    Args:
        class_names: of the data, by label; a label with an empty name stands for nothing and gets no value.

    Raises:
        ConfigError: if there are no class names.
        MissingExtraError: if torchvision or faster-coco-eval is not installed.

    Example:
        >>> metric = AveragePrecision(["person"])
        >>> target = {"boxes": torch.tensor([[0.0, 0.0, 8.0, 8.0]]), "labels": torch.tensor([0])}
        >>> metric.update([{**target, "scores": torch.tensor([0.9])}], [target])
        >>> round(metric.compute()["map_person"], 3)
        1.0
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    images: list[Tensor]

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__()
        if isinstance(class_names, str) or not class_names:
            raise ConfigError(f"class_names must be a list of at least one name, but {class_names!r} came.")
        _require_extra()
        self.class_names = tuple(class_names)
        # One list of flat tensors: torchmetrics gathers it whole, from processes without images too.
        self.add_state("images", default=[], dist_reduce_fx="cat")

    @override
    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """Add images.

        Args:
            predictions: what was found in each image.
            targets: what is in it, in the same order; both in the same pixels.

        Raises:
            DataError: if the two do not fit each other, a number is not finite, or a label has no name.
        """
        if len(predictions) != len(targets):
            raise DataError(
                f"{len(predictions)} predictions came for {len(targets)} targets; each image has one of each."
            )
        for found, true in zip(predictions, targets, strict=True):
            rows = self._rows(found, "predictions", found["scores"])
            self.images.append(_packed(rows, self._rows(true, "targets", torch.zeros(len(true["labels"])))))

    @override
    def compute(self) -> dict[str, float]:
        """Return ``map``, ``map_50``, ``map_75``, ``map_small``, ``map_medium``, ``map_large`` and ``map_CLASS``.

        From 0 to 1; NaN where it is undefined, because the data holds no such object. In the name of a class other
        characters than letters, digits, dot, dash and underscore become an underscore; where that makes two values of
        one name, the second is ``map_class_LABEL``.
        """
        values = _evaluated(sorted(_unpacked(self.images)))
        per_class = dict(zip(values["classes"].reshape(-1).tolist(), values["map_per_class"].reshape(-1), strict=False))
        found = {name: _defined(values[name]) for name in _SUMMARY}
        for label, name in enumerate(self.class_names):
            if name:
                found[self._key(label, taken=found)] = _defined(per_class.get(label))
        return found

    def _rows(self, boxes: Prediction | Target, which: str, scores: Tensor) -> Tensor:
        """Return boxes, scores and labels as one float32 table ``(N, 6)``."""
        places, labels = boxes["boxes"].reshape(-1, 4), boxes["labels"]
        if not len(places) == len(scores) == len(labels):
            raise DataError(
                f"{which} hold {len(places)} boxes, {len(scores)} scores and {len(labels)} labels; each box needs one."
            )
        columns = [places.float(), scores.float()[:, None].to(places.device), labels.float()[:, None]]
        rows = torch.cat(columns, dim=1).detach().to(self.device)
        if not torch.isfinite(rows).all():
            raise DataError(
                f"{which} hold a box or score that is not finite, so they cannot be ranked. If training diverged, "
                "lower the learning rate."
            )
        known = [label for label, name in enumerate(self.class_names) if name]
        if strange := sorted(set(labels.tolist()) - set(known)):
            raise DataError(
                f"{which} hold the label {strange[0]}, but the classes are "
                f"{', '.join(f'{label} {self.class_names[label]}' for label in known)}. Leave such boxes out before."
            )
        return rows

    def _key(self, label: int, *, taken: Mapping[str, float]) -> str:
        key = "map_" + re.sub(r"[^A-Za-z0-9_.-]", "_", self.class_names[label])
        return f"map_class_{label}" if key in taken else key


def _packed(found: Tensor, true: Tensor) -> Tensor:
    """Return one image as one flat tensor: how many rows, and the rows."""
    sizes = torch.tensor([len(found), len(true)], dtype=found.dtype, device=found.device)
    return torch.cat([sizes, found.reshape(-1), true.to(found).reshape(-1)])


def _unpacked(images: Tensor | Sequence[Tensor]) -> list[tuple[list[tuple[float, ...]], list[tuple[float, ...]]]]:
    """Return each image's rows of detections and of objects, both in canonical order."""
    flat = images.tolist() if isinstance(images, Tensor) else [value for one in images for value in one.tolist()]
    result, place = [], 0
    while place < len(flat):
        sizes, place = (int(flat[place]), int(flat[place + 1])), place + 2
        tables = []
        for size in sizes:
            rows = [tuple(flat[start : start + 6]) for start in range(place, place + 6 * size, 6)]
            # The best first: COCO's sort keeps the order of equals.
            tables.append(sorted(rows, key=lambda row: (-row[4], row[5], row[:4])))
            place += 6 * size
        result.append((tables[0], tables[1]))
    return result


def _evaluated(images: Sequence[tuple[list[tuple[float, ...]], list[tuple[float, ...]]]]) -> Mapping[str, Tensor]:
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(
        box_format="xyxy",
        iou_type="bbox",
        iou_thresholds=_OVERLAPS,
        rec_thresholds=_RECALLS,
        class_metrics=True,
        backend="faster_coco_eval",
        sync_on_compute=False,  # what it gets here comes from all processes already
    )
    metric.warn_on_many_detections = False
    for found, true in images:
        metric.update([_as_dict(found)], [_as_dict(true)])
    if not images:
        return {name: torch.tensor(-1.0) for name in (*_SUMMARY, "map_per_class", "classes")}
    values: Mapping[str, Tensor] = metric.compute()
    return values


def _as_dict(rows: Sequence[tuple[float, ...]]) -> dict[str, Tensor]:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5].long()}


def _defined(value: Tensor | None) -> float:
    """Return COCO's value, NaN for its −1, which means that nothing was there to be found."""
    return math.nan if value is None or float(value) < 0 else float(value)


def _require_extra() -> None:
    for package in ("torchvision", "faster_coco_eval"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtraError(package, "detection", "Average precision of boxes") from error
