"""FLIR's thermal data set, aligned with RGB, in its published layout [0, 1].

[0] Teledyne FLIR: Free Thermal Dataset for Algorithm Training.
[1] Zhang et al.: Multispectral Fusion for Object Detection with Cyclic Fuse-and-Refine Blocks. ICIP 2020.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pvision.checks import one_of
from pvision.datamodules.detection.file_datamodule import FileDetection, read_names, refuse_absent_data
from pvision.datamodules.detection.listed import Listed, NamedBox, Splits, only, relative
from pvision.datamodules.detection.voc_xml import read_voc

__all__ = ["FLIRAligned"]

_LAYOUT = (
    "ROOT/{align_train,align_validation}.txt, ROOT/JPEGImages/{FLIR_N_PreviewData.jpeg,FLIR_N_RGB.jpg} and "
    "ROOT/Annotations/FLIR_N_PreviewData.xml"
)
_SITE = "https://github.com/zonaqiu/FLIR-align"
_CLASSES = ("person", "bicycle", "car")
_TRAIN_AREA, _PERSON_HEIGHT, _OTHER_HEIGHT = 10.0, 50.0, 10.0


class FLIRAligned(FileDetection):
    """FLIR aligned: 5,142 pairs of long-wave infrared and RGB images from a car, with persons, bicycles and cars.

    The official validation list is the test; validation is drawn from the training list. Images are frames of drives,
    so that training and validation images can look alike: trust the test.

    Args:
        root: the folder that holds the lists, ``JPEGImages`` and ``Annotations``.
        modality: ``"lwir"`` for infrared, or ``"rgb"``.
        sixteen_bit: a folder, below ``root`` or absolute, with raw 16-bit images ``FLIR_N.tiff`` to take instead of the
            8-bit previews; they are what the camera counted, without its per-image contrast.
        size_filter: ``"flir"`` leaves out, as published results do, training objects of at most 10 square pixels, test
            persons at most 50 pixels high and other test objects at most 10 pixels high: to find one of these then
            counts as a false positive. ``"none"`` leaves out none.
        classes: as `FileDetection`, like all that follow.
        with_rgb: see there.
        val_fraction: see there.
        channels: see there.
        clip_boxes: see there; on, as in published results.
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
        sixteen_bit: str | None = None,
        size_filter: Literal["none", "flir"] = "none",
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
        self._sixteen_bit = None if sixteen_bit is None else self._root / Path(sixteen_bit).expanduser()
        self._filtered = one_of("data.size_filter", size_filter, ("none", "flir")) == "flir"

    def list_images(self, dropped: Counter[str]) -> Splits:
        """Return the pairs of both lists.

        Raises:
            DataError: if the data is not in the published layout.
        """
        lists = [self._root / f"align_{split}.txt" for split in ("train", "validation")]
        needed = [*lists, self._root / "JPEGImages", self._root / "Annotations"]
        needed += [self._sixteen_bit] if self._sixteen_bit else []
        refuse_absent_data(needed, data="FLIR aligned", layout=_LAYOUT, site=_SITE)
        train, test = ([self._row(name) for name in read_names(path)] for path in lists)
        if self._filtered:
            train = only(train, lambda box: box.area > _TRAIN_AREA, dropped, reason="small training objects")
            test = only(test, _is_tested, dropped, reason="test objects that are not high enough")
        return Splits(train, test, default=_CLASSES)

    def _row(self, line: str) -> Listed:
        stem = re.sub(r"(_PreviewData|_RGB)?(\.\w+)?$", "", relative(line, "FLIR's list"))
        images = self._root / "JPEGImages"
        raw = None if self._sixteen_bit is None else self._sixteen_bit / f"{stem}.tiff"
        return read_voc(
            self._root / "Annotations" / f"{stem}_PreviewData.xml",
            one_based=False,
            name=stem,
            image=raw or images / f"{stem}_PreviewData.jpeg",
            rgb=images / f"{stem}_RGB.jpg",
        )


def _is_tested(box: NamedBox) -> bool:
    return box.height > (_PERSON_HEIGHT if box.label == "person" else _OTHER_HEIGHT)
