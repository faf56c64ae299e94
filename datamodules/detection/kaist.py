"""KAIST's multispectral pedestrians in their official layout [0].

[0] Hwang et al.: Multispectral Pedestrian Detection: Benchmark Dataset and Baseline. CVPR 2015.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pvision.checks import one_of, positive_int
from pvision.datamodules.detection.file_datamodule import FileDetection, read_names, refuse_absent_data
from pvision.datamodules.detection.listed import Listed, NamedBox, Splits, relative
from pvision.datamodules.detection.voc_xml import read_voc
from pvision.errors import DataError

__all__ = ["KAIST"]

_LAYOUT = "ROOT/setNN/VNNN/{visible,lwir}/INNNNN.jpg and ROOT/annotations/setNN/VNNN/INNNNN.txt (or .xml)"
_SITE = "https://soonminhwang.github.io/rgbt-ped-detection/"
_TRAIN_SETS = tuple(f"set0{number}" for number in range(6))
_TEST_SETS = tuple(f"set{number:02}" for number in range(6, 12))


class KAIST(FileDetection):
    """KAIST: 95,328 aligned pairs of long-wave infrared and visible images from a car, with pedestrians.

    Sets 00 to 05 are for training and 06 to 11 for the test. Validation takes whole recordings (``set00/V000``),
    because neighbouring frames are nearly equal. Annotations are the official text files, in which ignored objects are
    left out, or the XML files of sanitised ones with ``x``, ``y``, ``w`` and ``h``. The benchmark's own miss rate, with
    its ignored regions, is not computed.

    Args:
        root: the folder that holds ``set00`` and so on.
        modality: ``"lwir"`` for infrared, or ``"rgb"``.
        annotations: the folder of the annotations, below ``root`` or absolute.
        train_list: a file, below ``root`` or absolute, with the training frames, ``set00/V000/I00019`` in each line;
            None for every ``step``-th frame.
        test_list: the same for the test.
        step: which frames of a recording are taken where there is no list: the last of so many, as the official lists
            do.
        classes: as `FileDetection`, like all that follow.
        with_rgb: see there.
        val_fraction: see there.
        channels: see there.
        clip_boxes: see there.
        batch_size: see there.
        eval_batch_size: see there.
        num_workers: see there.
        label_fraction: see there.
        flip: see there.
        seed: see there.

    Raises:
        ConfigError: if an argument is out of range.
    """

    def __init__(
        self,
        *,
        root: str,
        modality: Literal["lwir", "rgb"] = "lwir",
        annotations: str = "annotations",
        train_list: str | None = None,
        test_list: str | None = None,
        step: int = 20,
        classes: Sequence[str] | None = None,
        with_rgb: bool = True,
        val_fraction: float = 0.2,
        channels: int | None = 1,
        clip_boxes: bool = True,
        batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        label_fraction: float = 1.0,
        flip: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__(
            modality=one_of("data.modality", modality, ("lwir", "rgb")),
            classes=classes,
            with_rgb=with_rgb,
            val_fraction=val_fraction,
            channels=channels,
            clip_boxes=clip_boxes,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            label_fraction=label_fraction,
            flip=flip,
            seed=seed,
        )
        self._root = Path(root).expanduser()
        self._annotations = self._root / Path(annotations).expanduser()
        self._lists = {"train": train_list, "test": test_list}
        self._step = positive_int("data.step", step)

    def list_images(self, dropped: Counter[str]) -> Splits:
        """Return the frames of both official splits.

        Raises:
            DataError: if the data is not in the official layout.
        """
        refuse_absent_data([self._root, self._annotations], data="KAIST", layout=_LAYOUT, site=_SITE)
        train = [self._row(frame, dropped) for frame in self._frames("train", _TRAIN_SETS)]
        test = [self._row(frame, dropped) for frame in self._frames("test", _TEST_SETS)]
        return Splits(train, test, default=("person",))

    def _frames(self, split: str, sets: Sequence[str]) -> list[str]:
        if (listed := self._lists[split]) is not None:
            return read_names(self._root / Path(listed).expanduser())
        folder = "visible" if self.modality == "rgb" else "lwir"
        paths = [path for name in sets for path in (self._root / name).glob(f"V*/{folder}/I*.jpg")]
        taken = [path for path in paths if int(path.stem[1:]) % self._step == self._step - 1]
        if not taken:
            raise DataError(
                f"KAIST: no frame for the {split} is below {self._root} in {sets[0]} to {sets[-1]}. Expected is "
                f"{_LAYOUT}. Get the data at {_SITE}, or lower data.step."
            )
        return [f"{path.parts[-4]}/{path.parts[-3]}/{path.stem}" for path in taken]

    def _row(self, frame: str, dropped: Counter[str]) -> Listed:
        parts = relative(frame, "KAIST's list").split("/")
        if len(parts) != 3 or not re.fullmatch(r"I\d+", parts[2]):
            raise DataError(f"KAIST: a frame must be named as set00/V000/I00019, but {frame!r} came.")
        recording, name = "/".join(parts[:2]), parts[2]
        image, rgb = (self._root / recording / kind / f"{name}.jpg" for kind in ("lwir", "visible"))
        path = self._annotations / recording / f"{name}.txt"
        if path.is_file():
            return Listed(frame, image, _text_boxes(path, dropped), str(path), rgb, group=recording)
        row = read_voc(path.with_suffix(".xml"), one_based=False, name=frame, image=image, rgb=rgb)
        return Listed(frame, image, row.boxes, row.source, rgb, row.size, group=recording)


def _text_boxes(path: Path, dropped: Counter[str]) -> tuple[NamedBox, ...]:
    """Return the objects of a text file: label, left, top, width, height; the 11th word tells to ignore one."""
    boxes = []
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if not words or words[0].startswith("%"):
            continue
        try:
            left, top, width, height = (float(word) for word in words[1:5])
        except ValueError as error:
            raise DataError(
                f"{path}: a line must be a class and left, top, width, height, but {line!r} came."
            ) from error
        if len(words) > 10 and words[10] == "1":
            dropped["to be ignored"] += 1
        else:
            boxes.append(NamedBox(left, top, left + width, top + height, words[0]))
    return tuple(boxes)
