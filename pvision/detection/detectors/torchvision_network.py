"""A ready network of torchvision's detection classes."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from typing_extensions import override

from pvision.detection.detectors.torchvision_style import TorchvisionStyleDetector
from pvision.errors import ConfigError, MissingExtraError

__all__ = ["TorchvisionNetwork", "torchvision_detection"]


def torchvision_detection() -> Any:
    """Return ``torchvision.models.detection``.

    Raises:
        MissingExtraError: if torchvision is not installed.
    """
    try:
        from torchvision.models import detection
    except ImportError as error:
        raise MissingExtraError("torchvision", "detection", "A detector of torchvision") from error
    return detection


class TorchvisionNetwork(TorchvisionStyleDetector):
    """A ready FCOS, RetinaNet, Faster R-CNN, SSD or SSDlite network, with any backbone.

    The loss is the network's own, in evaluation mode too. Faster R-CNN then proposes as many regions as in training
    (2000 by default, against 1000), and appends the true boxes to them for its loss only.

    The head, in `head_parameters`, is all that follows the feature pyramid: for Faster R-CNN the proposal network, the
    box head and its predictor, for the others ``network.head``.

    Args:
        network: of one of torchvision's classes.
        class_names: of the labels. Faster R-CNN and SSD keep label 0 for the background: its empty name is added in
            front if the first name is not empty.

    Raises:
        ConfigError: if the network is of another class, or its head has another number of classes.
    """

    def __init__(self, network: nn.Module, class_names: Sequence[str]) -> None:
        two_stages, background = _kind(network)
        names = tuple(class_names)
        if background and names[:1] != ("",):
            names = ("", *names)
        super().__init__(network, names, branches=("rpn", "roi_heads") if two_stages else ())
        self.two_stages = two_stages
        classes = _classes_of(network)
        if classes != len(names):
            raise ConfigError(
                f"The head of this {type(network).__name__} has {classes} classes"
                f"{' with the background' if background else ''}, but class_names make {len(names)}. Name each of "
                "them, with empty strings for those that stand for nothing."
            )

    @override
    def head_parameters(self) -> list[nn.Parameter]:
        names = ("rpn.head", "roi_heads.box_head", "roi_heads.box_predictor") if self.two_stages else ("head",)
        parts = [self.network.get_submodule(name) for name in names]
        return [parameter for part in parts for parameter in part.parameters()]


def _kind(network: nn.Module) -> tuple[bool, bool]:
    """Return whether a network has two stages, and whether its label 0 is the background."""
    detection = torchvision_detection()
    refused = (detection.MaskRCNN, detection.KeypointRCNN)
    if isinstance(network, detection.FasterRCNN) and not isinstance(network, refused):
        return True, True
    if isinstance(network, detection.ssd.SSD):
        return False, True
    if isinstance(network, detection.FCOS | detection.RetinaNet):
        return False, False
    raise ConfigError(
        f"network must be torchvision's FCOS, RetinaNet, FasterRCNN or SSD, but a {type(network).__name__} came. Use "
        "TorchvisionStyleDetector for networks that are only called like them."
    )


def _classes_of(network: Any) -> int:
    """Return how many labels the head of a network tells apart, the background included."""
    try:
        if hasattr(network, "roi_heads"):
            return int(network.roi_heads.box_predictor.cls_score.out_features)
        head = network.head.classification_head
        return int(head.num_columns if hasattr(head, "num_columns") else head.num_classes)
    except AttributeError as error:
        raise ConfigError(
            f"The head of this {type(network).__name__} does not say how many classes it has: {error}. Give it one of "
            "torchvision's heads, or use TorchvisionStyleDetector."
        ) from error
