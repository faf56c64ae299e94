"""A small detector for the rendered scenes.

[0] Z. Tian, C. Shen, H. Chen, T. He, "FCOS: fully convolutional one-stage object detection", ICCV 2019; the head, the
loss and the post-processing are torchvision's.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from pvision.checks import positive_int
from pvision.detection.detectors.pyramid import FeaturePyramid
from pvision.detection.detectors.torchvision_network import TorchvisionNetwork, torchvision_detection
from pvision.errors import ConfigError
from pvision.network_weights import load_exactly, read_weights

__all__ = ["RENDERED_WEIGHTS", "CompactFCOS"]

_RENDERED_CLASSES = ("person", "quadruped", "vehicle")
RENDERED_WEIGHTS = Path(__file__).with_name("rendered.safetensors")
_SIZE = (96, 128)


class CompactFCOS(TorchvisionNetwork):
    """FCOS on a backbone of its own, for images of 96 x 128 pixels and objects 8 to 90 pixels high.

    413 thousand weights at the width of 32. The backbone is normalised by plain `torch.nn.BatchNorm2d`, so a frozen
    detector that is not kept in evaluation mode shows itself. Images of 96 x 128 pixels are not resized; others are, to
    a short side of 96 and a long side of at most 128.

    Args:
        class_names: of the labels, from 0.
        width: channels of the finest map, a multiple of 8.
        weights: ``"rendered"`` for those that were trained on the rendered scenes, a file, or None for random ones.

    Raises:
        ConfigError: if the width is no multiple of 8, or the weights do not fit.
        MissingExtraError: if torchvision is not installed.
    """

    def __init__(
        self,
        class_names: Sequence[str] = _RENDERED_CLASSES,
        *,
        width: int = 32,
        weights: str | None = "rendered",
    ) -> None:
        if positive_int("width", width, low=8) % 8:
            raise ConfigError(f"width must be a multiple of 8, but {width} came.")
        names = tuple(class_names)
        if weights == "rendered" and (names, width) != (_RENDERED_CLASSES, 32):
            raise ConfigError(
                f"The weights 'rendered' know the classes {', '.join(_RENDERED_CLASSES)} at width 32, but class_names "
                f"{', '.join(names)} at width {width} came. Leave both as they are, or set weights to None."
            )
        super().__init__(_network(len(names), width), names)
        if weights is not None:
            state = read_weights(RENDERED_WEIGHTS if weights == "rendered" else weights)
            load_exactly(self.network, state, source=weights)


def _network(classes: int, width: int) -> Any:
    detection = torchvision_detection()
    return detection.FCOS(
        FeaturePyramid(width),
        num_classes=classes,
        min_size=min(_SIZE),
        max_size=max(_SIZE),
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.25, 0.25],
        # Not the strides 4, 8, 16: a level learns distances of 4 to 8 times its anchor, and here the largest is 60.
        anchor_generator=detection.anchor_utils.AnchorGenerator(((4,), (6,), (12,)), ((1.0,),) * 3),
        head=_head(detection.fcos, width, classes),
        score_thresh=0.05,
        topk_candidates=200,
        detections_per_img=50,
    )


def _head(fcos: Any, width: int, classes: int) -> Any:
    head = fcos.FCOSHead(width, 1, classes, num_convs=0)
    # torchvision's groups are of a 32nd of the channels, which are too few here.
    norm_layer = partial(nn.GroupNorm, 4)
    head.classification_head = fcos.FCOSClassificationHead(width, 1, classes, 2, norm_layer=norm_layer)
    head.regression_head = fcos.FCOSRegressionHead(width, 1, 2, norm_layer=norm_layer)
    return head
