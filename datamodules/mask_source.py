"""What a mask source is: it says, for each clip, which pixels are inside the annotated region."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from pvision.datamodules.decoding import VideoInfo, count_frames
from pvision.errors import DataError
from pvision.privacy import Redaction

__all__ = ["Footage", "MaskSource", "WholeFrame", "refuse_other_length", "refuse_other_size"]


@dataclass(frozen=True)
class Footage:
    """A video file, for the search of its mask.

    Args:
        name: its path below the folder of clips, with forward slashes.
        path: where it lies.
        info: its size and length.
    """

    name: str
    path: Path
    info: VideoInfo

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).with_suffix("").as_posix()

    def has_length(self, frames: int) -> bool:
        """Tell whether the video has so many frames, if need be by decoding it: containers miscount by one or two."""
        return frames == self.info.frames or frames == count_frames(self.path)


class MaskSource(ABC):
    """Where the masks of clips come from.

    Which side of a mask is sensitive is the redaction's setting, not the mask's.
    """

    @abstractmethod
    def load(self, footage: Footage, positions: Sequence[int]) -> Tensor:
        """Return the masks of some frames.

        Args:
            footage: the video.
            positions: its frames, counted from 0, in rising order, with repetitions.

        Returns:
            bool, ``(len(positions), H, W)`` in the video's own size, True inside the annotated region.

        Raises:
            DataError: if the mask is missing or does not fit the video.
        """

    def check(self, footage: Footage) -> None:
        """Look at a video's mask without reading all of it.

        Raises:
            DataError: if the mask is missing, or differs from the video in size or length.
        """
        self.load(footage, [0])

    def identity(self) -> dict[str, object]:
        """Return what kind of source this is and its settings: no path, and nothing that the masks themselves say."""
        return {"kind": type(self).__name__}

    def region(self, footage: Footage, positions: Sequence[int], redaction: Redaction) -> Tensor:
        """Return the sensitive region of some frames, bool, in the shape that `load` returns.

        Args:
            footage: the video.
            positions: as in `load`.
            redaction: which side of the mask is sensitive, and by how much it grows.
        """
        return redaction.region(self.load(footage, positions))


class WholeFrame(MaskSource):
    """All pixels of all clips are inside the region."""

    def load(self, footage: Footage, positions: Sequence[int]) -> Tensor:
        """Return masks that are True everywhere."""
        return torch.ones(len(positions), footage.info.height, footage.info.width, dtype=torch.bool)


def refuse_other_size(path: Path, size: tuple[int, int], footage: Footage) -> None:
    """Raise `DataError` if a mask's ``(H, W)`` is not its video's."""
    expected = footage.info.height, footage.info.width
    if size != expected:
        raise DataError(
            f"The mask {path} is {size[0]}x{size[1]} pixels (height x width), but its video {footage.path} is "
            f"{expected[0]}x{expected[1]}. Make masks from the video as it is, before any resizing or cropping."
        )


def refuse_other_length(path: Path, frames: int, footage: Footage) -> None:
    """Raise `DataError` if a mask has not one frame for each of its video's."""
    if not footage.has_length(frames):
        raise DataError(
            f"The mask {path} has {frames} frames, but its video {footage.path} has {footage.info.frames}. "
            "Make one mask for each frame of the video."
        )
