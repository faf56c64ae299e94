"""Masks made of boxes: one file for all clips, or the same boxes everywhere."""

import json
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pvision.checks import one_of
from pvision.datamodules.mask_source import Footage, MaskSource
from pvision.errors import ConfigError, DataError
from pvision.privacy import Redaction

__all__ = ["Boxes", "FixedRegions"]

_LARGEST = 2**31
_ROW = "[frame, x1, y1, x2, y2] or [first_frame, end_frame, x1, y1, x2, y2]"


class _Span(NamedTuple):
    """A box in the frames from ``first`` to before ``end``."""

    first: int
    end: int
    box: tuple[float, float, float, float]


class Boxes(MaskSource):
    """Boxes from a JSON file: what a detector or an annotator drew.

    The file holds one object: ``{"clip path": [[frame, x1, y1, x2, y2], …]}``. A row of six numbers,
    ``[first_frame, end_frame, x1, y1, x2, y2]``, holds from the first frame to before the end frame. Boxes are
    half-open xyxy in pixels of the video as displayed; every pixel that a box touches is inside. A frame without a
    row has nothing inside.

    Args:
        path: the JSON file.
        missing: ``"error"`` refuses a clip of which the file says nothing; ``"none_sensitive"`` makes such a clip
            public as a whole. An empty list in the file says that the clip was looked at and nothing was found.

    Raises:
        DataError: if the file is missing, is no such JSON, or holds a box that is none.
        ConfigError: if ``missing`` is neither.
    """

    def __init__(self, path: str, *, missing: str = "error") -> None:
        self._path = Path(path).expanduser()
        self._missing = one_of("masks.missing", missing, ("error", "none_sensitive"))
        self._spans = _read(self._path)

    def load(self, footage: Footage, positions: Sequence[int]) -> Tensor:
        """Return masks that are True in the boxes."""
        mask = torch.zeros(len(positions), footage.info.height, footage.info.width, dtype=torch.bool)
        for span in self._of(footage):
            rows, columns = _touched(span.box)
            for index, position in enumerate(positions):
                if span.first <= position < span.end:
                    mask[index, rows, columns] = True
        return mask

    def check(self, footage: Footage) -> None:
        """Look whether the clip has rows, and whether they lie inside the video."""
        height, width = footage.info.height, footage.info.width
        for span in self._of(footage):
            if span.end > footage.info.frames or span.box[2] > width or span.box[3] > height:
                raise DataError(
                    f"{self._path}: the box {list(span)} of {footage.name} is outside the video, which has "
                    f"{footage.info.frames} frames of {width}x{height} pixels (width x height). Cut it at the border, "
                    "and make sure that boxes are xyxy in pixels of the video's own size."
                )

    def identity(self) -> dict[str, object]:
        """Return the kind, and what becomes of clips that the file does not name."""
        return {**super().identity(), "missing": self._missing}

    def region(self, footage: Footage, positions: Sequence[int], redaction: Redaction) -> Tensor:
        """Return the sensitive region; empty for a clip without rows, if the user chose so, whatever the polarity."""
        if footage.name not in self._spans and self._missing == "none_sensitive":
            return torch.zeros(len(positions), footage.info.height, footage.info.width, dtype=torch.bool)
        return super().region(footage, positions, redaction)

    def _of(self, footage: Footage) -> list[_Span]:
        spans = self._spans.get(footage.name)
        if spans is None and self._missing == "error":
            raise DataError(
                f"{self._path} says nothing of the clip {footage.name!r} ({footage.path}). Add its boxes, an empty "
                "list if it was looked at and has none, or set `missing: none_sensitive` to make such clips public."
            )
        return spans or []


