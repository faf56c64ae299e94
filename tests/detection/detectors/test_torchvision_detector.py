"""Torchvision's detectors by name: classes, sizes, weights, and when something is downloaded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_detectors import boxes_and_images
from torch import nn

from pvision.detection.detectors import torchvision_detector
from pvision.detection.detectors.torchvision_detector import TorchvisionDetector
from pvision.errors import ConfigError

SMALLEST = "ssdlite320_mobilenet_v3_large"
TWO_STAGES = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(autouse=True)
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record what would be downloaded, and give random weights for it."""
    asked: list[dict[str, Any]] = []

    def give(url: str, **named: Any) -> dict[str, torch.Tensor]:
        asked.append({"url": url, **named})
        return TorchvisionDetector(SMALLEST).network.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", give)
    return asked


def test_the_default_is_a_whole_detector_without_any_download(downloads: list) -> None:
    detector = TorchvisionDetector(class_names=("person", "dog"), min_size=64, max_size=96)
    images, targets = boxes_and_images(1, 0)

    assert type(detector.network).__name__ == "FCOS"
    assert detector.network.transform.min_size == (64,)
    assert detector.network.transform.max_size == 96
    assert detector.class_names == ("person", "dog")
    assert all(value.isfinite() for value in detector.loss(images, targets).values())
    assert downloads == []


def test_without_names_the_classes_are_those_of_coco() -> None:
    detector = TorchvisionDetector(SMALLEST)

    assert len(detector.class_names) == 91
    assert detector.label_of("person") == 1
    assert detector.class_names[0] == ""
    assert detector.class_names[12] == ""  # COCO's label 12 stands for nothing


def test_weights_are_downloaded_only_by_name_and_against_their_hash(downloads: list) -> None:
    detector = TorchvisionDetector(SMALLEST, weights="COCO_V1")

    assert [(one["check_hash"], "ssdlite320" in one["url"]) for one in downloads] == [(True, True)]
    assert detector.label_of("dog") == 18


def test_weights_come_from_a_file(tmp_path: Path, downloads: list) -> None:
    source = TorchvisionDetector(SMALLEST, class_names=("person", "dog"))
    path = tmp_path / "weights.pth"
    torch.save(source.network.state_dict(), path)

    loaded = TorchvisionDetector(SMALLEST, weights=str(path), class_names=("person", "dog"))

    expected = source.network.state_dict()
    assert loaded.class_names == ("", "person", "dog")
    assert all(torch.equal(value, expected[name]) for name, value in loaded.network.state_dict().items())
    assert downloads == []


def test_a_file_of_fixed_statistics_gets_a_network_of_fixed_statistics(tmp_path: Path) -> None:
    from torchvision.ops import FrozenBatchNorm2d

    source = TorchvisionDetector(TWO_STAGES, class_names=("person",))
    weights = source.network.state_dict()
    path = tmp_path / "weights.pth"
    torch.save({name: value for name, value in weights.items() if "num_batches_tracked" not in name}, path)

    loaded = TorchvisionDetector(TWO_STAGES, weights=str(path), class_names=("person",))

    images, _ = boxes_and_images(1, 0)
    kinds = {type(module) for module in loaded.network.modules()}
    assert FrozenBatchNorm2d in kinds
    assert nn.BatchNorm2d not in kinds
    torch.testing.assert_close(
        loaded.network.backbone(images[0][None])["0"], source.network.backbone(images[0][None])["0"]
    )


def test_torchvisions_own_old_files_add_nothing_to_the_variance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "renamed.pth"
    path.write_bytes(b"weights")
    # The SHA-256 of those seven bytes.
    official = SimpleNamespace(url="https://example.org/fasterrcnn_resnet50_fpn_coco-9a129038.pth")
    monkeypatch.setattr(torchvision_detector, "_official", lambda *given: official)

    assert torchvision_detector._adds_nothing(path, "fasterrcnn_resnet50_fpn")
    assert not torchvision_detector._adds_nothing(path, "fcos_resnet50_fpn")
    path.write_bytes(b"fine-tuned")
    assert not torchvision_detector._adds_nothing(path, "fasterrcnn_resnet50_fpn")

    network = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(3, eps=0.5)))
    torchvision_detector._fix_statistics(network, eps=None)
    assert (network[0].eps, network[1][0].eps) == (1e-5, 0.5)
    torchvision_detector._fix_statistics(network.append(nn.BatchNorm2d(2)), eps=0.0)
    assert network[2].eps == 0.0


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "resnet50", ""])
def test_other_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"one of .*'fcos_resnet50_fpn'.*'ssdlite320"):
        TorchvisionDetector(name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "COCO_V1", "class_names": ("person",)}, "Leave class_names out"),
        ({"weights": "nothing.pth"}, "there is no file"),
        ({"min_size": 100}, "resizes all images to one fixed size. Leave min_size out"),
        ({"class_names": ()}, "at least one name"),
        ({"class_names": "person"}, "list of at least one name"),
    ],
)
def test_settings_that_do_not_apply_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TorchvisionDetector(SMALLEST, **settings)


def test_a_size_must_be_a_whole_number() -> None:
    with pytest.raises(ConfigError, match="min_size must be"):
        TorchvisionDetector(TWO_STAGES, min_size=0)
