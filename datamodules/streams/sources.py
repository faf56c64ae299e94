"""Labelled image sets from which streams are made."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pvision.continual.experience import Positions
from pvision.errors import DataError, MissingExtraError

__all__ = ["ArrayImages", "FileImages", "ImageSource"]


@runtime_checkable
class ImageSource(Protocol):
    """A labelled set of images, read one at a time.

    Attributes:
        names: of the records, all different: file names below the data's folder, or ``train/17``.
        labels: int64 ``(N,)``.
        domains: the domain of each record, None where the set has none.
    """

    @property
    def names(self) -> Sequence[str]:
        """What the records are called."""

    @property
    def labels(self) -> Positions:
        """Their classes."""

    @property
    def domains(self) -> Sequence[str] | None:
        """Where they come from."""

    def __len__(self) -> int:
        """Return how many records there are."""

    def image(self, position: int) -> Tensor:
        """Return an image: uint8 ``(C, H, W)``, 0 to 255."""


class ArrayImages:
    """Images that lie in memory.

    Args:
        images: uint8 ``(N, C, H, W)``.
        labels: ``(N,)``, from 0.
        prefix: of the names, which are ``PREFIX/0``, ``PREFIX/1``, …
        domains: the domain of each record; None if there are none.

    Raises:
        DataError: if shapes or types are others, or the numbers of images, labels and domains differ.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.integer],
        *,
        prefix: str,
        domains: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(images, np.ndarray) or images.ndim != 4 or images.dtype != np.uint8:
            raise DataError(
                f"The {prefix} images must be a NumPy array, uint8 (N, C, H, W), but {type(images).__name__} of "
                f"{images.dtype} and shape {tuple(images.shape)} came."
            )
        self.labels = _labels(labels, len(images), prefix)
        self.names = [f"{prefix}/{position}" for position in range(len(images))]
        self.domains = _domains(domains, len(images), prefix)
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def image(self, position: int) -> Tensor:
        """Return an image: uint8 ``(C, H, W)``, a copy."""
        return torch.from_numpy(self._images[position].copy())


class FileImages:
    """Images in files, decoded to RGB when they are asked for.

    Args:
        paths: of the files.
        labels: ``(N,)``, from 0.
        root: the folder below which all files lie; names are the paths from there.
        domains: the domain of each record; None if there are none.

    Raises:
        DataError: if the numbers of files, labels and domains differ, or a file lies elsewhere or comes twice.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: npt.NDArray[np.integer],
        *,
        root: str | Path,
        domains: Sequence[str] | None = None,
    ) -> None:
        self._root = Path(root)
        self.names = [_below(self._root, Path(path)) for path in paths]
        if len(set(self.names)) < len(self.names):
            twice = next(name for name, count in Counter(self.names).items() if count > 1)
            raise DataError(f"The image {twice} below {root} is listed twice. List each once.")
        self.labels = _labels(labels, len(paths), str(root))
        self.domains = _domains(domains, len(paths), str(root))

    def __len__(self) -> int:
        return len(self.names)

    def image(self, position: int) -> Tensor:
        """Return an image: uint8 ``(3, H, W)``.

        Raises:
            DataError: if the file cannot be decoded, or has more than 8 bits per pixel and channel.
            MissingExtraError: if Pillow is not installed.
        """
        path = self._root / self.names[position]
        try:
            pixels = _decode(path)
        except (DataError, MissingExtraError):
            raise
        except Exception as error:  # Pillow lets through whatever its decoders meet in a damaged file
            raise DataError(f"{path} cannot be read as an image ({error}). Mend or remove the file.") from error
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _decode(path: Path) -> npt.NDArray[np.uint8]:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtraError("pillow", "continual", "Reading image files") from error
    with Image.open(path) as image:
        if image.mode[0] in "IF":  # Pillow would cut all values off at 255 and give a white picture
            raise DataError(
                f"{path} has more than 8 bits per pixel (Pillow's mode {image.mode}). Scale it to 8 bits first."
            )
        return np.array(image.convert("RGB"))


def _labels(labels: npt.NDArray[np.integer], count: int, source: str) -> Positions:
    array = np.asarray(labels)
    if array.shape != (count,) or (count and array.dtype.kind not in "iu"):
        raise DataError(
            f"{source} has {count} images and labels of shape {array.shape} and type {array.dtype}, but ({count},) "
            "whole numbers are expected."
        )
    return array.astype(np.int64)


def _domains(domains: Sequence[str] | None, count: int, source: str) -> list[str] | None:
    if domains is not None and len(domains) != count:
        raise DataError(f"{source} has {count} images and {len(domains)} domains. Give one for each.")
    return None if domains is None else list(domains)


def _below(root: Path, path: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        raise DataError(f"The image {path} lies outside of {root}. Give the folder that holds all images.") from None
