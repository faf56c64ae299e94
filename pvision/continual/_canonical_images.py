"""A form of images that no change of scale, shift or number format alters, and a quick way to look them up."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["FORMAT_DISTANCE", "CanonicalIndex", "Match", "apart", "canonical"]

FORMAT_DISTANCE = 0.02
"""How far a canonical image may lie from one that went through bfloat16, float16 or another scale."""

_FLAT_DISTANCE = 0.06  # the same for images of little contrast, whose rounding errors are large beside their content
_BFLOAT16 = 2.0**-9 / 3**0.5  # relative rounding error, root mean square at most
_SKETCH = 61  # numbers in a sketch; prime, so that a column of an image does not fall into one of them
_WINDOW = 3.0  # a sketch errs on a distance by 1/√61 or so; three times the threshold misses nothing in practice
_ELEMENTS = 1 << 20  # elements of a tensor, or pairs of rows, that are worked on at once: what a cache holds
_NEAREST = 5  # images that are compared exactly with a row
_LEAST_CONTENT = 16  # pixels that differ from the commonest one


class Match(NamedTuple):
    """An image that a row of a tensor resembles.

    Attributes:
        row: which row.
        entry: which image of the index.
        limit: how far the canonical forms may lie apart.
        order: how the row's pixels are ordered.
    """

    row: int
    entry: int
    limit: float
    order: str


def canonical(pixels: Tensor) -> Tensor:
    """Return each channel with mean 0 and equal norm, each image with norm 1.

    Constant channels become 0, and so do images that hold nothing else, or NaN.

    Args:
        pixels: ``(n, C, P)`` of any real type.

    Returns:
        float32 ``(n, C·P)``.
    """
    values = pixels.detach().float()
    values = values - values.mean(dim=2, keepdim=True)
    norms = values.norm(dim=2, keepdim=True)
    size = pixels.detach().float().abs().amax(dim=2, keepdim=True)
    alive = (norms > 1e-5 * size) & norms.isfinite()
    values = torch.where(alive, values / torch.where(alive, norms, 1.0), 0.0)
    forms: Tensor = values / alive.sum(dim=1, keepdim=True).clamp_min(1).sqrt()
    return forms.flatten(1)


def apart(row: Tensor, image: Tensor, order: str) -> float:
    """Return how far the canonical forms of a row ``(D,)`` and an image ``(C, H, W)`` lie apart.

    An inverted image is the same image.
    """
    channels = image.shape[0]
    pixels = row.reshape(-1, channels).T if order == "H, W, C" else row.reshape(channels, -1)
    one, other = canonical(pixels[None]).double(), canonical(image.reshape(1, channels, -1)).double()
    return min(float((one - other).norm()), float((one + other).norm()))


@dataclass
class _Group:
    """Images with the same number of channels and of pixels."""

    entries: list[int] = field(default_factory=list)
    parts: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def table(self) -> tuple[Tensor, Tensor]:
        """Return sketches ``(N, 61)`` and limits ``(N,)``."""
        if len(self.parts) > 1:
            sketches, limits = zip(*self.parts, strict=True)
            self.parts = [(torch.cat(sketches), torch.cat(limits))]
        return self.parts[0]


class CanonicalIndex:
    """Sketches of images, 244 bytes each, by which rows of tensors find the few images worth comparing."""

    def __init__(self) -> None:
        self._groups: dict[tuple[int, int], _Group] = {}
        self._sizes: Counter[tuple[int, int, int]] = Counter()
        self._signs = torch.empty(0)

    def add(self, entries: Sequence[int], images: Tensor) -> Tensor:
        """Take in images ``(n, C, H, W)``.

        Returns:
            Which of them can be searched for, bool ``(n,)``: an image with fewer than 16 pixels that differ from the
            commonest one would be found everywhere.
        """
        images = images.detach().cpu()
        pixels = images.flatten(2)
        # More than half of the pixels are alike in an image of so little content: their median is the commonest one.
        content = (pixels != pixels.median(dim=2, keepdim=True).values).any(dim=1).sum(dim=1)
        known = (content >= _LEAST_CONTENT) & canonical(pixels).any(dim=1)
        channels, height, width = images.shape[1:]
        self._sizes[channels, height, width] += int(known.sum())
        if known.any():
            group = self._groups.setdefault((channels, height * width), _Group())
            group.entries += [entry for entry, can in zip(entries, known.tolist(), strict=True) if can]
            group.parts.append((self._sketch(canonical(pixels[known])), _limits(pixels[known])))
        return known

    def sizes(self, same: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Return the shapes of images that have this height and width, and the eight commonest shapes."""
        return list(
            dict.fromkeys(
                [size for size in self._sizes if size[1:] == same] + [size for size, _ in self._sizes.most_common(8)]
            )
        )

    def matches(self, tensor: Tensor, *, least: float = 0.0) -> Iterator[Match]:
        """Yield what rows of ``tensor`` may be, nearest images first for each row; most tensors yield nothing.

        Args:
            tensor: of any shape and real type.
            least: a limit for images whose own is smaller.
        """
        for (channels, pixels), group in self._groups.items():
            numel = channels * pixels
            if not tensor.numel() or tensor.numel() % numel:
                continue
            rows = tensor.detach().reshape(-1, numel)
            step = max(1, _ELEMENTS // max(numel, len(group.entries)))
            for start in range(0, len(rows), step):
                part = rows[start : start + step].cpu()
                yield from self._near(part.reshape(-1, channels, pixels), group, start, "C, H, W", least)
                if channels > 1:
                    yield from self._near(part.reshape(-1, pixels, channels).mT, group, start, "H, W, C", least)

    def _near(self, rows: Tensor, group: _Group, start: int, order: str, least: float) -> Iterator[Match]:
        forms = canonical(rows)
        alive = torch.nonzero(forms.abs().amax(dim=1) > 0).flatten()
        if not len(alive):
            return
        sketches, limits = group.table()
        limits = limits.clamp_min(least)
        queries = self._sketch(forms[alive])
        # ‖query ∓ sketch‖² < window², in passes over the large table that need no second one beside it
        thresholds = (sketches.square().sum(1) - (_WINDOW * limits).square()) / 2
        excess = (queries @ sketches.T).abs_().sub_(thresholds).sub_(queries.square().sum(1, keepdim=True) / 2)
        for query in torch.nonzero(excess.amax(dim=1) > 0).flatten().tolist():
            values, nearest = excess[query].topk(min(_NEAREST, len(limits)))
            for image in nearest[values > 0].tolist():
                yield Match(start + int(alive[query]), group.entries[image], float(limits[image]), order)

    def _sketch(self, forms: Tensor) -> Tensor:
        """Sum coordinates with random signs into 61 numbers; squared lengths stay the same in expectation."""
        width = forms.shape[1]
        if len(self._signs) < width:
            self._signs = _random_signs(width)
        padded = torch.nn.functional.pad(forms * self._signs[:width], (0, -width % _SKETCH))
        return padded.reshape(len(forms), -1, _SKETCH).sum(dim=1)


def _random_signs(count: int) -> Tensor:
    """Return ±1 ``(count,)``, each a function of its place alone."""
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return torch.from_numpy((mixed >> np.uint64(63)).astype(np.float32) * 2 - 1)


def _limits(pixels: Tensor) -> Tensor:
    """Return how far bfloat16 may move the canonical forms of images ``(n, C, P)``, whatever their normalisation."""
    values = pixels.float()
    low = torch.zeros(()) if pixels.dtype == torch.uint8 else values.amin(dim=(1, 2), keepdim=True)
    high = torch.tensor(255.0) if pixels.dtype == torch.uint8 else values.amax(dim=(1, 2), keepdim=True)
    sizes = torch.maximum((values - low).square().mean(2), (high - values).square().mean(2)).sqrt()
    contrast = values.std(dim=2, correction=0)
    rounding = torch.where(contrast > 0, _BFLOAT16 * sizes / contrast.clamp_min(1e-9), 0.0)
    return (1.5 * rounding.amax(dim=1)).clamp(FORMAT_DISTANCE, _FLAT_DISTANCE)
