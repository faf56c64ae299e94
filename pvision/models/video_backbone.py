"""A published video network as a building block: one convention, its own normalisation, frozen on request."""

from typing import Self

import torch
from torch import Tensor, nn

from pvision.checks import positive_int
from pvision.errors import ConfigError
from pvision.models.inputs import check_video
from pvision.models.parts import Clip
from pvision.models.torchvision_networks import published_weights
from pvision.models.zoo import Entry, build_parts, entry
from pvision.network_weights import is_weights_path, load_with_own_head, read_weights

__all__ = ["VideoBackbone", "video_model"]


class VideoBackbone(nn.Module):
    """X3D, SlowFast, MViT or Swin3D by name.

    Built so that it can be trained privately: GroupNorm where BatchNorm was, no dropout, no stochastic depth.

    Args:
        name: one of `list_video_models`.
        num_classes: how many classes.
        weights: the path of a ``.safetensors`` or ``.pth`` file, or, for torchvision's networks, the name of its
            published weights such as ``"KINETICS400_V1"``, which are then downloaded. None starts at random. If only
            the number of classes differs, the head starts at random.
        clip: frames, height and width of the clips; None for the size at which the network was published.
        norm: ``"group"``, or ``"batch"`` to load the published weights of a convolutional network, which cannot be
            trained privately then.
        frozen: whether all parameters are fixed and the network stays in evaluation mode.

    Raises:
        ConfigError: if an argument is wrong or the weights do not fit.
        DataError: if the weights are damaged or cannot be fetched.
        MissingExtraError: if the package that brings the network is not installed.

    Guarantee:
        With ``norm="group"``, a clip's logits depend on that clip only, in training and in evaluation.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        weights: str | None = None,
        clip: Clip | None = None,
        norm: str = "group",
        frozen: bool = False,
    ) -> None:
        super().__init__()
        known = entry(name)
        self.name = name
        self.num_classes = positive_int("num_classes", num_classes)
        self.clip = known.clip if clip is None else known.checked_clip(clip)
        self.frozen = frozen
        parts = build_parts(name, num_classes=num_classes, clip=self.clip, norm=norm)
        if weights is not None:
            state = _library_names(_state(name, known, weights), parts.head)
            load_with_own_head(parts.network, state, head=parts.head, source=weights)
        self.head = _take_head(parts.network, parts.head)
        self.trunk = parts.network
        self.feature_dim = self.head.in_features
        self._prepare = parts.prepare
        for buffer, colour in zip(("mean", "deviation"), known.colour, strict=True):
            self.register_buffer(buffer, torch.tensor(colour).view(3, 1, 1, 1), persistent=False)
        if frozen:
            self.requires_grad_(False).train(False)

    def features(self, video: Tensor) -> Tensor:
        """Return features, ``(B, feature_dim)``, of clips, float from 0 to 1, ``(B, 3, T, H, W)``.

        Raises:
            DataError: if ``video`` has another layout, dtype or size than the network was built for.
        """
        check_video(video, clip=self.clip)
        if not len(video):  # the libraries' reshapes cannot infer sizes from nothing
            return video.new_zeros(0, self.feature_dim)
        features: Tensor = self.trunk(self._prepare((video - self.mean) / self.deviation))
        return features

    def forward(self, video: Tensor) -> Tensor:
        """Return logits, ``(B, num_classes)``, of clips, float from 0 to 1, ``(B, 3, T, H, W)``."""
        logits: Tensor = self.head(self.features(video))
        return logits

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; a frozen network stays in evaluation."""
        return super().train(mode and not self.frozen)


def video_model(
    name: str, *, num_classes: int, weights: str | None = None, clip: Clip | None = None, norm: str = "group"
) -> VideoBackbone:
    """Return a trainable video network by name; the arguments are those of `VideoBackbone`.

    Example:
        >>> video_model("x3d_tiny", num_classes=5)(torch.rand(2, 3, 4, 32, 32)).shape
        torch.Size([2, 5])
    """
    return VideoBackbone(name, num_classes=num_classes, weights=weights, clip=clip, norm=norm)


def _state(name: str, known: Entry, weights: str) -> dict[str, Tensor]:
    if is_weights_path(weights):
        return read_weights(weights)
    if known.torchvision_name is None:
        raise ConfigError(
            f"weights must be the path of a .safetensors or .pth file for {name}, but {weights!r} came. "
            "Only torchvision's networks have weights by name."
        )
    return published_weights(known.torchvision_name, weights)


def _library_names(state: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    """Rename what a `VideoBackbone` saved as the library names it; leave the library's own names."""
    if not any(key.startswith("trunk.") for key in state):
        return state
    return {
        key.removeprefix("trunk.") if key.startswith("trunk.") else f"{head}.{key.removeprefix('head.')}": value
        for key, value in state.items()
    }


def _take_head(network: nn.Module, head: str) -> nn.Linear:
    """Cut off the last linear layer, so that ``network`` gives features."""
    parent, _, child = head.rpartition(".")
    module = network.get_submodule(parent)
    linear = getattr(module, child)
    setattr(module, child, nn.Identity())
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"{head} of {type(network).__name__} is {type(linear).__name__}, not Linear.")
    return linear
