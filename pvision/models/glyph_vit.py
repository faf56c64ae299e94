"""A small vision transformer that ships with its weights, for streams of small grey images."""

from pvision.models.vision_transformer import VisionTransformer

__all__ = ["GlyphViT"]


class GlyphViT(VisionTransformer):
    """Turn grey images of 16 x 16 pixels into 64 numbers: 4 blocks, 4 heads, patches of 4 pixels, 0.2 million weights.

    Its weights come from random strokes, bright on dark, that ``benchmarks/pretrain_glyphs.py`` draws and tells apart.
    No recorded image and no alphabet was among them. It is meant for images of strokes, such as DigitsStream's under
    ``preprocessing: {resize: 16, mean: [0.5], std: [0.5]}``.

    Args:
        weights: ``"glyphs"``, the path of a ``.safetensors`` file, or None for random ones.

    Attributes:
        feature_dim: 64.
        image_size: 16.

    Example:
        >>> import torch
        >>> GlyphViT()(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 64])
    """

    def __init__(self, *, weights: str | None = "glyphs") -> None:
        super().__init__(image_size=16, patch_size=4, channels=1, width=64, depth=4, heads=4, weights=weights)