class FixedRegions(MaskSource):
    """The same boxes in every frame of every clip, for fixed cameras.

    Args:
        boxes: each ``[x1, y1, x2, y2]``, half-open; every pixel that a box touches is inside.
        unit: ``"fraction"`` of the width and height, from 0 to 1, or ``"pixel"``.

    Raises:
        ConfigError: if there is no box, or one that is none.
    """

    def __init__(self, boxes: Sequence[Sequence[float]], *, unit: str) -> None:
        self._unit = one_of("masks.unit", unit, ("fraction", "pixel"))
        self._boxes = [self._checked(box) for box in boxes]
        if not self._boxes:
            raise ConfigError("masks.boxes must hold at least one [x1, y1, x2, y2], but it is empty.")

    def load(self, footage: Footage, positions: Sequence[int]) -> Tensor:
        """Return masks that are True in the boxes."""
        height, width = footage.info.height, footage.info.width
        mask = torch.zeros(height, width, dtype=torch.bool)
        for x1, y1, x2, y2 in self._boxes:
            box = (x1 * width, y1 * height, x2 * width, y2 * height) if self._unit == "fraction" else (x1, y1, x2, y2)
            if box[2] > width or box[3] > height:
                raise DataError(
                    f"masks.boxes: {[x1, y1, x2, y2]} is outside {footage.path}, which is {width}x{height} pixels "
                    "(width x height). Cut it at the border, or give fractions if clips differ in size."
                )
            mask[_touched(box)] = True
        return mask.expand(len(positions), -1, -1)

    def identity(self) -> dict[str, object]:
        """Return the kind and the boxes, which are a setting and no data."""
        return {**super().identity(), "unit": self._unit, "boxes": [list(box) for box in self._boxes]}

    def _checked(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        reason = _fault(box)
        if not reason and self._unit == "fraction" and max(box) > 1:
            reason = "fractions are at most 1"
        if reason:
            raise ConfigError(f"masks.boxes must hold half-open [x1, y1, x2, y2], but {box!r} came: {reason}.")
        return box[0], box[1], box[2], box[3]


def _touched(box: tuple[float, float, float, float]) -> tuple[slice, slice]:
    """Return the rows and columns that a box touches."""
    # Rounded first: 0.1 * 30 is above 3, which would touch one more pixel.
    x1, y1, x2, y2 = (round(value, 6) for value in box)
    return slice(math.floor(y1), math.ceil(y2)), slice(math.floor(x1), math.ceil(x2))


def _read(path: Path) -> dict[str, list[_Span]]:
    try:
        clips = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise DataError(f"masks.path {path} cannot be read: {error.strerror}. Give the JSON file of boxes.") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both
        raise DataError(f"{path} is no JSON file of boxes: {error}.") from error
    if not isinstance(clips, dict):
        raise DataError(
            f"{path} must hold one object from clip paths to lists of {_ROW}, but {type(clips).__name__} came."
        )
    return {PurePosixPath(name).as_posix(): _spans(path, name, rows) for name, rows in clips.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [PurePosixPath(name).as_posix() for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"it names {twice[0]!r} twice, and the second list would hide the first")
    return dict(pairs)


def _spans(path: Path, name: str, rows: Any) -> list[_Span]:
    if not isinstance(rows, list):
        raise DataError(f"{path}: {name!r} must have a list of {_ROW}, but {rows!r} came.")
    return [_span(path, name, row) for row in rows]


def _span(path: Path, name: str, row: Any) -> _Span:
    reason = f"a row is {_ROW}"
    if isinstance(row, list) and len(row) in (5, 6):
        frames, box = row[:-4], row[-4:]
        reason = _frames_fault(frames) or _fault(box)
        if not reason:
            first, end = frames if len(frames) == 2 else (frames[0], frames[0] + 1)
            return _Span(first, end, tuple(box))
    raise DataError(f"{path}: the row {row!r} of {name!r} is no box: {reason}.")


def _frames_fault(frames: list[Any]) -> str:
    if any(isinstance(frame, bool) or not isinstance(frame, int) or frame < 0 for frame in frames):
        return "frames are whole numbers from 0"
    return "end_frame must be above first_frame" if len(frames) == 2 and frames[1] <= frames[0] else ""


def _fault(box: Sequence[Any]) -> str:
    """Return what is wrong with a box, empty if nothing is."""
    if len(box) != 4 or any(isinstance(value, bool) or not isinstance(value, Real) for value in box):
        return "a box is four numbers"
    if not all(abs(value) < _LARGEST for value in box):  # False for NaN; a huge whole number is beyond math.isfinite
        return "numbers must be finite"
    if min(box) < 0:
        return "a box may not begin outside the image"
    return "" if box[2] > box[0] and box[3] > box[1] else "x2 must be above x1 and y2 above y1"
