"""Networks for segmentation: shapes, parts and weights, without a connection."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.errors import ConfigError, DataError, MissingExtraError, UserError
from pvision.segmentation.networks import CompactSegmenter, DeepLabV3Features, SegmentationNetwork, ViTFeatures

TINY = "vit_tiny_patch16_224"
MAKERS: list[Callable[[], SegmentationNetwork]] = [
    lambda: CompactSegmenter(4),
    lambda: DeepLabV3Features("resnet50"),
    lambda: ViTFeatures(TINY, feature_dim=32),
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("this test has no connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("make", MAKERS)
def test_the_last_level_is_the_result_and_every_weight_is_trained_in_one_part(
    make: Callable[[], SegmentationNetwork],
) -> None:
    network, image = make(), torch.randn(2, 3, 32, 48)
    backbone, neck = network.backbone_parameters(), network.neck_parameters()
    assert {id(one) for one in backbone}.isdisjoint(id(one) for one in neck)
    assert {id(one) for one in (*backbone, *neck)} == {id(one) for one in network.parameters()}
    network(image).sum().backward()
    assert all(one.grad is not None for one in network.parameters())
    levels = network.eval().levels(image)
    assert torch.equal(levels[-1], network(image))
    assert levels[-1].shape[1] == network.feature_dim
    assert len(levels) >= 4


def test_a_last_batch_of_one_image_is_trained_too() -> None:
    network = DeepLabV3Features("resnet50").train()
    network(torch.randn(1, 3, 64, 64)).sum().backward()
    assert all(one.grad is not None for one in network.parameters())


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 50)])
def test_the_compact_network_ends_at_half_the_size(height: int, width: int) -> None:
    network = CompactSegmenter()
    features = network(torch.randn(2, 3, height, width))
    assert features.shape == (2, 64, -(-height // 2), -(-width // 2))
    assert 250_000 < sum(one.numel() for one in network.parameters()) < 350_000


@pytest.mark.parametrize(("stride", "side"), [(16, 4), (8, 8)])
def test_deeplab_dilates_instead_of_shrinking(stride: int, side: int) -> None:
    network = DeepLabV3Features("resnet50", output_stride=stride, dropout=0.3).eval()
    levels = network.levels(torch.randn(1, 3, 64, 64))
    assert [level.shape[1] for level in levels] == [256, 512, 1024, 2048, 256]
    assert levels[-1].shape[-2:] == (side, side)
    rates = {layer.dilation[0] for layer in network.neck.modules() if isinstance(layer, nn.Conv2d)}
    assert rates == {1, *(rate * 16 // stride for rate in (6, 12, 18))}
    assert [layer.p for layer in network.neck.modules() if isinstance(layer, nn.Dropout)] == [0.3]


def test_deeplab_takes_a_file_of_its_backbone(tmp_path: Path) -> None:
    published = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
    torch.save(published.state_dict(), tmp_path / "resnet.pth")
    network = DeepLabV3Features("resnet50", weights=str(tmp_path / "resnet.pth")).eval()
    image = torch.randn(1, 3, 64, 64)
    fourth = network.levels(image)[-2]
    stem = nn.Sequential(published.conv1, published.bn1, published.relu, published.maxpool)
    layers = nn.Sequential(stem, published.layer1, published.layer2, published.layer3, published.layer4)
    assert torch.equal(fourth, layers.eval()(image))
    with pytest.raises(ConfigError, match="does not fit ResNet"):
        DeepLabV3Features("resnet101", weights=str(tmp_path / "resnet.pth"))


def test_imagenet_alone_reaches_for_the_web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError, match="resnet50 could not be fetched"):
        DeepLabV3Features("resnet50", weights="imagenet")


def test_a_transformer_takes_images_of_any_grid() -> None:
    network = ViTFeatures(TINY).eval()
    levels = network.levels(torch.randn(1, 3, 48, 80))
    assert [tuple(level.shape[1:]) for level in levels] == [(192, 3, 5)] * 4 + [(256, 6, 10)]
    with pytest.raises(DataError, match=r"\(40, 48\) pixels came, but 16"):
        network(torch.randn(1, 3, 40, 48))


def test_a_transformer_at_its_own_size_computes_what_timm_does() -> None:
    torch.manual_seed(0)
    network = ViTFeatures(TINY).eval()
    image = torch.randn(1, 3, 224, 224)
    tokens = network.network.forward_features(image)[:, 1:]
    fourth = network.levels(image)[-2]
    assert torch.allclose(fourth.flatten(2).transpose(1, 2), tokens, atol=1e-5)


def test_a_transformer_takes_a_file_of_another_grid(tmp_path: Path) -> None:
    published = timm.create_model(TINY, pretrained=False, num_classes=9, img_size=112)
    nn.init.normal_(published.pos_embed)
    save_file(published.state_dict(), tmp_path / "tiny.safetensors")
    network = ViTFeatures(TINY, weights=str(tmp_path / "tiny.safetensors")).network
    assert torch.equal(network.blocks[0].attn.qkv.weight, published.blocks[0].attn.qkv.weight)
    assert torch.equal(network.pos_embed[:, :1], published.pos_embed[:, :1])
    grid = published.pos_embed[:, 1:].reshape(1, 7, 7, -1).permute(0, 3, 1, 2)
    larger = F.interpolate(grid, size=(14, 14), mode="bicubic", antialias=True)
    assert torch.allclose(network.pos_embed[:, 1:], larger.flatten(2).transpose(1, 2), atol=1e-5)


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"weights": {}}, tmp_path / "nested.pth")
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    reasons = {"nested.pth": "no state dict", "broken.pth": "cannot be read", "broken.safetensors": "no readable"}
    for name, reason in {**reasons, "absent.pth": "no file"}.items():
        with pytest.raises(UserError, match=reason):
            ViTFeatures(TINY, weights=str(tmp_path / name))


REFUSED: dict[str, Callable[[], Any]] = {
    "width must be": lambda: CompactSegmenter(0),
    "in_channels must be": lambda: CompactSegmenter(in_channels=0),
    "backbone must be one of .*'resnet50'.*but 'resnet18' came": lambda: DeepLabV3Features("resnet18"),
    "output_stride must be 16 or 8": lambda: DeepLabV3Features("resnet50", output_stride=32),
    "output_stride must be a whole number": lambda: DeepLabV3Features("resnet50", output_stride=[16]),
    "dropout must be below 1": lambda: DeepLabV3Features("resnet50", dropout=1),
    "one of timm's networks, but 'vit' came": lambda: ViTFeatures("vit"),
    "none of timm's class": lambda: ViTFeatures("resnet18"),
    "feature_dim must be": lambda: ViTFeatures(TINY, feature_dim=0),
    "Give one of them": lambda: ViTFeatures(TINY, pretrained=True, weights="a.pth"),
}


@pytest.mark.parametrize(("message", "make"), REFUSED.items())
def test_settings_that_mean_nothing_are_refused(message: str, make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(("package", "make"), [("torchvision", MAKERS[1]), ("timm", MAKERS[2])])
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, package: str, make: Callable[[], SegmentationNetwork]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=package):
        make()


def test_images_may_have_any_number_of_channels() -> None:
    image: Tensor = torch.randn(2, 1, 16, 16)
    assert CompactSegmenter(4, in_channels=1)(image).shape == (2, 8, 8, 8)
