"""Detectors and boxes that several test files use: random, tiny, the same each time."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pvision.detection.detectors.compact_fcos import CompactFCOS
from pvision.detection.detectors.detector import Detector
from pvision.detection.detectors.torchvision_network import TorchvisionNetwork
from pvision.detection.records import Target

__all__ = ["boxes_and_images", "seeded", "small_faster_rcnn", "small_fcos", "small_retinanet", "small_ssd"]

Norm = Callable[[int], nn.Module]


def seeded(build: Callable[[], Detector]) -> Detector:
    """Return what ``build`` makes from a fixed seed, with statistics of some data; the generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = build()
        for name, buffer in detector.named_buffers():
            # Statistics of no data at all would hide what a forgotten eval() changes.
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
    return detector


def small_fcos(class_names: Sequence[str] = ("person", "dog"), size: int = 64) -> Detector:
    """Return a detector with batch normalisation and random weights for images of ``size`` x ``size`` pixels."""
    detector = seeded(lambda: CompactFCOS(class_names, width=8, weights=None))
    detector.network.transform.min_size = (size,)
    detector.network.transform.max_size = size
    with torch.no_grad():
        detector.network.head.classification_head.cls_logits.bias.zero_()  # so that something is found
    return detector


def small_retinanet(norm: Norm = nn.BatchNorm2d) -> Detector:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    def build() -> Detector:
        anchors = AnchorGenerator(((16, 24),), ((0.5, 1.0, 2.0),))
        network = RetinaNet(_Backbone(norm), 2, min_size=64, max_size=64, anchor_generator=anchors, score_thresh=0.001)
        return TorchvisionNetwork(network, ("person", "dog"))

    return seeded(build)


def small_faster_rcnn(norm: Norm = nn.BatchNorm2d) -> Detector:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    def build() -> Detector:
        network = FasterRCNN(
            _Backbone(norm),
            min_size=64,
            max_size=64,
            rpn_anchor_generator=AnchorGenerator(((16, 24),), ((0.5, 1.0, 2.0),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
            box_head=TwoMLPHead(8 * 9, 16),
            box_predictor=FastRCNNPredictor(16, 3),
        )
        return TorchvisionNetwork(network, ("person", "dog"))

    return seeded(build)


def small_ssd(norm: Norm = nn.BatchNorm2d) -> Detector:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD

    def build() -> Detector:
        boxes = DefaultBoxGenerator([[2], [2]])
        return TorchvisionNetwork(SSD(_TwoMaps(norm), boxes, (64, 64), 3), ("person", "dog"))

    return seeded(build)


def boxes_and_images(count: int, seed: int, *, size: int = 64) -> tuple[list[Tensor], list[Target]]:
    """Return ``count`` noise images of ``size`` x ``size`` pixels, each with two boxes of labels 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(3, size, size, generator=generator) for _ in range(count)]
    targets: list[Target] = []
    for _ in range(count):
        corner = torch.rand(2, 2, generator=generator) * (size / 2)
        extent = size / 8 + torch.rand(2, 2, generator=generator) * (size / 4)
        targets.append({"boxes": torch.cat([corner, corner + extent], dim=1), "labels": torch.tensor([0, 1])})
    return images, targets


class _Backbone(nn.Sequential):
    """One map of stride 8."""

    out_channels = 8

    def __init__(self, norm: Norm) -> None:
        block = partial(nn.Conv2d, kernel_size=3, stride=2, padding=1)
        super().__init__(block(3, 8), norm(8), nn.ReLU(), block(8, 8), norm(8), nn.ReLU(), block(8, 8))


class _TwoMaps(nn.Module):
    """Maps of strides 8 and 16."""

    out_channels = (8, 8)

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.fine = _Backbone(norm)
        self.coarse = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.fine(images)
        return OrderedDict(fine=fine, coarse=self.coarse(fine))
