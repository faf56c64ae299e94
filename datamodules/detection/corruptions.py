"""Images that something spoilt, to see what a detector can bear.

[0] D. Hendrycks, T. Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
ICLR 2019: the severities are those of its CIFAR-10-C, which are meant for small images.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pvision.checks import one_of, positive_int
from pvision.datamodules.detection.records import DetectionRecords
from pvision.detection.records import DetectionBatch
from pvision.errors import ConfigError

__all__ = ["CORRUPTIONS", "Corrupted"]

_LOW, _HIGH = 0.01, 0.99  # of an image's values: a hot pixel or two must not decide how strong a corruption is

Corruption = Callable[[Tensor, int, torch.Generator], Tensor]


class Corrupted:
    """Serve images of other records, corrupted, with the same boxes.

    A corruption acts on the image's own range, from its 1st to its 99th percentile, and what comes out may leave that
    range, as it may in a sensor: so it is as strong in counts or Kelvin as in an 8-bit image. It is a function of the
    image's name and ``seed``; order and batches do not matter.

    Args:
        records: the images.
        corruption: one of `CORRUPTIONS`.
        severity: from 1 to 5.
        seed: of the noise.

    Raises:
        ConfigError: if there is no such corruption or severity.
    """

    def __init__(self, records: DetectionRecords, corruption: str, *, severity: int = 3, seed: int = 1) -> None:
        self._corrupt = CORRUPTIONS[one_of("corruption", corruption, CORRUPTIONS)]
        if positive_int("severity", severity) > 5:
            raise ConfigError(f"severity must be a whole number from 1 to 5, but {severity} came.")
        self._records, self._severity = records, severity
        self._seed = positive_int("seed", seed, low=0)
        self._what = corruption

    @property
    def names(self) -> Sequence[str]:
        """The names of the images, as they were."""
        return self._records.names

    @property
    def modality(self) -> str:
        """Which sensor."""
        return self._records.modality

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, positions: Sequence[int]) -> DetectionBatch:
        batch = self._records[positions]
        images = [self._corrupted(image, name) for image, name in zip(batch.images, batch.names, strict=True)]
        return batch._replace(images=images)

    def _corrupted(self, image: Tensor, name: str) -> Tensor:
        digest = hashlib.sha256(f"{self._seed}\0{self._what}\0{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        low, high = np.quantile(image.flatten(1).numpy(), (_LOW, _HIGH), axis=1)
        start = torch.from_numpy(low).to(image)[:, None, None]
        span = torch.from_numpy(np.maximum(high - low, 1e-6)).to(image)[:, None, None]
        return self._corrupt((image - start) / span, self._severity, generator) * span + start


def _noise(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    spread = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return image + spread * torch.randn(image.shape, generator=generator)


def _blur(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1]
    places = torch.arange(-4.0, 5.0)
    weights = torch.exp(-(places**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    wide = F.pad(image[None], (4, 4, 4, 4), mode="replicate")
    channels = len(image)
    rows = F.conv2d(wide, weights.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(rows, weights.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)[0]


def _contrast(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = image.mean((-2, -1), keepdim=True)
    return (image - mean) * factor + mean


def _brightness(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    return image + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]


#: All corruptions, by name.
CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {"noise": _noise, "blur": _blur, "contrast": _contrast, "brightness": _brightness}
)
