"""A user's own clips: folders named after classes, or a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pvision.datamodules._folder_listing import HashSplit, list_folders, list_table
from pvision.datamodules.file_videos import FileVideos
from pvision.datamodules.listing import SPLITS, Listing, refuse_empty
from pvision.datamodules.mask_source import MaskSource
from pvision.errors import ConfigError, DataError
from pvision.privacy import Redaction

__all__ = ["VideoFolder"]


class VideoFolder(FileVideos):
    """Your own clips, in one of three layouts.

    - A CSV file with the header ``path,label,split,subject,video``; paths are relative to ``root``, the last three are
      optional. ``subject`` is who is to be seen, ``video`` the recording that a file was cut from.
    - ``root/train/CLASS/CLIP``, and the same for ``val`` and ``test``.
    - ``root/CLASS/CLIP``, or a CSV without ``split``: whole subjects, or whole videos where no subject is known,
      are put in a split by a hash of their name, so that a clip never changes sides when others are added. Frames of
      one file never come into two splits. If people or recordings recur across files, write a CSV that says so.

    The unit ``video`` is the column of that name, or the file; the unit ``subject`` needs its column.

    Args:
        root: the folder of the clips.
        annotations: the CSV file; None for folders.
        val_fraction: part of the subjects, videos or files that is for validation, where the layout does not say.
        test_fraction: part of them that is for the test.
        pretraining_split: the split whose clips the guarantee need not cover (synthetic, consented); None if none.
        masks: where the masks come from.
        redaction: what is sensitive and how it is removed.
        frames: frames of a clip; a shorter video repeats its last frame.
        stride: distance between two frames of a clip.
        size: side of the square clip in pixels.
        on_error: ``"raise"``, or ``"skip"`` to leave out and count clips that cannot be used.
        seed: draws where training clips begin in their videos; the split does not depend on it.
        batch_size: clips in a batch of un-noised training, of all processes together.
        eval_batch_size: clips that a process evaluates at a time.
        num_workers: loader processes; 0 loads in the main process.

    Raises:
        ConfigError: if a setting is out of its range.

    Example:
        ``VideoFolder(root="clips", masks=Boxes("people.json"), redaction=Redaction("inside"))``
    """

    unit_remedies: ClassVar[Mapping[str, str]] = {
        "subject": "Give data.annotations a CSV with the column `subject`, or use unit 'video' or 'clip', which "
        "protects less."
    }

    def __init__(
        self,
        *,
        root: str,
        masks: MaskSource,
        redaction: Redaction,
        annotations: str | None = None,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        pretraining_split: str | None = None,
        frames: int = 16,
        stride: int = 2,
        size: int = 112,
        on_error: str = "raise",
        seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int = 200,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            masks=masks,
            redaction=redaction,
            frames=frames,
            stride=stride,
            size=size,
            on_error=on_error,
            seed=seed,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
        )
        self._root = Path(root).expanduser()
        self._table = None if annotations is None else Path(annotations).expanduser()
        self._hash_split = HashSplit.of(val_fraction, test_fraction)
        self._pretraining = pretraining_split
        if pretraining_split is not None and (not pretraining_split or pretraining_split in SPLITS):
            raise ConfigError(
                f"data.pretraining_split must name a split of its own, not {pretraining_split!r}: the guarantee covers "
                "train, and results on val and test must not be trained on."
            )

    def list_clips(self) -> Listing:
        """Return the clips of all splits, unopened.

        Raises:
            DataError: if the layout is none of the three, or a list contradicts itself.
            ConfigError: if the fractions do not go with the layout.
        """
        if not self._root.is_dir():
            raise DataError(
                f"data.root {self._root} is no folder. Give the folder of your clips, laid out as root/CLASS/CLIP, as "
                "root/train|val|test/CLASS/CLIP, or in any way together with data.annotations."
            )
        if self._table is not None:
            listing = list_table(self._table, self._root, self._hash_split, self._pretraining)
        else:
            listing = list_folders(self._root, self._hash_split, self._pretraining)
        if self._pretraining:
            refuse_empty({self._pretraining: listing.of("pretraining")}, listing.source)
        return listing
