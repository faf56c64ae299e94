"""Images with label masks from which streams are made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pvision.continual.scenarios import Presence
from pvision.datamodules.detection.image_file import image_shape
from pvision.datamodules.segmentation.label_map import LabelMap
from pvision.datamodules.segmentation.mask_file import read_mask
from pvision.datamodules.segmentation.presence import labels_in, presence_of_files
from pvision.datamodules.streams.sources import FileImages
from pvision.errors import DataError

__all__ = ["ArraySegmentation", "FileSegmentation", "SegmentationSource"]


@runtime_checkable
class SegmentationSource(Protocol):
    """A set of images with label masks, read one at a time.

    Attributes:
        names: of the records, all different: file names below the data's folder, or ``train/17``.
    """

    @property
    def names(self) -> Sequence[str]:
        """What the records are called."""

    def __len__(self) -> int:
        """Return how many records there are."""

    def presence(self) -> Presence:
        """Return which labels occur in each mask: bool ``(N, 1 + classes)``, the background first; void does not."""

    def image(self, position: int) -> Tensor:
        """Return an image: uint8 ``(3, H, W)``, 0 to 255."""

    def mask(self, position: int) -> Tensor:
        """Return its mask, uint8 ``(H, W)``: 0 background, classes from 1, 255 void."""


class ArraySegmentation:
    """Images and masks that lie in memory.

    Args:
        images: uint8 ``(N, 3, H, W)``.
        masks: uint8 ``(N, H, W)``: 0 background, classes from 1, 255 void.
        num_classes: how many classes there are, without the background.
        prefix: of the names, which are ``PREFIX/0``, ``PREFIX/1``, …

    Raises:
        DataError: if shapes or types are others, or a mask holds another label.
    """

    def __init__(
        self, images: npt.NDArray[np.uint8], masks: npt.NDArray[np.uint8], *, num_classes: int, prefix: str
    ) -> None:
        for title, array, shape in (("images", images, "(N, 3, H, W)"), ("masks", masks, "(N, H, W)")):
            if array.dtype != np.uint8 or array.ndim != shape.count(",") + 1:
                raise DataError(
                    f"The {prefix} {title} must be uint8 {shape}, but {array.dtype} of {array.shape} came. Convert "
                    "them."
                )
        if images.shape[1] != 3 or (len(images), *images.shape[2:]) != masks.shape:
            raise DataError(
                f"The {prefix} images of shape {images.shape} and masks of shape {masks.shape} do not belong together. "
                "Give (N, 3, H, W) and (N, H, W)."
            )
        self.names = [f"{prefix}/{position}" for position in range(len(images))]
        self._images, self._masks, self._num_classes = images, masks, num_classes

    def __len__(self) -> int:
        return len(self._images)

    def presence(self) -> Presence:
        """Return which labels occur in each mask: bool ``(N, 1 + classes)``.

        Raises:
            DataError: if a mask holds a label that does not exist.
        """
        rows = [labels_in(mask, self._num_classes, name) for mask, name in zip(self._masks, self.names, strict=True)]
        return np.stack(rows) if rows else np.zeros((0, self._num_classes + 1), dtype=bool)

    def image(self, position: int) -> Tensor:
        """Return an image: uint8 ``(3, H, W)``, a copy."""
        return torch.from_numpy(self._images[position].copy())

    def mask(self, position: int) -> Tensor:
        """Return its mask: uint8 ``(H, W)``, a copy."""
        return torch.from_numpy(self._masks[position].copy())


class FileSegmentation:
    """Images in files of any kind that Pillow reads, and masks in PNG files: grey or with a palette, 8 bits.

    Args:
        images: the files of the images.
        masks: the file of each image's mask.
        root: the folder below which all images lie; names are their paths from there.
        label_map: what the values of the masks mean.
        num_classes: how many classes there are, without the background.
        presence_file: where to keep which labels occur in which mask, so that the masks are not all read again when
            the next run starts; None to read them each time.

    Raises:
        DataError: if the numbers of files differ, or an image lies elsewhere or comes twice.
    """

    def __init__(
        self,
        images: Sequence[str | Path],
        masks: Sequence[str | Path],
        *,
        root: str | Path,
        label_map: LabelMap,
        num_classes: int,
        presence_file: str | Path | None = None,
    ) -> None:
        if len(images) != len(masks):
            raise DataError(f"{root} has {len(images)} images and {len(masks)} masks. Give each image one mask.")
        self._images = FileImages(images, np.zeros(len(images), dtype=np.int64), root=root)
        self.names = self._images.names
        self._image_files, self._mask_files = [Path(path) for path in images], [Path(path) for path in masks]
        self._label_map, self._num_classes = label_map, num_classes
        self._presence_file = None if presence_file is None else Path(presence_file).expanduser()

    def __len__(self) -> int:
        return len(self.names)

    def presence(self) -> Presence:
        """Return which labels occur in each mask: bool ``(N, 1 + classes)``. Reads all masks, or ``presence_file``.

        Raises:
            DataError: if a mask cannot be read, or holds a value that the label map does not list.
        """
        return presence_of_files(
            self._mask_files, self._label_map, num_classes=self._num_classes, kept_in=self._presence_file
        )

    def image(self, position: int) -> Tensor:
        """Return an image: uint8 ``(3, H, W)``.

        Raises:
            DataError: if the file cannot be decoded, has more than 8 bits per pixel and channel, or is to be turned
                when shown.
            MissingExtraError: if Pillow is not installed.
        """
        # Pixels are read as they are stored, and nothing says whether the mask was drawn on the turned image.
        image_shape(self._image_files[position])
        return self._images.image(position)

    def mask(self, position: int) -> Tensor:
        """Return its mask: uint8 ``(H, W)``.

        Raises:
            DataError: if the file is no PNG of 8-bit class numbers, or holds a value that the label map does not list.
            MissingExtraError: if Pillow is not installed.
        """
        path = self._mask_files[position]
        return torch.from_numpy(self._label_map.apply(read_mask(path), str(path)))
