"""A small network that turns images of a modality into images that a frozen RGB detector understands.

[0] Medeiros et al., "Modality Translation for Object Detection Adaptation Without Forgetting Prior Knowledge", ECCV
    2024, https://arxiv.org/abs/2404.01492
"""

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from pvision.checks import positive_int, unit_rate
from pvision.detection.adaptations.adaptation import Adaptation
from pvision.detection.fusions import Fusion, fusion_named
from pvision.detection.mix_channels import MixChannels
from pvision.detection.pyramid_unet import PYRAMID, PyramidUNet
from pvision.detection.small_unet import PRESETS, SmallUNet
from pvision.detection.smp_unet import SmpUNet
from pvision.errors import ConfigError, DataError

__all__ = ["ModalityTranslator"]


class ModalityTranslator(Adaptation):
    """Put a small network in front of the detector and leave the detector as it is.

    The network sees the image and puts out three channels or six, which the fusion bounds and joins with the image.
    Images are padded at the right and bottom by repeating their last pixels, as far as the network's stride needs, and
    the result is cropped back.

    With one channel the image is repeated to three for the fusion; with any number but 1 and 3, each of the three is a
    mean of the channels with learned weights, equal ones to begin with (`MixChannels`).

    Args:
        in_channels: of the images, 1 or more.
        network: a preset of `SmallUNet`, which is tiny, small, medium or large; architecture and encoder of
            segmentation-models-pytorch, such as ``"unet:resnet34"``; or a module of your own, from
            ``(B, in_channels, H, W)`` to unbounded ``(B, 3, H, W)``, 6 channels for the affine fusion. An attribute
            ``stride`` of it says what both sides must divide by; without it, 1.
        fusion: product, sum, residual_product, affine, attention, none or additive. Residual product and affine begin
            as the identity, unless the network is your own: then zero its last layer yourself.
        resolution: at which part of the image's size the network runs: 1, 1/2, 1/3, 1/4, …. Its output is enlarged
            (bilinear) before it meets the image at full size.
        encoder_weights: of a network of segmentation-models-pytorch; None for random ones, ``"imagenet"`` to download.

    Raises:
        ConfigError: if a name is unknown, a number out of range, or ``encoder_weights`` set for another network.

    Attributes:
        in_channels: as given.
        network: the module.
        fusion: the rule, a `Fusion`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        *,
        network: str | nn.Module = "small",
        fusion: str = "product",
        resolution: float = 1.0,
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = positive_int("in_channels", in_channels)
        self.fusion = fusion_named(fusion)
        self._shrink = _shrink_factor(resolution)
        self._name = network if isinstance(network, str) else None
        self.network = _network(network, self.in_channels, self.fusion, encoder_weights)
        mixes = self.in_channels not in (1, 3) and self.fusion.uses_image
        self._three = MixChannels(self.in_channels) if mixes else None

    @property
    def resolution(self) -> float:
        """At which part of the image's size the network runs."""
        return 1 / self._shrink

    @override
    def translate(self, images: Tensor) -> Tensor:
        """Return what the detector sees.

        Args:
            images: from 0 to 1, ``(B, in_channels, H, W)``.

        Returns:
            From 0 to 1, ``(B, 3, H, W)``.

        Raises:
            DataError: if the images have another shape, or are no larger than the network's stride.
            ConfigError: if a network of your own puts out another shape than it should.
        """
        self._check(images)
        return self.fusion(self._to_three(images), self._network_output(images))

    def describe(self) -> dict[str, Any]:
        """Return all settings in JSON's types; with the state dict they make the translator anew.

        Raises:
            ConfigError: if the network is a module of your own, which no settings describe.
        """
        if self._name is None:
            raise ConfigError(
                f"A translator with a network of your own ({type(self.network).__name__}) cannot be described in a "
                "file. Save its state dict, and build it with the same module before you load that."
            )
        return {
            "in_channels": self.in_channels,
            "network": self._name,
            "fusion": self.fusion.name,
            "resolution": self.resolution,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Return a translator as `describe` described it, with new weights; nothing is downloaded.

        Raises:
            ConfigError: if a setting is missing, unknown or wrong.
        """
        settings = dict(description)
        if set(settings) != {"in_channels", "network", "fusion", "resolution"}:
            raise ConfigError(
                "A translator is described by in_channels, network, fusion and resolution, but "
                f"{', '.join(settings) or 'nothing'} came."
            )
        return cls(settings.pop("in_channels"), **settings)

    @override
    def extra_repr(self) -> str:
        return f"{self.in_channels}, fusion={self.fusion.name!r}, resolution={self.resolution:g}"

    def _network_output(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        padded = _pad_to(images, self._step)
        if self._shrink > 1:
            padded = F.avg_pool2d(padded, self._shrink)
        output: Tensor = self.network(padded)
        expected = (images.shape[0], self.fusion.channels, *padded.shape[-2:])
        if tuple(output.shape) != expected:
            raise ConfigError(
                f"The network must put out {expected} for the fusion {self.fusion.name}, but {tuple(output.shape)} "
                f"came. It was given {tuple(padded.shape)}."
            )
        if self._shrink > 1:
            output = F.interpolate(output, scale_factor=float(self._shrink), mode="bilinear", align_corners=False)
        return output[..., :height, :width]

    def _to_three(self, images: Tensor) -> Tensor:
        if self._three is not None:
            mixed: Tensor = self._three(images)
            return mixed
        return images.expand(-1, 3, -1, -1) if self.in_channels == 1 else images

    @property
    def _step(self) -> int:
        """What the sides of an image must divide by: the stride of the network, in pixels of the image."""
        stride = getattr(self.network, "stride", 1)
        return (stride if isinstance(stride, int) else 1) * self._shrink

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise DataError(
                f"The translator is set to in_channels: {self.in_channels}, so images must be "
                f"(B, {self.in_channels}, H, W), but {tuple(images.shape)} came."
            )
        height, width = images.shape[-2:]
        if min(height, width) <= self._step:
            raise DataError(
                f"An image of {height} x {width} pixels is too small to translate: the network needs more than "
                f"{self._step} on each side. Enlarge it, raise resolution, or choose a network of smaller stride."
            )


def _network(network: str | nn.Module, in_channels: int, fusion: Fusion, weights: str | None) -> nn.Module:
    takes_weights = isinstance(network, str) and (network == PYRAMID or ":" in network)
    if weights is not None and not takes_weights:
        raise ConfigError(
            f"encoder_weights: {weights} is for {PYRAMID}, and for networks of segmentation-models-pytorch such as "
            "unet:resnet34. Leave it out, or choose one of them."
        )
    if isinstance(network, nn.Module):
        return network
    made = _named_network(network, in_channels, fusion.channels, weights)
    if fusion.begins_as_identity:
        for parameter in made.head.parameters():
            nn.init.zeros_(parameter)
    return made


def _named_network(
    name: str, in_channels: int, out_channels: int, weights: str | None
) -> SmallUNet | PyramidUNet | SmpUNet:
    if name == PYRAMID:
        return PyramidUNet(in_channels, out_channels, encoder_weights=weights)
    if isinstance(name, str) and ":" in name:
        return SmpUNet(name, in_channels=in_channels, out_channels=out_channels, encoder_weights=weights)
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(
            f"network must be one of {', '.join(PRESETS)}, {PYRAMID}, an architecture and encoder of "
            f"segmentation-models-pytorch such as unet:resnet34, or a module, but {name!r} came."
        )
    width, depth = PRESETS[name]
    return SmallUNet(in_channels, out_channels, width=width, depth=depth)


def _shrink_factor(resolution: float) -> int:
    factor = 1 / unit_rate("resolution", resolution)
    if abs(factor - round(factor)) > 0.02 * factor:
        raise ConfigError(f"resolution must be 1, 1/2, 1/3, 1/4 or so on, but {resolution!r} came.")
    return round(factor)


def _pad_to(images: Tensor, step: int) -> Tensor:
    height, width = images.shape[-2:]
    below, right = -height % step, -width % step
    return F.pad(images, (0, right, 0, below), mode="replicate") if below or right else images
