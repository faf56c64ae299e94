"""A translator's network whose encoder begins with what the rendered scenes' detector has learned of shapes.

ModTr's own translators begin with encoders of ImageNet; this is the same for a detector as small as `CompactFCOS`.
"""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from pvision.checks import positive_int
from pvision.detection.detectors.compact_fcos import RENDERED_WEIGHTS
from pvision.detection.detectors.pyramid import FeaturePyramid
from pvision.errors import ConfigError
from pvision.network_weights import read_weights

__all__ = ["PYRAMID", "PyramidUNet"]

PYRAMID = "pyramid"
"""What recipes call it."""

_WIDTH = 32
_GROUPS = 4
_ENCODER = "backbone."


class PyramidUNet(nn.Module):
    """`CompactFCOS`' backbone as an encoder, and a decoder that ends at full resolution.

    The encoder's BatchNorm keeps the statistics that it has, in training too, so that an image gets the same output in
    any batch and on any number of processes; its weights are trained with all others.

    Args:
        in_channels: of the images; weights for RGB are shared out among them.
        out_channels: of the output, which is not bounded.
        encoder_weights: ``"rendered"`` for those of the shipped detector, a file of such a detector, or None for random
            ones.

    Raises:
        ConfigError: if a number is below 1, or the weights are not those of a `CompactFCOS`.

    Attributes:
        stride: both sides of the images must divide by it.
        head: the last layer.
    """

    stride = 32

    def __init__(self, in_channels: int, out_channels: int, *, encoder_weights: str | None = None) -> None:
        super().__init__()
        self.encoder = FeaturePyramid(_WIDTH)
        if encoder_weights is not None:
            _load(self.encoder, RENDERED_WEIGHTS if encoder_weights == "rendered" else Path(encoder_weights))
        # Only the finest map is decoded: weights that smooth the others would never learn.
        self.encoder.smooth[0], self.encoder.smooth[1] = nn.Identity(), nn.Identity()
        if positive_int("in_channels", in_channels) != 3:
            _share_out(self.encoder, in_channels)
        half = _WIDTH // 2
        self.near = _layer(in_channels, half, stride=2)
        self.up = nn.ModuleList([_layer(_WIDTH + half, half), _layer(half + in_channels, half)])
        self.head = nn.Conv2d(half, positive_int("out_channels", out_channels), 1)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for layer in self.encoder.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        return self

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return ``(B, out_channels, H, W)`` for ``(B, in_channels, H, W)``, both sides multiples of `stride`."""
        centred = (images - 0.5) / 0.25  # as the detector sees them
        features = next(iter(self.encoder(centred).values()))
        for skipped, level in zip((self.near(centred), centred), self.up, strict=True):
            larger = F.interpolate(features, size=skipped.shape[-2:], mode="bilinear", align_corners=False)
            features = level(torch.cat([larger, skipped], dim=1))
        output: Tensor = self.head(features)
        return output


def _load(encoder: FeaturePyramid, path: Path) -> None:
    found = {
        name.removeprefix(_ENCODER): value for name, value in read_weights(path).items() if name.startswith(_ENCODER)
    }
    try:
        encoder.load_state_dict(found)
    except RuntimeError as error:
        raise ConfigError(
            f"encoder_weights: {path} holds no backbone of a CompactFCOS of width {_WIDTH}. Give the weights of one, "
            "'rendered', or null for random ones."
        ) from error


def _share_out(encoder: FeaturePyramid, in_channels: int) -> None:
    """Let the first layer take other channels than RGB, and respond to grey images as it did."""
    first = encoder.get_parameter("stem.0.weight")
    shared = nn.Conv2d(in_channels, len(first), 3, stride=2, padding=1, bias=False)
    with torch.no_grad():
        shared.weight.copy_(first.sum(1, keepdim=True).expand_as(shared.weight) / in_channels)
    encoder.stem[0] = shared


def _layer(before: int, after: int, *, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(_GROUPS, after), nn.ReLU(inplace=True))
