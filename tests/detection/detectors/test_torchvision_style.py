"""Detectors of other libraries with torchvision's calling convention."""

from typing import Any

import pytest
import torch
from small_detectors import boxes_and_images, small_faster_rcnn, small_fcos
from torch import Tensor, nn

from pvision.detection.detectors.torchvision_style import TorchvisionStyleDetector
from pvision.errors import ConfigError

NAMES = ("person", "dog")


class _Counts(nn.Module):
    """Counts its calls wherever it is asked for a loss: what no frozen detector may do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        if not self.training:
            return [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()}] * len(
                images
            )
        self.calls += 1
        return {"loss": self.scale * torch.stack(images).mean()}


def test_the_loss_is_that_of_the_same_network_of_torchvision() -> None:
    reference = small_fcos()
    detector = TorchvisionStyleDetector(reference.network, NAMES)
    images, targets = boxes_and_images(2, 0)

    ours, theirs = detector.loss(images, targets), reference.loss(images, targets)

    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_parts_that_choose_by_their_own_flag_are_named() -> None:
    reference = small_faster_rcnn()
    images, targets = boxes_and_images(1, 0)
    targets[0]["labels"] += 1
    names = reference.class_names

    with pytest.raises(ConfigError, match="returned dict in training mode, where a mapping of losses"):
        TorchvisionStyleDetector(reference.network, names).loss(images, targets)
    detector = TorchvisionStyleDetector(reference.network, names, branches=("rpn", "roi_heads"))
    assert set(detector.loss(images, targets)) == set(reference.loss(images, targets))


def test_a_buffer_that_moves_in_evaluation_mode_is_refused_and_put_back() -> None:
    network = _Counts()
    detector = TorchvisionStyleDetector(network, NAMES).freeze()
    images, targets = boxes_and_images(1, 0)

    with pytest.raises(ConfigError, match="moved its buffer 'calls'"):
        detector.loss(images, targets)
    assert network.calls == 0
    assert not network.training


def test_in_training_mode_buffers_may_move() -> None:
    detector = TorchvisionStyleDetector(_Counts(), NAMES).train()

    detector.loss(*boxes_and_images(1, 0))

    assert detector.network.calls == 1


@pytest.mark.parametrize("settings", [{"branches": ("rpn",)}, {"head": "heads"}])
def test_a_part_that_does_not_exist_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"FCOS has no part '.*'\. Its parts are: backbone, .*head"):
        TorchvisionStyleDetector(small_fcos().network, NAMES, **settings)


def test_without_a_head_all_of_the_network_is_the_head() -> None:
    detector = TorchvisionStyleDetector(small_fcos().network, NAMES)

    assert len(detector.head_parameters()) == len(list(detector.parameters()))
