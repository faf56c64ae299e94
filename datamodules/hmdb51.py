"""HMDB51 in its official layout [0].

[0] Kuehne, Jhuang, Garrote, Poggio, Serre: HMDB: A Large Video Database for Human Motion Recognition. ICCV 2011.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pvision.checks import open_unit, positive_int
from pvision.datamodules._split_files import read_split_file, refuse_missing
from pvision.datamodules.file_videos import FileVideos
from pvision.datamodules.listing import Listing, Row, hash_fraction
from pvision.datamodules.mask_source import MaskSource
from pvision.errors import ConfigError, DataError
from pvision.privacy import Redaction

__all__ = ["HMDB51"]

_LAYOUT = "ROOT/CLASS/*.avi and ROOT/testTrainMulti_7030_splits/CLASS_test_splitK.txt"
_SITE = "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/"
_SPLITS = {"0": None, "1": "train", "2": "test"}
# What follows the name of the source and the action: visible body part, camera motion, people, angle, quality, number.
_TAIL = re.compile(r"_[a-z]+_(cm|nm)_np\d+_[a-z]+_[a-z]+_\d+$")


class HMDB51(FileVideos):
    """HMDB51: 6,766 clips of 51 actions, with the official 70/30 splits; clips that a split does not use are left out.

    The splits have no validation part. A part of the training clips is taken for it by a hash of the source video's
    name, the first part of a clip's name: clips of one source never come on both sides.

    The unit ``video`` is a source video, of whatever classes its clips are. It is as fine as the names are: parts of
    one film under two names are two videos. There is no unit ``subject``: nobody wrote down who is in a clip.

    Args:
        root: the folder that holds the class folders and ``testTrainMulti_7030_splits``.
        fold: which of the three official splits.
        val_fraction: about which part of the training list's source videos is for validation.
        masks: where the masks come from; a clip's name is ``CLASS/FILE.avi``.
        redaction: what is sensitive and how it is removed.
        frames: frames of a clip; a shorter video repeats its last frame.
        stride: distance between two frames of a clip.
        size: side of the square clip in pixels.
        on_error: ``"raise"``, or ``"skip"`` to leave out and count clips that cannot be used.
        seed: draws where training clips begin in their videos.
        batch_size: clips in a batch of un-noised training, of all processes together.
        eval_batch_size: clips that a process evaluates at a time.
        num_workers: loader processes; 0 loads in the main process.

    Raises:
        ConfigError: if a setting is out of its range.
    """

    unit_remedies: ClassVar[Mapping[str, str]] = {
        "video": "HMDB51 tells the source of a clip by its name, SOURCE_CLASS_f_cm_np1_ri_med_0.avi. Give the file "
        "back its official name, or use unit 'clip'.",
        "subject": "HMDB51 does not say who is in a clip, and actors recur across films. Use unit 'video', which is a "
        "source video; or find out who it is and give a VideoFolder a CSV with the column `subject`.",
    }

    def __init__(
        self,
        *,
        root: str,
        masks: MaskSource,
        redaction: Redaction,
        fold: int = 1,
        val_fraction: float = 0.15,
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
        self._fold = positive_int("data.fold", fold)
        if self._fold > 3:
            raise ConfigError(f"data.fold must be 1, 2 or 3, but {fold} came.")
        self._val_fraction = open_unit("data.val_fraction", val_fraction)

    def list_clips(self) -> Listing:
        """Return the clips of all splits, unopened.

        Raises:
            DataError: if the data is not in the official layout.
        """
        lists = self._root / "testTrainMulti_7030_splits"
        refuse_missing([self._root, lists], layout=_LAYOUT, site=_SITE)
        ending = f"_test_split{self._fold}.txt"
        files = sorted(lists.glob(f"*{ending}"))
        if not files:
            raise DataError(f"{lists} holds no *{ending}. Unpack the official archive of the splits there.")
        rows = [row for path in files for row in self._rows(path, path.name.removesuffix(ending))]
        return Listing(rows, source=str(lists))

    def _rows(self, path: Path, label: str) -> list[Row]:
        rows = []
        for words in read_split_file(path):
            source = f"{path}, {words[0]}"
            if len(words) != 2 or words[1] not in _SPLITS:
                raise DataError(f"{source}: a line must be a file and 0, 1 or 2, but {' '.join(words)!r} came.")
            split = _SPLITS[words[1]]
            if split == "train" and hash_fraction(_source_video(words[0], label)) < self._val_fraction:
                split = "val"
            if split is not None:
                name = f"{label}/{words[0]}"
                video = _source_video(words[0], label) if _follows_pattern(words[0], label) else None
                rows.append(Row(name, self._root / name, label, split, None, source, video=video))
        return rows


def _source_video(file: str, label: str) -> str:
    """Return the name of the video from which a clip was cut."""
    return _TAIL.sub("", Path(file).stem).removesuffix(f"_{label}")


def _follows_pattern(file: str, label: str) -> bool:
    """Tell whether what `_source_video` returns is a source, not just the whole name of a file."""
    stem = Path(file).stem
    tail = _TAIL.search(stem)
    return tail is not None and stem[: tail.start()].endswith(f"_{label}")
