"""NYU Depth V2 with boxes, in the layout that detection papers use [0, 1].

[0] Silberman, Hoiem, Kohli, Fergus: Indoor Segmentation and Support Inference from RGBD Images. ECCV 2012.
[1] Medeiros et al.: Visual Modality Prompt for Adapting Vision-Language Object Detectors. ICCV 2025, arXiv 2412.00622.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pvision.checks import one_of
from pvision.datamodules.detection.coco_json import read_coco
from pvision.datamodules.detection.file_datamodule import FileDetection, refuse_absent_data
from pvision.datamodules.detection.listed import Listed, Splits, partner

__all__ = ["NYUv2Detection"]

_LAYOUT = "ROOT/{train,test}_gt_box.json (COCO's format) and ROOT/nyuv2_{train,test}_{color,depth}/NAME"
_SITE = "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html"


class NYUv2Detection(FileDetection):
    """NYUv2: 1,449 indoor scenes with colour and depth, and boxes of 19 kinds of furniture.

    Published lists name colour images only. Depth lies beside them in ``nyuv2_train_depth`` and ``nyuv2_test_depth``
    under the same names: one channel of 16 bits, the distance in **millimetres**, 0 where nothing was measured.
    Released code does not say how depth became its images; results on ours are not comparable with published ones.

    Args:
        root: the folder that holds the lists and the image folders.
        modality: ``"depth"``, or ``"rgb"``.
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
        modality: Literal["depth", "rgb"] = "depth",
        classes: Sequence[str] | None = None,
        with_rgb: bool = True,
        val_fraction: float = 0.2,
        channels: int | None = 1,
        clip_boxes: bool = False,
        batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        label_fraction: float = 1.0,
        flip: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__(
            modality=one_of("data.modality", modality, ("depth", "rgb")),
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

    def list_images(self, dropped: Counter[str]) -> Splits:
        """Return the scenes of both lists.

        Raises:
            DataError: if the data is not in the expected layout.
        """
        lists = [self._root / f"{split}_gt_box.json" for split in ("train", "test")]
        kind = "color" if self.modality == "rgb" else "depth"
        needed = [*lists, *(self._root / f"nyuv2_{split}_{kind}" for split in ("train", "test"))]
        refuse_absent_data(needed, data="NYUv2", layout=_LAYOUT, site=_SITE)
        (names, train), (others, test) = (self._split(split, dropped) for split in ("train", "test"))
        return Splits(train, test, list(dict.fromkeys([*names, *others])))

    def _split(self, split: str, dropped: Counter[str]) -> tuple[list[str], list[Listed]]:
        depth, colour = (self._root / f"nyuv2_{split}_{kind}" for kind in ("depth", "color"))
        return read_coco(
            self._root / f"{split}_gt_box.json",
            files=lambda name: (partner(depth, name), partner(colour, name)),
            dropped=dropped,
        )
