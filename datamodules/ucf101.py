"""UCF101 in its official layout [0].

[0] Soomro, Zamir, Shah: UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild. 2012, arXiv 1212.0402.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pvision.checks import positive_int
from pvision.datamodules._split_files import read_split_file, refuse_missing
from pvision.datamodules.file_videos import FileVideos
from pvision.datamodules.listing import Listing, Row
from pvision.datamodules.mask_source import MaskSource
from pvision.errors import ConfigError, DataError
from pvision.privacy import Redaction

__all__ = ["UCF101"]

_LAYOUT = "ROOT/UCF-101/CLASS/v_CLASS_gNN_cNN.avi and ROOT/ucfTrainTestlist/{classInd,trainlist0K,testlist0K}.txt"
_SITE = "https://www.crcv.ucf.edu/research/data-sets/ucf101/"


class UCF101(FileVideos):
    """UCF101: 13,320 clips of 101 actions, with the official train and test lists.

    The lists have no validation part. The clips of the highest-numbered groups of the training list are taken for
    it: a group's clips were cut from the same footage, so groups are never divided.

    The unit ``video`` is a group of a class, never a single file of it. There is no unit ``subject``: a group often
    shows one person, but nobody wrote down who, and one person can be in several groups and classes.

    Args:
        root: the folder that holds ``UCF-101`` and ``ucfTrainTestlist``.
        fold: which of the three official splits.
        val_groups: how many of the training list's groups (18 in the official lists) are for validation.
        masks: where the masks come from; a clip's name is ``CLASS/v_CLASS_gNN_cNN.avi``.
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
        "subject": "UCF101 does not say who is in a clip, and one person can be in several groups and classes. Use "
        "unit 'video', which is a group; or find out who it is and give a VideoFolder a CSV with the column `subject`."
    }

    def __init__(
        self,
        *,
        root: str,
        masks: MaskSource,
        redaction: Redaction,
        fold: int = 1,
        val_groups: int = 3,
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
        self._val_groups = positive_int("data.val_groups", val_groups)

    def list_clips(self) -> Listing:
        """Return the clips of all splits, unopened.

        Raises:
            DataError: if the data is not in the official layout, or a list names what is not there.
        """
        lists = self._root / "ucfTrainTestlist"
        refuse_missing([self._root / "UCF-101", lists], layout=_LAYOUT, site=_SITE)
        classes = {words[-1] for words in read_split_file(lists / "classInd.txt")}
        train = self._rows(lists / f"trainlist0{self._fold}.txt", "train", classes)
        test = self._rows(lists / f"testlist0{self._fold}.txt", "test", classes)
        groups = sorted({_group(row.name) for row in train})
        if len(groups) <= self._val_groups:
            raise ConfigError(
                f"data.val_groups must be below {len(groups)}, the number of groups in the training list."
            )
        held_out = groups[-self._val_groups :]
        rows = [replace(row, split="val") if _group(row.name) in held_out else row for row in train]
        return Listing(rows + test, source=str(lists))

    def _rows(self, path: Path, split: str, classes: set[str]) -> list[Row]:
        # Training lists have the class number behind the path; the folder says the class in both.
        return [self._row(words[0], split, classes, f"{path}, {words[0]}") for words in read_split_file(path)]

    def _row(self, name: str, split: str, classes: set[str], source: str) -> Row:
        label = name.partition("/")[0]
        if label not in classes:
            raise DataError(f"{source}: the class {label!r} is not in classInd.txt. Take both from the same archive.")
        video = f"{label}, group {_group(name)}"
        return Row(name, self._root / "UCF-101" / name, label, split, None, source, video=video, undivided=True)


def _group(name: str) -> int:
    found = re.search(r"_g(\d+)_c\d+\.", name)
    if found is None:
        raise DataError(f"{name!r} is no clip of UCF101: its name must hold its group, as v_CLASS_g01_c01.avi.")
    return int(found.group(1))
