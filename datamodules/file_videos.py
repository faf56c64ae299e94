"""The base of data modules whose clips lie in video files."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import ClassVar

from pvision.checks import one_of, positive_int
from pvision.datamodules._clip_check import check_clips
from pvision.datamodules.decoding import probe_video
from pvision.datamodules.file_records import ClipFormat, FileRecords
from pvision.datamodules.listing import SPLITS, Listing, Row, refuse_empty
from pvision.datamodules.mask_source import Footage, MaskSource
from pvision.datamodules.unit_names import UnitNames
from pvision.datamodules.video import VideoDataModule
from pvision.privacy import Redaction

__all__ = ["FileVideos"]


class FileVideos(VideoDataModule):
    """Clips in video files, with masks from any source; a subclass says which files and how they are split.

    One file is one record. Each record is one clip of its video, the same one in every epoch: the middle for
    evaluation, a place drawn by the seed for training.

    Args:
        masks: where the masks come from.
        redaction: what is sensitive and how it is removed.
        frames: frames of a clip; a shorter video repeats its last frame.
        stride: distance between two frames of a clip.
        size: side of the square clip in pixels; the short side is resized to it, the centre is cut out.
        on_error: ``"raise"`` stops at the first clip that cannot be used. ``"skip"`` reads every clip once before
            training, leaves such clips out and reports them; more than 1 % of them, and more than one, stop the run.
        seed: draws where training clips begin in their videos.
        batch_size: clips in a batch of un-noised training, of all processes together.
        eval_batch_size: clips that a process evaluates at a time.
        num_workers: loader processes; 0 loads in the main process.

    Attributes:
        skipped: path and reason of each clip that was left out.
        unit_remedies: for a unit that such data cannot tell, why that is, and what to do.
    """

    unit_remedies: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        *,
        masks: MaskSource,
        redaction: Redaction,
        frames: int = 16,
        stride: int = 2,
        size: int = 112,
        on_error: str = "raise",
        seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int = 200,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers)
        self.masks, self.redaction = masks, redaction
        self.clip = ClipFormat(
            frames=positive_int("data.frames", frames),
            stride=positive_int("data.stride", stride),
            size=positive_int("data.size", size),
        )
        self._skip = one_of("data.on_error", on_error, ("raise", "skip")) == "skip"
        self._seed = positive_int("data.seed", seed, low=0)
        self.skipped: list[tuple[str, str]] = []

    @abstractmethod
    def list_clips(self) -> Listing:
        """Return the clips of all splits, unopened.

        Raises:
            DataError: if the data is not in the expected layout.
        """

    def prepare_sets(self) -> None:
        """List the clips, look at each, and make the sets.

        Raises:
            DataError: if the layout is not the expected one, or clips cannot be used.
        """
        listing = self.list_clips()
        self.class_names = listing.class_names
        good, self.skipped = check_clips(listing.rows, self._inspect, skip=self._skip)
        splits = {split: [pair for pair in good if pair[0].split == split] for split in (*SPLITS, "pretraining")}
        refuse_empty({split: splits[split] for split in SPLITS}, listing.source)
        self.train_set, self.val_set, self.test_set = (self._records(splits[split], split) for split in SPLITS)
        if splits["pretraining"]:
            self.pretraining_set = self._records(splits["pretraining"], "pretraining")

    def _inspect(self, row: Row) -> Footage:
        footage = Footage(row.name, row.path, probe_video(row.path))
        self.masks.check(footage)
        if self._skip:  # Too late later on: the accountant must know how many records there are.
            _ = self._records([(row, footage)], row.split)[[0]]
        return footage

    def _records(self, clips: list[tuple[Row, Footage]], split: str) -> FileRecords:
        return FileRecords(
            [footage for _, footage in clips],
            [self.class_names.index(row.label) for row, _ in clips],
            masks=self.masks,
            redaction=self.redaction,
            clip=self.clip,
            seed=self._seed if split in ("train", "pretraining") else None,
            units=self._units([row for row, _ in clips]),
        )

    def _units(self, rows: list[Row]) -> UnitNames:
        videos, subjects = [row.video for row in rows], [row.subject for row in rows]
        return UnitNames(videos, subjects if any(subjects) else None, self.unit_remedies)

    def identity(self) -> dict[str, object]:
        """Return the settings that decide which pixels a record has, and which of them are hidden."""
        return {
            "redaction": asdict(self.redaction),
            "masks": self.masks.identity(),
            "clip": asdict(self.clip),
            "seed": self._seed,
        }
