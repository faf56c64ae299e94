"""Masks from files that lie beside the clips, at the same relative path: videos, folders of PNGs, NPZ arrays."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pvision.checks import positive_int
from pvision.datamodules._npz import NpzFrames
from pvision.datamodules._png import png_size, read_png
from pvision.datamodules.decoding import count_frames, decode_frames, probe_video
from pvision.datamodules.mask_source import Footage, MaskSource, refuse_other_length, refuse_other_size
from pvision.errors import ConfigError, DataError

__all__ = ["MaskArrays", "MaskImages", "MaskVideos"]

_THRESHOLD = 128


class MaskVideos(MaskSource):
    """One mask video per clip, at the clip's relative path, with any suffix.

    A pixel is inside where the brightest of its three channels reaches the threshold. Lossy codecs blur the border:
    prefer a lossless one (FFV1 in Matroska), or let the redaction dilate.

    Args:
        root: the folder of the mask videos.
        threshold: from 1 to 255. Left out, it is 128, and a mask that has content but never reaches 128 is refused:
            it most likely holds class indices, and would leave everything outside.

    Raises:
        ConfigError: if the threshold is outside its range.
        DataError: if there is no such folder.
    """

    def __init__(self, root: str, *, threshold: int | None = None) -> None:
        self._root = _folder(root)
        self._threshold = _checked_threshold(threshold)
        self._files: dict[str, Path] = {}

    def load(self, footage: Footage, positions: Sequence[int]) -> Tensor:
        """Return the mask video's frames at ``positions``."""
        path = self._find(footage)
        mask = decode_frames(path, positions)
        refuse_other_size(path, (mask.video.shape[1], mask.video.shape[2]), footage)
        if mask.positions != list(positions):
            refuse_other_length(path, mask.positions[-1] + 1, footage)
        return _inside(path, mask.video, self._threshold)

    def check(self, footage: Footage) -> None:
        """Compare the mask video's size and length with the clip's."""
        path = self._find(footage)
        info = probe_video(path)
        refuse_other_size(path, (info.height, info.width), footage)
        if info.frames != footage.info.frames:
            refuse_other_length(path, count_frames(path), footage)

    def identity(self) -> dict[str, object]:
        """Return the kind and the threshold."""
        return {**super().identity(), "threshold": self._threshold}

    def _find(self, footage: Footage) -> Path:
        if footage.name not in self._files:
            self._files[footage.name] = _same_stem(self._root, footage)
        return self._files[footage.name]


class MaskImages(MaskSource):
    """One folder of PNGs per clip, at the clip's relative path without its suffix; one PNG for each frame.

    The files are taken by the number that ends their name (``mask_0007.png``); the numbers must follow each other
    without a gap. A pixel is inside where the brightest of its channels reaches the threshold.

    Args:
        root: the folder of the folders.
        threshold: as for `MaskVideos`.

    Raises:
        ConfigError: if the threshold is outside its range.
        DataError: if there is no such folder.
    """

    def __init__(self, root: str, *, threshold: int | None = None) -> None:
        self._root = _folder(root)
        self._threshold = _checked_threshold(threshold)

    def load(self, footage: Footage, positions: Sequence[int]) -> Tensor:
        """Return the PNGs of the frames at ``positions``."""
        files = self._numbered(footage)
        masks = {position: self._one(files[position], footage) for position in set(positions)}
        return torch.stack([masks[position] for position in positions])

    def check(self, footage: Footage) -> None:
        """Look at the names of all PNGs and at the size of each."""
        for path in self._numbered(footage):
            refuse_other_size(path, png_size(path), footage)

    def identity(self) -> dict[str, object]:
        """Return the kind and the threshold."""
        return {**super().identity(), "threshold": self._threshold}

    def _one(self, path: Path, footage: Footage) -> Tensor:
        picture = read_png(path)
        refuse_other_size(path, (picture.shape[0], picture.shape[1]), footage)
        return _inside(path, picture, self._threshold)

    def _numbered(self, footage: Footage) -> list[Path]:
        folder = self._root / footage.stem
        found = sorted((_number(path), path) for path in _pngs(folder, footage))
        numbers = [number for number, _ in found]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise DataError(
                f"The PNGs in {folder} are numbered {numbers[0]} to {numbers[-1]}, but there are {len(numbers)}. Give "
                "each frame one PNG, numbered without gap or repetition."
            )
        refuse_other_length(folder, len(numbers), footage)
        return [path for _, path in found]


