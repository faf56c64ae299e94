"""LLVIP in its official layout [0].

[0] Jia et al.: LLVIP: A Visible-infrared Paired Dataset for Low-light Vision. ICCV workshops 2021, arXiv 2108.10831.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pvision.checks import one_of
from pvision.datamodules.detection.file_datamodule import FileDetection, refuse_absent_data
from pvision.datamodules.detection.listed import Listed, Splits, only
from pvision.datamodules.detection.voc_xml import read_voc

__all__ = ["LLVIP"]

_LAYOUT = "ROOT/{visible,infrared}/{train,test}/NAME.jpg and ROOT/Annotations/NAME.xml"
_SITE = "https://bupt-ai-cz.github.io/LLVIP/"
_SMALLEST = 5.0


class LLVIP(FileDetection):
    """LLVIP: 15,488 aligned pairs of long-wave infrared and visible images of streets at night, with persons.

    The official test images are the test; validation is drawn from the training images. Pairs come from videos of 26
    places, so that training and validation images can look alike: trust the test.

    Args:
        root: the folder that holds ``visible``, ``infrared`` and ``Annotations``.
        modality: ``"lwir"`` for infrared, or ``"rgb"``.
        size_filter: ``"llvip"`` leaves out objects of at most 5 square pixels, as published results do; ``"none"``
            leaves out none.
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
        size_filter: Literal["llvip", "none"] = "llvip",
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
        self._smallest = _SMALLEST if one_of("data.size_filter", size_filter, ("llvip", "none")) == "llvip" else None

    def list_images(self, dropped: Counter[str]) -> Splits:
        """Return the pairs of both official splits.

        Raises:
            DataError: if the data is not in the official layout.
        """
        seen = "visible" if self.modality == "rgb" else "infrared"
        needed = [self._root / seen / "train", self._root / seen / "test", self._root / "Annotations"]
        refuse_absent_data(needed, data="LLVIP", layout=_LAYOUT, site=_SITE)
        train, test = (self._split(seen, split) for split in ("train", "test"))
        if self._smallest is not None:
            reason, smallest = f"at most {self._smallest:g} square pixels", self._smallest
            train, test = (
                only(rows, lambda box: box.area > smallest, dropped, reason=reason) for rows in (train, test)
            )
        return Splits(train, test, default=("person",))

    def _split(self, seen: str, split: str) -> list[Listed]:
        return [
            read_voc(
                self._root / "Annotations" / f"{path.stem}.xml",
                one_based=False,
                name=f"{split}/{path.name}",
                image=self._root / "infrared" / split / path.name,
                rgb=self._root / "visible" / split / path.name,
            )
            for path in sorted((self._root / seen / split).glob("*.jpg"))
        ]
