"""timm's vision transformers as segmentation networks."""

from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import positive_int
from pvision.errors import ConfigError, DataError, MissingExtraError
from pvision.network_weights import load_exactly, read_weights, without_head
from pvision.segmentation.networks.network import SegmentationNetwork

__all__ = ["ViTFeatures"]

_LEVELS = 4


class ViTFeatures(SegmentationNetwork):
    """A vision transformer of timm by name, and a small convolutional neck on its patches' tokens.

    The neck doubles the grid of patches and mixes neighbours. Position embeddings are interpolated to the image's grid.

    Needs timm: ``pip install 'pvision[adapters]'``. The images must be normalised as the transformer was trained; timm
    says how in ``network.pretrained_cfg["mean"]`` and ``["std"]``.

    Args:
        name: timm's name of a network of its class ``VisionTransformer``, as ``"vit_small_patch16_224"``.
        pretrained: load timm's published weights. This alone downloads.
        weights: a local file of weights instead, ``.safetensors`` or ``.pth``, under timm's names; a classifier in it
            is left out, position embeddings of another grid are interpolated.
        feature_dim: channels of the map.

    Attributes:
        network: timm's network.
        feature_dim: channels of the map.
        patch_size: pixels; both sides of the images must divide by it.

    Raises:
        ConfigError: if timm has no such network, it is of another class, or the weights do not fit.
        MissingExtraError: if timm is not installed.
    """

    def __init__(
        self,
        name: str = "vit_small_patch16_224",
        *,
        pretrained: bool = False,
        weights: str | None = None,
        feature_dim: int = 256,
    ) -> None:
        super().__init__()
        if pretrained and weights is not None:
            raise ConfigError(f"weights {weights!r} came with pretrained: true. Give one of them.")
        self.feature_dim = positive_int("feature_dim", feature_dim)
        self.network = _transformer(name, pretrained=pretrained, weights=weights)
        self.patch_size: int = self.network.patch_embed.patch_size[0]
        self.neck = nn.Sequential(
            *_layer(self.network.embed_dim, feature_dim, side=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            *_layer(feature_dim, feature_dim, side=3),
        )

    @override
    def levels(self, image: Tensor) -> list[Tensor]:
        """Return the patches' maps after each quarter of the blocks, normalised, and that after the neck.

        Raises:
            DataError: if a side of the images does not divide by the patch size.
        """
        if any(side % self.patch_size for side in image.shape[-2:]):
            raise DataError(
                f"Images of {tuple(image.shape[-2:])} pixels came, but {self.patch_size} must divide both sides. Crop "
                "or pad them in the data module."
            )
        depth = len(self.network.blocks)
        ends = sorted({max(1, round(depth * part / _LEVELS)) - 1 for part in range(1, _LEVELS + 1)})
        maps = self.network.forward_intermediates(image, indices=ends, norm=True, intermediates_only=True)
        return [*maps, self.neck(maps[-1])]

    @override
    def backbone_parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())


def _transformer(name: str, *, pretrained: bool, weights: str | None) -> Any:
    try:
        import timm
        from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
    except ImportError as error:
        raise MissingExtraError("timm", "adapters", "ViTFeatures") from error
    if not isinstance(name, str) or not timm.is_model(name.partition(".")[0]):
        raise ConfigError(f"name must be one of timm's networks, but {name!r} came. timm.list_models() lists them.")
    try:
        # Without pooling there is no norm after it, which would have weights that nothing trains.
        network = timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="", dynamic_img_size=True)
    except TypeError as error:
        raise _other_class(name) from error
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(f"timm cannot make {name!r}: {error} Check the name, or give a local file.") from error
    if not isinstance(network, VisionTransformer):
        raise _other_class(name)
    if weights is not None:
        state = checkpoint_filter_fn(without_head(read_weights(weights)), model=network)
        load_exactly(network, state, source=weights)
    return network


def _other_class(name: str) -> ConfigError:
    return ConfigError(
        f"name: {name} is none of timm's class VisionTransformer, so it has no grid of patches. Take a network such as "
        "vit_small_patch16_224."
    )


def _layer(before: int, after: int, *, side: int) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, side, padding=side // 2, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
