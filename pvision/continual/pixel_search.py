"""Does a value, a file or a folder hold training pixels?"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pvision.checks import positive_int
from pvision.continual._canonical_images import CanonicalIndex, apart
from pvision.continual._pixel_bytes import CARRY, ByteIndex
from pvision.continual._pixel_files import contents, fitted
from pvision.continual._pixel_losses import LOSSY_DISTANCE, same_but_for_loss
from pvision.continual._pixel_values import leaves
from pvision.errors import DataError

__all__ = ["LIMITS", "Finding", "PixelSearch", "Searched"]

LIMITS = (
    "images that were cropped, rotated, flipped, blurred, mixed or otherwise augmented",
    "images that a model could generate, and features from which they could be reconstructed",
    "encrypted data, and compressed data other than zip, gzip, .npz, .pt, .ckpt and image files",
    "image files that are lossy below a quality of about 75, some small ones of little contrast above, and images "
    "resized in tensors",
    "floating-point pixels in formats other than .pt, .ckpt, .npy, .npz and .safetensors, and tensors in which the "
    "images do not begin at a multiple of their size",
    "numbers coarser than bfloat16, pixels written as text, videos",
    "images of fewer than 16 pixels that differ from the commonest one",
)
"""What the search cannot see."""

_PICTURE_DISTANCE = 0.12  # JPEG at quality 75: half of Fashion-MNIST below 0.08, nine tenths below 0.12
_SAME = 1e-3  # a form this near to its image needs no entry of its own
_CHUNK = 1 << 24  # bytes of a file that are searched at once
_BATCH = 1 << 20  # pixels that are taken in at once
_DEPTH = 4  # containers inside containers


@dataclass(frozen=True)
class Finding:
    """Pixels of one training image.

    Attributes:
        where: a file, or a path into the value that was searched.
        position: of the image in the training set.
        how: in which form it stands there.
    """

    where: str
    position: int
    how: str


@dataclass
class Searched:
    """What was looked at, and what could not be.

    Attributes:
        images: training images that were searched for.
        ignored: further images with too little content to be told from anything else.
        tensors: tensors and arrays, those in files included.
        files: files, of any kind.
        bytes: bytes of those files, of what was packed in them, and of tensors of bytes.
        unread: what could not be opened, or only as plain bytes, with the reason.
    """

    images: int = 0
    ignored: int = 0
    tensors: int = 0
    files: int = 0
    bytes: int = 0
    unread: list[str] = field(default_factory=list)


class PixelSearch:
    """Search for given images in tensors and files.

    Three ways: rows of tensors are compared after mean and norm of each channel were taken out, so that no
    normalisation and no number type from uint8 to float64 hides an image; runs of uint8 pixels are found at any offset
    of any file; image files are decoded. `LIMITS` says what escapes. Memory: 244 bytes for each image and form, 160 for
    its byte runs, and what one file's largest tensor or packed member takes.

    Args:
        read: gives the image at a position, ``(C, H, W)``; must stay valid, since what looks alike is compared exactly.
        forms: what else may be stored of an image: functions of it, such as the resize before training. Forms that
            differ from the image by scale and shift only cost nothing.
        max_findings: the search stops there.

    Attributes:
        searched: what was looked at so far.

    Example:
        >>> images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
        >>> search = PixelSearch(images.__getitem__)
        >>> search.add(range(5))
        >>> search.in_value({"memory": (images[2:4] / 255 - 0.5).half()})[0]
        Finding(where='memory', position=2, how='row 0 of a float16 tensor, pixels in order C, H, W')
    """

    def __init__(
        self,
        read: Callable[[int], Tensor],
        *,
        forms: Sequence[Callable[[Tensor], Tensor]] = (),
        max_findings: int = 100,
    ) -> None:
        self._read = read
        self._forms: list[Callable[[Tensor], Tensor]] = [lambda image: image, *forms]
        self._most = positive_int("max_findings", max_findings)
        self._entries: list[tuple[int, int]] = []
        self._tensors, self._runs = CanonicalIndex(), ByteIndex(self._bytes_of)
        self.searched = Searched()

    def add(self, positions: Iterable[int]) -> None:
        """Search for these images too.

        Raises:
            DataError: if one of them is no image ``(C, H, W)``.
        """
        batch: list[tuple[int, Tensor]] = []
        for position in positions:
            image = self._read(position)
            if not isinstance(image, Tensor) or image.ndim != 3 or not image.numel():
                came = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
                raise DataError(f"Training image {position} must be a tensor (C, H, W), but {came} came.")
            image = image.detach().cpu()
            alike = bool(batch) and (batch[0][1].shape, batch[0][1].dtype) == (image.shape, image.dtype)
            if batch and (not alike or (len(batch) + 1) * image.numel() > _BATCH):
                self._add(batch)
                batch = []
            batch.append((position, image))
        self._add(batch)

    def in_value(self, value: Any, where: str = "") -> list[Finding]:
        """Return what stands in a tensor, or in nested containers and objects of tensors, arrays and bytes."""
        found = _Found(self._most)
        self._value(value, where, found)
        return found.findings

    def in_file(self, path: str | Path) -> list[Finding]:
        """Return what stands in a file, and in what it packs; nothing in it is executed."""
        found = _Found(self._most)
        try:
            with Path(path).open("rb") as stream:
                self._stream(stream, str(path), found, 0)
            self.searched.files += 1
        except OSError as error:
            self.searched.unread.append(f"{path}: {error}")
        return found.findings

    def in_folder(self, folder: str | Path, *, skip: Callable[[Path], bool] = lambda path: False) -> list[Finding]:
        """Return what stands in all files below a folder; links are not followed into other folders."""
        findings: list[Finding] = []
        for place, folders, names in os.walk(folder):
            folders.sort()
            for path in (Path(place, name) for name in sorted(names)):
                if len(findings) < self._most and path.is_file() and not skip(path):
                    findings += self.in_file(path)
        return findings[: self._most]

    def _add(self, batch: list[tuple[int, Tensor]]) -> None:
        """Take in images of one shape and type, and those of their forms that are more than a scale and a shift."""
        if not batch:
            return
        images = torch.stack([image for _, image in batch])
        known = self._index([(position, 0) for position, _ in batch], images)
        for form in range(1, len(self._forms)):
            for row, (position, image) in enumerate(batch):
                other = self._forms[form](image).detach().cpu()
                if other.shape != image.shape or apart(other.flatten(), image, "C, H, W") > _SAME:
                    known[row] |= self._index([(position, form)], other[None])[0]
        self.searched.images += int(known.sum())
        self.searched.ignored += int((~known).sum())

    def _index(self, entries: list[tuple[int, int]], images: Tensor) -> Tensor:
        numbers = range(len(self._entries), len(self._entries) + len(entries))
        self._entries += entries
        known = self._tensors.add(numbers, images)
        if images.dtype == torch.uint8 and known.any():
            kept = [number for number, can in zip(numbers, known.tolist(), strict=True) if can]
            for order in range(1 if images.shape[1] == 1 else 2):
                pixels = images[known].permute(0, 2, 3, 1) if order else images[known]
                self._runs.add([2 * number + order for number in kept], pixels.flatten(1).numpy())
        return known

    def _image(self, entry: int) -> Tensor:
        position, form = self._entries[entry]
        return self._forms[form](self._read(position))

    def _value(self, value: Any, where: str, found: "_Found") -> None:
        for name, leaf in leaves(value, where):
            if found.full:
                return
            if isinstance(leaf, Tensor):
                self._tensor(leaf, name, found)
            else:
                self.searched.bytes += len(leaf)
                self._bytes(np.frombuffer(leaf, dtype=np.uint8), name, found)

    def _tensor(self, tensor: Tensor, where: str, found: "_Found") -> None:
        self.searched.tensors += 1
        name = str(tensor.dtype).removeprefix("torch.")
        for match in self._tensors.matches(tensor):
            image = self._image(match.entry)
            row = tensor.reshape(-1, image.numel())[match.row].cpu()
            if apart(row, image, match.order) <= match.limit:
                form = ", as prepared for training" * bool(self._entries[match.entry][1])
                how = f"row {match.row} of a {name} tensor, pixels in order {match.order}{form}"
                found.add(where, self._entries[match.entry][0], how)
            if found.full:
                return
        if tensor.dtype in (torch.uint8, torch.int8):
            self.searched.bytes += tensor.numel()
            self._bytes(tensor.cpu().contiguous().view(torch.uint8).reshape(-1).numpy(), where, found)

    def _bytes(self, data: npt.NDArray[np.uint8], where: str, found: "_Found") -> None:
        for match in self._runs.matches(data):
            found.add(where, self._entries[match.entry // 2][0], "a run of uint8 pixels")
            if found.full:
                return

    def _stream(self, stream: IO[bytes], where: str, found: "_Found", depth: int) -> None:
        carry = np.empty(0, dtype=np.uint8)
        while not found.full and (data := stream.read(_CHUNK)):
            self.searched.bytes += len(data)
            chunk = np.concatenate([carry, np.frombuffer(data, dtype=np.uint8)])
            self._bytes(chunk, where, found)
            carry = chunk[-CARRY:]
        for part in contents(stream, where):
            if found.full:
                return
            if part.problem:
                self.searched.unread.append(f"{part.where}: {part.problem}")
            elif part.picture is not None:
                self._picture(part.picture, part.where, found, lossy=part.lossy)
            elif part.stream is None:
                self._value(part.value, part.where, found)
            else:
                with part.stream:
                    self._packed(part.stream, part.where, found, depth + 1)

    def _packed(self, stream: IO[bytes], where: str, found: "_Found", depth: int) -> None:
        if depth > _DEPTH:
            self.searched.unread.append(f"{where}: packed more than {_DEPTH} times")
        else:
            self._stream(stream, where, found, depth)

    def _picture(self, picture: Tensor, where: str, found: "_Found", *, lossy: bool) -> None:
        """Compare a picture with the training images in their commonest sizes, and in its own."""
        least = LOSSY_DISTANCE if lossy else _PICTURE_DISTANCE
        for size in self._tensors.sizes((picture.shape[0], picture.shape[1])):
            pixels, resized = fitted(picture, *size)
            for match in self._tensors.matches(pixels, least=least):
                image = self._image(match.entry)
                limit = _PICTURE_DISTANCE if lossy else match.limit
                if apart(pixels.flatten(), image, match.order) <= limit or (lossy and same_but_for_loss(pixels, image)):
                    how = "a picture" + ", resized" * resized
                    found.add(where, self._entries[match.entry][0], how)
                    return

    def _bytes_of(self, key: int) -> npt.NDArray[np.uint8]:
        return _pixels(self._image(key // 2), key % 2)


class _Found:
    """Findings, each image once for each place, up to a number."""

    def __init__(self, most: int) -> None:
        self.findings: list[Finding] = []
        self._most, self._known = most, set[tuple[str, int]]()

    @property
    def full(self) -> bool:
        return len(self.findings) >= self._most

    def add(self, where: str, position: int, how: str) -> None:
        if not self.full and (where, position) not in self._known:
            self._known.add((where, position))
            self.findings.append(Finding(where, position, how))


def _pixels(image: Tensor, order: int) -> npt.NDArray[np.uint8]:
    """Return the bytes ``(D,)`` of an image ``(C, H, W)``, in order H, W, C if ``order`` is 1."""
    image = image.detach().cpu()
    pixels: npt.NDArray[np.uint8] = (image.permute(1, 2, 0) if order else image).contiguous().numpy()
    return pixels.reshape(-1)
