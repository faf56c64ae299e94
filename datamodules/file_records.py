"""Records that lie in video files."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from pvision.datamodules.decoding import decode_clip
from pvision.datamodules.listing import hash_fraction
from pvision.datamodules.mask_source import Footage, MaskSource
from pvision.datamodules.records import Records
from pvision.datamodules.transforms import square_region, square_video
from pvision.datamodules.unit_names import UnitNames
from pvision.errors import CorruptVideoError, DataError
from pvision.privacy import PublicView, Redaction, TwoViews

__all__ = ["ClipFormat", "FileRecords"]

_MISCOUNT = 2


@dataclass(frozen=True)
class ClipFormat:
    """Which frames of a video are its record, and in what size.

    Args:
        frames: frames of a clip; a shorter video repeats its last frame.
        stride: distance between two of them.
        size: side of the square clip in pixels.
    """

    frames: int
    stride: int
    size: int

    def start(self, name: str, total: int, seed: int | None) -> int:
        """Return a video's first frame: always the same one, drawn by ``seed`` and ``name``, or the centre if None."""
        spare = max(0, total - 1 - (self.frames - 1) * self.stride)
        return spare // 2 if seed is None else int(hash_fraction(f"{seed}/{name}") * (spare + 1))


class FileRecords(Records):
    """Clips that are decoded, redacted and resized when they are asked for.

    Redaction comes first, at the video's own size; then both views go through the same transform. A record is the
    same clip each time it is drawn.

    Args:
        footage: the videos.
        labels: the class index of each.
        masks: where their masks come from.
        redaction: what is sensitive and how it is removed.
        clip: which frames to take, and in what size.
        seed: draws where each clip begins in its video; None takes the middle.
        units: the video and the subject of each, as far as they are known.

    Raises:
        DataError: if there is not one label for each video.
    """

    def __init__(
        self,
        footage: Sequence[Footage],
        labels: Sequence[int],
        *,
        masks: MaskSource,
        redaction: Redaction,
        clip: ClipFormat,
        seed: int | None,
        units: UnitNames | None = None,
    ) -> None:
        if len(footage) != len(labels):
            raise DataError(f"Each video needs one label, but {len(footage)} videos and {len(labels)} labels came.")
        self._footage, self._labels = tuple(footage), torch.tensor(labels, dtype=torch.int64)
        self._masks, self._redaction, self._clip, self._seed = masks, redaction, clip, seed
        self.units = units or UnitNames()
        self._sensitive: Tensor | None = None

    def __len__(self) -> int:
        return len(self._footage)

    def __getitem__(self, indices: Sequence[int]) -> TwoViews:
        clips = [self._views(self._footage[index]) for index in indices]
        index = torch.as_tensor(indices, dtype=torch.int64)
        shape = (self._clip.frames, self._clip.size, self._clip.size)
        full = _stacked([clip[0] for clip in clips], (3, *shape), torch.uint8)
        redacted = _stacked([clip[1] for clip in clips], (3, *shape), torch.uint8)
        region = _stacked([clip[2] for clip in clips], shape, torch.bool)
        return TwoViews(full, PublicView(redacted, region, self._labels[index], index))

    @property
    def names(self) -> Sequence[str]:
        """The videos' paths below the folder of clips."""
        return [footage.name for footage in self._footage]

    @property
    def sensitive(self) -> Tensor:
        """Which records have anything to hide, bool, ``(N,)``; this makes mask emptiness public, see `Records`.

        All masks are read once, with a progress bar, the first time that somebody asks.
        """
        if self._sensitive is None:
            clips = tqdm(self._footage, desc="Looking for empty masks", unit="clip", disable=None, leave=False)
            self._sensitive = torch.tensor([self._has_region(footage) for footage in clips], dtype=torch.bool)
        return self._sensitive

    def _has_region(self, footage: Footage) -> bool:
        total = footage.info.frames
        start = self._clip.start(footage.name, total, self._seed)
        planned = [min(start + step * self._clip.stride, total - 1) for step in range(self._clip.frames)]
        try:
            region = square_region(self._masks.region(footage, planned, self._redaction), self._clip.size)
        except DataError:
            # Containers miscount by a frame or two: only the decoder knows the positions that the record has.
            region = self._views(footage)[2]
        return bool(region.any())

    def _views(self, footage: Footage) -> tuple[Tensor, Tensor, Tensor]:
        """Return the clip, its redacted view, and the region that was redacted."""
        video, positions = self._decoded(footage)
        if video.shape[1:3] != (footage.info.height, footage.info.width):
            raise CorruptVideoError(footage.path, "it has changed since the start of the run")
        region = self._masks.region(footage, positions, self._redaction)
        redacted = self._redaction.redact(video, region)
        size = self._clip.size
        return square_video(video, size), square_video(redacted, size), square_region(region, size)

    def _decoded(self, footage: Footage) -> tuple[Tensor, list[int]]:
        total = footage.info.frames
        start = self._clip.start(footage.name, total, self._seed)
        clip = decode_clip(footage.path, frames=self._clip.frames, stride=self._clip.stride, start=start)
        last = min(start + (self._clip.frames - 1) * self._clip.stride, total - 1)
        if clip.positions[-1] < last - _MISCOUNT:
            reason = f"its decoder ends at frame {clip.positions[-1]}, but the container holds {total} frames"
            raise CorruptVideoError(footage.path, reason)
        return clip.video, clip.positions


def _stacked(parts: list[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.stack(parts) if parts else torch.empty(0, *shape, dtype=dtype)
