"""A vision transformer that turns images into features, to be frozen and adapted.

[0] Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, https://arxiv.org/abs/2010.11929
[1] Touvron et al., "Going deeper with Image Transformers", ICCV 2021, https://arxiv.org/abs/2103.17239 (layer scale)
"""

import torch
from torch import Tensor, nn

from pvision.checks import positive, positive_int
from pvision.errors import ConfigError, DataError
from pvision.models._vit_blocks import EPS, Block, PatchEmbed
from pvision.models._vit_weights import load_vit_weights

__all__ = ["VisionTransformer"]


class VisionTransformer(nn.Module):
    """Turn an image into a vector: the normalised class token [0].

    Parameters are named as timm's, so weights made for its vision transformers load, and `pvision.adapters` finds the
    same places. The default is a ViT-B/16.

    Args:
        image_size: side of the images in pixels.
        patch_size: side of a patch in pixels; it must divide ``image_size``.
        channels: of the images.
        width: channels of a token, a multiple of ``heads``.
        depth: how many blocks the network was, or would be, trained with.
        heads: attention heads in each block.
        mlp_ratio: hidden channels of a block's MLP, as a multiple of ``width``.
        layer_scale: scale what each layer adds by learned numbers [1], as DINOv2 does.
        feature_block: the block after which the class token is taken, counted as a list's index: -1 is the last, -2 the
            last but one. What comes after it is not built.
        weights: None for random ones, ``"glyphs"`` for those of `GlyphViT`, or the path of a ``.safetensors`` file. The
            sizes above must be those of the weights, but for ``image_size`` (positions are interpolated) and
            ``channels`` (colour becomes grey).

    Attributes:
        feature_dim: the size of a feature vector, ``width``.
        image_size: side of the images in pixels.

    Raises:
        ConfigError: if an argument is out of range, or ``weights`` is another network's: the message lists how.
        DataError: if the file of weights is damaged.

    Guarantee:
        An image's features depend on that image only, in training and in evaluation.

    Example:
        >>> network = VisionTransformer(image_size=32, patch_size=8, width=24, depth=2, heads=3)
        >>> network(torch.rand(5, 3, 32, 32)).shape
        torch.Size([5, 24])
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        channels: int = 3,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        layer_scale: bool = False,
        feature_block: int = -1,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.image_size = positive_int("image_size", image_size)
        self.channels = positive_int("channels", channels)
        self.feature_dim = positive_int("width", width)
        grid = _grid(image_size, positive_int("patch_size", patch_size))
        if width % positive_int("heads", heads):
            raise ConfigError(f"heads must divide width, but width {width} and heads {heads} came. Change one.")
        hidden = positive_int("width · mlp_ratio", round(width * positive("mlp_ratio", mlp_ratio)))
        built = _built(positive_int("depth", depth), feature_block)
        self.patch_embed = PatchEmbed(channels, width, patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid**2, width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden, layer_scale=layer_scale) for _ in range(built))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self._initialise()
        if weights is not None:
            load_vit_weights(self, weights, depth=depth)

    def forward(self, image: Tensor) -> Tensor:
        """Return features, ``(B, feature_dim)``, of normalised images, float, ``(B, channels, H, W)``.

        Raises:
            DataError: if ``image`` has another layout or size than the network was built for.
        """
        return self.encode(self.embed(image))

    def embed(self, image: Tensor) -> Tensor:
        """Return the first block's input, ``(B, 1 + N, width)``: the class token, then N patches with their positions.

        Prompts belong right after the class token: ``torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], 1)``.

        Args:
            image: normalised, float, ``(B, channels, image_size, image_size)``.

        Raises:
            DataError: if ``image`` has another layout or size than the network was built for.
        """
        expected = (self.channels, self.image_size, self.image_size)
        if image.ndim != 4 or image.shape[1:] != expected or not image.is_floating_point():
            raise DataError(
                f"image must be float (B, {', '.join(map(str, expected))}), but {tuple(image.shape)} of {image.dtype} "
                "came. Resize the images (data.preprocessing), or give the network their image_size and channels."
            )
        tokens = torch.cat([self.cls_token.expand(len(image), -1, -1), self.patch_embed(image)], 1)
        return tokens + self.pos_embed

    def encode(self, tokens: Tensor) -> Tensor:
        """Return features, ``(B, feature_dim)``: the first of tokens ``(B, any number, width)`` after all blocks."""
        for block in self.blocks:
            tokens = block(tokens)
        features: Tensor = self.norm(tokens[:, 0])
        return features

    def _initialise(self) -> None:
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


def _grid(image_size: int, patch_size: int) -> int:
    """Return how many patches lie side by side."""
    if image_size % patch_size:
        below = image_size // patch_size * patch_size
        raise ConfigError(
            f"patch_size must divide image_size, but {patch_size} does not divide {image_size}. "
            f"Resize the images to {below + patch_size if below < patch_size else below} pixels, for example."
        )
    return image_size // patch_size


def _built(depth: int, feature_block: int) -> int:
    """Return how many blocks come before the features."""
    if isinstance(feature_block, bool) or not isinstance(feature_block, int) or not -depth <= feature_block < depth:
        raise ConfigError(
            f"feature_block must be a whole number from {-depth} to {depth - 1}, as depth is {depth}, but "
            f"{feature_block!r} came. -1 is the last block."
        )
    return feature_block % depth + 1
