"""What every way of adapting a detector to a modality answers to."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pvision.detection.detectors.detector import Detector

__all__ = ["Adaptation", "by_shape"]


class Adaptation(nn.Module, ABC):
    """A way to make one detector of RGB images work on one other modality.

    It may stand in front of the detector (`translate`), change the detector's weights (`attach` lets some of them take
    gradients), or both. What it holds itself is trained if it requires gradients.

    Attributes:
        changes_detector: whether the detector's own weights are trained, so that RGB images suffer too.
    """

    changes_detector: bool = False

    def attach(self, detector: Detector) -> None:
        """Meet the detector before training, once: freeze it, or let what is to be trained take gradients."""
        detector.freeze()

    @abstractmethod
    def translate(self, images: Tensor) -> Tensor:
        """Return what the detector sees.

        Args:
            images: scaled to 0 to 1, ``(B, C, H, W)``; C as the modality has it.

        Returns:
            From 0 to 1, ``(B, 3, H, W)``.
        """

    def after_training(self, detector: Detector) -> None:
        """Consolidate when training has ended; interpolation of weights happens here."""

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Return what the detector sees of each image; sizes may differ, channels may not."""
        return by_shape(images, self.translate)


def by_shape(images: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Apply a function of batches ``(B, C, H, W)`` to images, those of one size together, and keep their order."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(place)
    results: dict[int, Tensor] = {}
    for places in groups.values():
        batch = function(torch.stack([images[place] for place in places]))
        results.update(zip(places, batch.unbind(0), strict=True))
    return [results[place] for place in range(len(images))]
