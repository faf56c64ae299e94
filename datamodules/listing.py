"""Lists of labelled clips, before any of them is opened, and what may be wrong with a list."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pvision.errors import DataError

__all__ = ["SPLITS", "Listing", "Row", "hash_fraction", "refuse_empty"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Row:
    """One clip of a list.

    Args:
        name: its path below the folder of clips, with forward slashes.
        path: where it lies.
        label: the name of its class.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"pretraining"``.
        subject: who is to be seen; None if unknown. A subject must not be in two splits.
        source: where the row stands, for errors.
        video: the recording that it was cut from; None if unknown.
        undivided: whether clips of this video must not be in two splits.
    """

    name: str
    path: Path
    label: str
    split: str
    subject: str | None
    source: str
    video: str | None = None
    undivided: bool = False


class Listing:
    """The clips of a data set, checked against each other.

    Args:
        rows: the clips, in the order of the records.
        source: the list or folder that they come from, for errors.

    Attributes:
        class_names: the labels of the training clips, sorted.

    Raises:
        DataError: if a split is empty, a clip is there twice, a subject or an undivided video is in two splits, or a
            label is not among the training clips.
    """

    def __init__(self, rows: Iterable[Row], *, source: str) -> None:
        self.rows = tuple(rows)
        self.source = source
        refuse_empty({split: self.of(split) for split in SPLITS}, source)
        self.class_names: Sequence[str] = sorted({row.label for row in self.of("train")})
        _refuse_repetitions(self.rows)
        _refuse_division("subject", [(row, row.subject) for row in self.rows])
        _refuse_division("video", [(row, row.video if row.undivided else None) for row in self.rows])
        self._refuse_unknown_labels()

    def of(self, split: str) -> list[Row]:
        """Return the clips of a split."""
        return [row for row in self.rows if row.split == split]

    def _refuse_unknown_labels(self) -> None:
        known = set(self.class_names)
        for row in self.rows:
            if row.label not in known:
                raise DataError(
                    f"{row.source}: the label {row.label!r} of a {row.split} clip has no training clip. Known are "
                    f"{', '.join(map(repr, self.class_names[:20]))}. Correct the label, or add training clips of it."
                )


def hash_fraction(key: str) -> float:
    """Return a number from 0 to below 1 that depends on ``key`` alone, on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48


def refuse_empty(splits: Mapping[str, Sequence[object]], source: str) -> None:
    """Raise `DataError` if a split has no clips.

    Args:
        splits: the clips of each split.
        source: the list or folder that they come from.
    """
    empty = [split for split, clips in splits.items() if not clips]
    if empty:
        counts = ", ".join(f"{split} {len(clips)}" for split, clips in splits.items())
        raise DataError(
            f"{source}: no clips for {' and '.join(empty)} ({counts}). Each split needs at least one: add clips, or "
            "change the split column or the fractions."
        )


def _refuse_repetitions(rows: Sequence[Row]) -> None:
    files: dict[Path, Row] = {}
    stems: dict[str, Row] = {}
    for row in rows:
        first = files.setdefault(row.path.resolve(), row)
        if first is not row:
            raise DataError(
                f"{row.source}: the clip {row.name!r} is the same file as at {first.source}. One record is one file: "
                "keep one of the two."
            )
        first = stems.setdefault(str(Path(row.name).with_suffix("")), row)
        if first is not row:
            raise DataError(
                f"{row.source}: {row.name!r} differs from {first.name!r} in its suffix only, so that masks could be "
                "mistaken. Rename one of them, or take the file that is no clip out of the folder."
            )


def _refuse_division(what: str, rows: Iterable[tuple[Row, str | None]]) -> None:
    seen: dict[str, Row] = {}
    for row, name in rows:
        if name is None:
            continue
        first = seen.setdefault(name, row)
        if first.split != row.split:
            raise DataError(
                f"{row.source}: the {what} {name!r} is in {row.split}, but at {first.source} in {first.split}. "
                f"Give all clips of a {what} the same split."
            )
