"""A small video network that looks at motion: frames, their differences, and change over time.

Two-dimensional convolutions run over the frames, one-dimensional ones along time, with GroupNorm between them, so that
clips never meet. It trains 6,000 clips of 8x48x48 in seconds on two CPU cores. Its public weights come from rendered
motion programs (benchmarks/make_mocap_encoder.py), never from recorded people.
"""

from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.checks import positive_int
from pvision.models.inputs import check_video
from pvision.network_weights import load_exactly, read_weights

__all__ = ["MotionEncoder", "MotionMaps", "MotionNet", "MotionTrunk"]

MOCAP_ENCODER = Path(__file__).with_name("mocap_encoder.safetensors")
MOCAP_ENCODER_SHA256 = "d91a0e334c9a4801ca0bb4d80f6226c02bca0a155413d2f3de96358f50da6baa"

_GREY = (0.299, 0.587, 0.114)
_DIFFERENCE_GAIN = 3.0  # frame differences are small: this brings them to the range of the frames
_GROUPS = 4


class MotionMaps(NamedTuple):
    """Feature maps of a batch of clips.

    Attributes:
        middle: after the third stage, at an eighth of the size, ``(B, T, 64, H/8, W/8)``.
        last: after the fourth stage, at a sixteenth, ``(B, T, 96, H/16, W/16)``.
    """

    middle: Tensor
    last: Tensor


class MotionTrunk(nn.Module):
    """Four convolutional stages, the last two followed by a mixing of neighbouring frames."""

    middle_dim = 64
    last_dim = 96

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = _Stage(3, 16)
        self.stage2 = _Stage(16, 32)
        self.stage3 = _Stage(32, self.middle_dim)
        self.mix3 = _TimeMixing(self.middle_dim)
        self.stage4 = _Stage(self.middle_dim, self.last_dim)
        self.mix4 = _TimeMixing(self.last_dim)

    def forward(self, video: Tensor) -> MotionMaps:
        """Return the feature maps of clips.

        Args:
            video: float from 0 to 1, ``(B, 3, T, H, W)``.

        Raises:
            DataError: if ``video`` has another layout or dtype.
        """
        check_video(video)
        frames = video.shape[2]
        middle = self.mix3(self.stage3(self.stage2(self.stage1(motion_channels(video)))), frames)
        last = self.mix4(self.stage4(middle), frames)
        return MotionMaps(*(maps.unflatten(0, (len(video), frames)) for maps in (middle, last)))


class MotionNet(nn.Module):
    """Classify clips by their motion; 123,000 parameters at 15 classes.

    The head starts at zero, so that training starts from uniform probabilities.

    Args:
        num_classes: how many classes.
        init: the trunk's start: ``"mocap"`` for the shipped public weights, ``"random"``, or the path of a
            ``.safetensors`` file with a trunk's weights.

    Raises:
        ConfigError: if ``num_classes`` is no whole number above 0, or ``init`` names no fitting file.
        DataError: if the file is damaged.

    Guarantee:
        A clip's logits depend on that clip only, in training and in evaluation.
    """

    feature_dim = 2 * MotionTrunk.last_dim

    def __init__(self, num_classes: int, *, init: str = "mocap") -> None:
        super().__init__()
        self.num_classes = positive_int("num_classes", num_classes)
        self.trunk = _trunk(init)
        self.head = nn.Linear(self.feature_dim, self.num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, video: Tensor) -> Tensor:
        """Return mean and maximum over time of the last stage, ``(B, 192)``, of clips ``(B, 3, T, H, W)``."""
        return _mean_and_max(self.trunk(video).last)

    def forward(self, video: Tensor) -> Tensor:
        """Return logits, ``(B, num_classes)``, of clips, float from 0 to 1, ``(B, 3, T, H, W)``."""
        logits: Tensor = self.head(self.features(video))
        return logits


class MotionEncoder(nn.Module):
    """A frozen trunk that gives features at two scales; no classes.

    Args:
        init: as in `MotionNet`.

    Raises:
        ConfigError: if ``init`` names no fitting file.
        DataError: if the file is damaged.
    """

    feature_dim = 2 * MotionTrunk.last_dim + 2 * MotionTrunk.middle_dim

    def __init__(self, *, init: str = "mocap") -> None:
        super().__init__()
        self.trunk = _trunk(init).requires_grad_(False)

    @classmethod
    def pretrained(cls) -> Self:
        """Return the encoder with the public weights that ship with pvision."""
        return cls(init="mocap")

    def features(self, video: Tensor) -> Tensor:
        """Return features, ``(B, 320)``, of clips, float from 0 to 1, ``(B, 3, T, H, W)``.

        They are the mean and maximum over time of the last stage, and the mean and deviation of the third.
        """
        maps = self.trunk(video)
        middle = maps.middle.mean((3, 4))
        mean = middle.mean(1)
        variance = (middle - mean.unsqueeze(1)).square().mean(1)
        # The small constant keeps the gradient of the root finite where nothing changes over time.
        return torch.cat([_mean_and_max(maps.last), mean, (variance + 1e-10).sqrt()], 1)

    def forward(self, video: Tensor) -> Tensor:
        """Return `features`."""
        return self.features(video)


def motion_channels(video: Tensor) -> Tensor:
    """Return grey value, frame difference and its absolute value of each frame.

    Args:
        video: float from 0 to 1, ``(B, 3, T, H, W)``.

    Returns:
        ``(B * T, 3, H, W)``, laid out channels-last, which is twice as fast on a CPU. The layout comes from the order
        in which the channels are stacked, because `torch.func.vmap` knows no memory formats.
    """
    red, green, blue = video.unbind(1)
    grey = _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue - 0.5
    difference = F.pad(grey[:, 1:] - grey[:, :-1], (0, 0, 0, 0, 1, 0)) * _DIFFERENCE_GAIN
    stacked = torch.stack([2 * grey, difference, difference.abs()], -1)
    return stacked.flatten(0, 1).permute(0, 3, 1, 2)


class _Stage(nn.Module):
    """Halve the frames, then normalise each by itself."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(_GROUPS, out_channels)

    def forward(self, frames: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(frames)))


class _TimeMixing(nn.Module):
    """Add to each frame a convolution over it and its two neighbours in time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.norm = nn.GroupNorm(_GROUPS, channels)

    def forward(self, maps: Tensor, frames: int) -> Tensor:
        count, channels, height, width = maps.shape
        clips = count // frames
        # Seen with all pixels in one row, a clip is an image of size frames x pixels: no data is moved.
        rows = maps.permute(0, 2, 3, 1).reshape(clips, frames, height * width, channels).permute(0, 3, 1, 2)
        mixed = self.conv(rows).permute(0, 2, 3, 1).reshape(count, height, width, channels).permute(0, 3, 1, 2)
        return maps + F.relu(self.norm(mixed))


def _mean_and_max(maps: Tensor) -> Tensor:
    frames = maps.mean((3, 4))
    return torch.cat([frames.mean(1), frames.amax(1)], 1)


def _trunk(init: str) -> MotionTrunk:
    trunk = MotionTrunk()
    if init == "mocap":
        load_exactly(trunk, read_weights(MOCAP_ENCODER, sha256=MOCAP_ENCODER_SHA256), source="the shipped encoder")
    elif init != "random":
        load_exactly(trunk, read_weights(init), source=init)
    return trunk
