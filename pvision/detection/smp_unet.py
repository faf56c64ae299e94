"""U-Nets of segmentation-models-pytorch, by name.

[0] https://smp.readthedocs.io
"""

from difflib import get_close_matches

from torch import Tensor, nn
from typing_extensions import override

from pvision.errors import ConfigError, DataError, MissingExtraError

__all__ = ["ARCHITECTURES", "SmpUNet"]

#: Those that put out one map at the size of the image.
ARCHITECTURES = ("unet", "unetplusplus", "manet", "linknet", "fpn")


class SmpUNet(nn.Module):
    """An encoder-decoder of segmentation-models-pytorch.

    Most of its encoders hold batch normalisation, which takes part in training: batches should be large enough, and
    processes see statistics of their own batches only.

    Args:
        name: architecture and encoder, such as ``"unet:resnet34"`` or ``"unet:tu-mobilenetv3_small_100"``.
        in_channels: of the images.
        out_channels: of the output, which is not bounded.
        encoder_weights: None for random ones; a name such as ``"imagenet"`` downloads them.

    Raises:
        ConfigError: if there is no such architecture, encoder or set of weights; the message lists near ones.
        DataError: if weights cannot be downloaded.
        MissingExtraError: if segmentation-models-pytorch is not installed.

    Attributes:
        stride: both sides of the images must divide by it.
    """

    stride = 32

    def __init__(self, name: str, *, in_channels: int, out_channels: int, encoder_weights: str | None = None) -> None:
        super().__init__()
        architecture, _, encoder = name.partition(":")
        if architecture not in ARCHITECTURES:
            raise ConfigError(
                f"network: {name} names no architecture that is known. Known are {', '.join(ARCHITECTURES)}, each "
                "followed by a colon and an encoder."
            )
        self.network = _build(architecture, encoder, in_channels, out_channels, encoder_weights)

    @property
    def head(self) -> nn.Module:
        """The last layer with weights."""
        return [module for module in self.network.modules() if isinstance(module, nn.Conv2d)][-1]

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return ``(B, out_channels, H, W)`` for ``(B, in_channels, H, W)``, both sides multiples of `stride`."""
        output: Tensor = self.network(images)
        return output


def _build(architecture: str, encoder: str, in_channels: int, out_channels: int, weights: str | None) -> nn.Module:
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise MissingExtraError(
            "segmentation_models_pytorch", "translators", f"The network {architecture}:{encoder}"
        ) from error
    known = smp.encoders.get_encoder_names()
    if encoder not in known and not encoder.startswith("tu-"):
        near = get_close_matches(encoder, known, n=5, cutoff=0.5) or known[:5]
        raise ConfigError(
            f"network: {architecture}:{encoder} names no encoder that is known. Near ones: {', '.join(near)}; all of "
            "timm's are known with tu- in front."
        )
    # Of timm's encoders the name says which weights are meant, so that here is only yes or no.
    wanted = True if weights and encoder.startswith("tu-") else weights
    try:
        network: nn.Module = smp.create_model(
            architecture, encoder, encoder_weights=wanted, in_channels=in_channels, classes=out_channels
        )
    except OSError as error:
        raise DataError(
            f"The weights {weights!r} of the encoder {encoder} could not be fetched ({error}). Connect to the network "
            "once, or set encoder_weights: null for random ones."
        ) from error
    except (KeyError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(
            f"network: {architecture}:{encoder} with encoder_weights: {weights} cannot be built: {error.args[0]}"
        ) from error
    return network
