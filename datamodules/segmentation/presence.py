"""Which labels occur in which mask: what a stream has to know of all masks before it is divided."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from pvision.continual.masks import VOID
from pvision.continual.scenarios import Presence
from pvision.continual.scenarios.labels import shown
from pvision.datamodules.segmentation.label_map import LabelMap
from pvision.datamodules.segmentation.mask_file import read_mask
from pvision.errors import DataError
from pvision.files import write_whole

__all__ = ["labels_in", "presence_of_files"]

_FORMAT = "pvision-presence-1"


def labels_in(mask: npt.NDArray[np.uint8], num_classes: int, name: str) -> npt.NDArray[np.bool_]:
    """Return which labels occur in a mask, bool ``(1 + classes,)``; `VOID` is none.

    Raises:
        DataError: if it holds a label above the number of classes.
    """
    found = np.bincount(mask.ravel(), minlength=256) > 0
    wrong = np.flatnonzero(found[num_classes + 1 : VOID]) + num_classes + 1
    if len(wrong):
        raise DataError(
            f"The mask {name} holds the labels {shown(wrong.tolist())}, but there are {num_classes} classes. Map what "
            f"is neither trained nor evaluated to {VOID}."
        )
    return found[: num_classes + 1]


def presence_of_files(
    masks: Sequence[Path], label_map: LabelMap, *, num_classes: int, kept_in: Path | None = None
) -> Presence:
    """Return which labels occur in each mask: bool ``(N, 1 + classes)``.

    Args:
        masks: PNG files.
        label_map: what their values mean.
        num_classes: how many classes there are.
        kept_in: a file that holds the answer afterwards. If it holds that of the same paths, sizes, times of change
            and label map, no mask is read.

    Raises:
        DataError: if a mask cannot be read, or holds a value that the label map does not list.
    """
    key = "" if kept_in is None else _key(masks, label_map, num_classes)
    if kept_in is not None and (kept := _kept(kept_in, key)) is not None:
        return _matrix(kept, num_classes)
    hidden = getattr(rank_zero_only, "rank", 0) != 0  # Lightning sets it when it knows the rank
    rows = [
        np.flatnonzero(labels_in(label_map.apply(read_mask(path), str(path)), num_classes, str(path))).tolist()
        for path in tqdm(masks, desc="Labels of the masks", unit="mask", leave=False, delay=2, disable=hidden)
    ]
    if kept_in is not None:
        write_whole(kept_in, json.dumps({"format": _FORMAT, "key": key, "labels": rows}) + "\n")
    return _matrix(rows, num_classes)


def _kept(path: Path, key: str) -> list[list[int]] | None:
    """Return what the file holds; None if there is none, or it is of other masks."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"presence_file {path} cannot be read ({error}). Remove it, and it is written anew.") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataError(f"presence_file {path} is another kind of file. Give a path that may be written.")
    labels: list[list[int]] = content["labels"]
    return labels if content["key"] == key else None


def _key(masks: Sequence[Path], label_map: LabelMap, num_classes: int) -> str:
    digest = hashlib.sha256(repr((num_classes, sorted(label_map.labels.items()))).encode())
    for path in masks:
        try:
            facts = path.stat()
        except OSError as error:
            raise DataError(f"There is no mask {path} ({error.strerror}). Each image needs one.") from error
        digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _matrix(rows: Sequence[Sequence[int]], num_classes: int) -> Presence:
    matrix = np.zeros((len(rows), num_classes + 1), dtype=bool)
    for row, labels in zip(matrix, rows, strict=True):
        row[list(labels)] = True
    return matrix