class MaskArrays(MaskSource):
    """One NPZ file per clip, at the clip's relative path with the suffix ``.npz``, with the array ``mask``.

    The array is ``(T, H, W)``, bool or integer, one mask for each frame; a pixel is inside where it is not 0.
    Nothing in the file is unpickled.

    Args:
        root: the folder of the files.

    Raises:
        DataError: if there is no such folder.
    """

    def __init__(self, root: str) -> None:
        self._root = _folder(root)

    def load(self, footage: Footage, positions: Sequence[int]) -> Tensor:
        """Return the array's masks at ``positions``."""
        return torch.from_numpy(self._array(footage).read(positions) != 0)

    def check(self, footage: Footage) -> None:
        """Compare the array's shape, which stands in its header, with the clip's."""
        self._array(footage)

    def _array(self, footage: Footage) -> NpzFrames:
        path = self._root / f"{footage.stem}.npz"
        if not path.is_file():
            raise _missing(path, footage)
        array = NpzFrames(path, "mask")
        frames, height, width = array.shape
        refuse_other_size(path, (height, width), footage)
        refuse_other_length(path, frames, footage)
        return array


def _folder(root: str) -> Path:
    path = Path(root).expanduser()
    if not path.is_dir():
        raise DataError(f"masks.root {root} is no folder. Give the folder of the masks.")
    return path


def _checked_threshold(threshold: int | None) -> int | None:
    if threshold is not None and positive_int("masks.threshold", threshold) > 255:
        raise ConfigError(f"masks.threshold must be a brightness from 1 to 255, but {threshold} came.")
    return threshold


def _inside(path: Path, picture: Tensor, threshold: int | None) -> Tensor:
    brightness = picture.amax(-1)
    if threshold is None and 0 < int(brightness.max()) < _THRESHOLD:
        raise DataError(
            f"The mask {path} has a brightest pixel of {int(brightness.max())}, below the threshold of {_THRESHOLD}: "
            "nothing would be inside. Set `threshold` by name, to 1 if the mask holds class indices."
        )
    return brightness >= (threshold or _THRESHOLD)


def _same_stem(root: Path, footage: Footage) -> Path:
    exact = root / footage.name
    if exact.is_file():
        return exact
    folder, stem = (root / footage.stem).parent, Path(footage.stem).name
    files = [path for path in folder.iterdir() if path.stem == stem and path.is_file()] if folder.is_dir() else []
    if not files:
        raise _missing(folder / f"{stem}.*", footage)
    if len(files) > 1:
        names = ", ".join(sorted(path.name for path in files))
        raise DataError(f"{footage.path} has several masks in {folder}: {names}. Leave one.")
    return files[0]


def _pngs(folder: Path, footage: Footage) -> list[Path]:
    files = [path for path in folder.iterdir() if path.suffix.lower() == ".png"] if folder.is_dir() else []
    if not files:
        raise _missing(folder / "*.png", footage)
    return files


def _number(path: Path) -> int:
    digits = re.search(r"[0-9]{1,18}$", path.stem)
    if digits is None:
        raise DataError(f"The name of {path} must end in its frame's number, as in mask_0007.png. Rename it.")
    return int(digits.group())


def _missing(path: Path, footage: Footage) -> DataError:
    return DataError(
        f"{footage.path} has no mask: {path} was looked for. Masks lie below masks.root at the clip's relative path, "
        f"here {footage.name!r}. Add it, or set `on_error: skip` to skip and count such clips."
    )
