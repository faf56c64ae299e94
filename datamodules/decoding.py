"""Decoding of chosen frames of a video file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pvision.checks import positive_int
from pvision.datamodules._video_file import VideoFile, quarter_turns
from pvision.errors import ConfigError, CorruptVideoError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["MAX_CLIP_BYTES", "Clip", "VideoInfo", "count_frames", "decode_clip", "decode_frames", "probe_video"]

MAX_CLIP_BYTES = 2**31
"""A choice of frames that needs more memory than this is refused."""


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video without decoding all of it.

    Attributes:
        frames: the frames that the container holds; the decoder may give one or two fewer.
        height: pixels, as displayed.
        width: pixels, as displayed.
    """

    frames: int
    height: int
    width: int


class Clip(NamedTuple):
    """Frames of a video.

    Attributes:
        video: uint8, RGB, ``(T, H, W, 3)``, turned as a player shows it.
        positions: which frame of the video each one is; wanted frames behind the end became the last one.
    """

    video: Tensor
    positions: list[int]


def probe_video(path: str | Path) -> VideoInfo:
    """Return a video's size and length: its first frame is decoded, the others are counted.

    Args:
        path: the file.

    Raises:
        CorruptVideoError: if the file is missing, damaged, empty, no video, or beyond the limits.
    """
    first: VideoFrame | None = None
    count = 0
    with VideoFile.opened(path) as file:
        for packet in file.packets():
            count += packet.size > 0 and not packet.is_discard
            if first is None:
                first = next(iter(file.decode(packet)), None)
        if first is None:
            raise CorruptVideoError(path, "it holds no frame that can be decoded")
        sideways = quarter_turns(path, first) % 2
    height, width = (first.width, first.height) if sideways else (first.height, first.width)
    return VideoInfo(count, height, width)


def count_frames(path: str | Path) -> int:
    """Return how many frames a video decodes to, by decoding all of them.

    Args:
        path: the file.

    Raises:
        CorruptVideoError: as `probe_video`, and for damage in any frame.
    """
    with VideoFile.opened(path) as file:
        return sum(1 for _ in file.frames())


def decode_clip(path: str | Path, *, frames: int, stride: int = 1, start: int = 0) -> Clip:
    """Return every ``stride``-th frame of a video.

    Args:
        path: the file.
        frames: how many frames to return; when the video ends early, its last frame is repeated.
        stride: the distance between two of them.
        start: the first of them, counted from 0.

    Raises:
        CorruptVideoError: if the file is missing, damaged, beyond the limits, or ends before ``start``.
    """
    positive_int("frames", frames)
    positive_int("stride", stride)
    positive_int("start", start, low=0)
    return decode_frames(path, range(start, start + frames * stride, stride))


def decode_frames(path: str | Path, positions: Sequence[int]) -> Clip:
    """Return chosen frames of a video.

    Args:
        path: the file.
        positions: the frames, counted from 0, in rising order; repetitions are allowed. One behind the end becomes
            the last frame, but for the first, which must exist.

    Raises:
        ConfigError: if the positions fall, or there are none.
        CorruptVideoError: if the file is missing, damaged, beyond the limits, or ends before the first position.
    """
    if not positions or list(positions) != sorted(positions) or positions[0] < 0:
        raise ConfigError(f"positions must be at least one frame number, in rising order, but {list(positions)} came.")
    picker = _Picker(path, positions)
    with VideoFile.opened(path) as file:
        for frame in file.frames():
            if picker.take(frame):
                break
        return picker.finish()


class _Picker:
    """Keeps the wanted ones of a video's frames, in an array that is allocated once its size is known and allowed."""

    def __init__(self, path: str | Path, positions: Sequence[int]) -> None:
        self._path, self._positions = path, positions
        self._found: list[int] = []
        self._last: VideoFrame | None = None
        self._seen = 0
        self._array: np.ndarray[Any, Any] = np.empty((0, 0, 0, 3), np.uint8)

    def take(self, frame: "VideoFrame") -> bool:
        """Look at the next frame; return True when no more are wanted."""
        while not self._full and self._positions[len(self._found)] == self._seen:
            self._keep(frame, self._seen)
        self._last = frame
        self._seen += 1
        return self._full

    def finish(self) -> Clip:
        """Return the clip, with the last frame in the place of those behind the end."""
        if self._last is None or not self._found:
            raise CorruptVideoError(self._path, f"it ends after {self._seen} frames, before frame {self._positions[0]}")
        while not self._full:
            self._keep(self._last, self._seen - 1)
        return Clip(torch.from_numpy(self._array), self._found)

    @property
    def _full(self) -> bool:
        return len(self._found) == len(self._positions)

    def _keep(self, frame: "VideoFrame", position: int) -> None:
        # One thread: by default a pool is started for each frame, which takes longer than the conversion.
        picture = np.rot90(frame.to_ndarray(format="rgb24", threads=1), quarter_turns(self._path, frame))
        if not self._found:
            self._array = self._allocated(picture)
        if picture.shape != self._array.shape[1:]:
            raise CorruptVideoError(self._path, "its frames differ in size")
        self._array[len(self._found)] = picture
        self._found.append(position)

    def _allocated(self, picture: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        length = len(self._positions)
        if length * picture.nbytes > MAX_CLIP_BYTES:
            reason = f"{length} of its frames need {length * picture.nbytes:,} bytes, the limit is {MAX_CLIP_BYTES:,}"
            raise CorruptVideoError(self._path, reason)
        return np.empty((length, *picture.shape), np.uint8)
