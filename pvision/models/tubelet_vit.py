"""A plain video transformer: a clip is cut into tubelets, each becomes a token, all tokens attend to each other.

[0] Arnab et al., "ViViT: A Video Vision Transformer", ICCV 2021, https://arxiv.org/abs/2103.15691 (tubelets, joint
    attention over space and time)
"""

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.checks import positive_int
from pvision.errors import ConfigError
from pvision.models.inputs import check_video

__all__ = ["TubeletViT"]

_AXES = ("frames", "height", "width")


class TubeletViT(nn.Module):
    """Classify clips with a transformer over tubelets.

    Pre-norm blocks, learned positions, mean over the tokens, no dropout. The head starts at zero.

    Args:
        num_classes: how many classes.
        clip: frames, height and width of a clip, in pixels.
        tubelet: frames, height and width of a tubelet; each must divide its side of the clip.
        width: channels of a token, a multiple of ``heads``.
        depth: how many blocks.
        heads: attention heads in each block.
        mlp_ratio: hidden channels of a block's MLP, as a multiple of ``width``.

    Raises:
        ConfigError: if a number is no whole number above 0, a tubelet does not divide the clip, or ``heads`` does not
            divide ``width``.

    Guarantee:
        A clip's logits depend on that clip only, in training and in evaluation.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        clip: tuple[int, int, int] = (8, 48, 48),
        tubelet: tuple[int, int, int] = (2, 8, 8),
        width: int = 96,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: int = 2,
    ) -> None:
        super().__init__()
        self.num_classes = positive_int("num_classes", num_classes)
        self.feature_dim = positive_int("width", width)
        self.clip, self.tubelet = _checked_sizes(clip, tubelet)
        _check_heads(width, positive_int("heads", heads))
        self.embed = nn.Linear(3 * prod(self.tubelet), width)
        tokens = prod(self.clip) // prod(self.tubelet)
        self.positions = nn.Parameter(torch.empty(tokens, width))
        hidden = width * positive_int("mlp_ratio", mlp_ratio)
        self.blocks = nn.ModuleList(_Block(width, heads, hidden) for _ in range(positive_int("depth", depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, self.num_classes)
        self._initialise()

    def features(self, video: Tensor) -> Tensor:
        """Return the mean token, ``(B, width)``, of clips, float from 0 to 1, ``(B, 3, T, H, W)``.

        Raises:
            DataError: if ``video`` has another layout, dtype or size than the network was built for.
        """
        check_video(video, clip=self.clip)
        tokens = self.embed(self._tubelets(2 * video - 1)) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        mean: Tensor = self.norm(tokens).mean(1)
        return mean

    def forward(self, video: Tensor) -> Tensor:
        """Return logits, ``(B, num_classes)``, of clips, float from 0 to 1, ``(B, 3, T, H, W)``."""
        logits: Tensor = self.head(self.features(video))
        return logits

    def _tubelets(self, video: Tensor) -> Tensor:
        """Cut clips into tubelets, ``(B, tokens, values of a tubelet)``."""
        cells = [side // part for side, part in zip(self.clip, self.tubelet, strict=True)]
        pairs = [size for pair in zip(cells, self.tubelet, strict=True) for size in pair]
        split = video.reshape(len(video), 3, *pairs)
        return split.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(len(video), prod(cells), self.embed.in_features)

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.head.weight)


class _Block(nn.Module):
    """Attention, then an MLP, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.attention_norm(tokens))
        change: Tensor = self.mlp(self.mlp_norm(tokens))
        return tokens + change


class _Attention(nn.Module):
    """Multi-head self-attention, written out.

    The fused `scaled_dot_product_attention` has no batching rule under `torch.func.vmap` (it warns and loops over the
    records), so per-sample gradients would be slower with it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        count, length, width = tokens.shape
        split = self.queries_keys_values(tokens).reshape(count, length, 3, self.heads, width // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        weights = F.softmax(queries @ keys.transpose(-1, -2) * self.scale, -1)
        mixed = (weights @ values).transpose(1, 2).reshape(count, length, width)
        projected: Tensor = self.project(mixed)
        return projected


def _checked_sizes(
    clip: tuple[int, int, int], tubelet: tuple[int, int, int]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    for name, sizes in (("clip", clip), ("tubelet", tubelet)):
        if len(sizes) != len(_AXES):
            raise ConfigError(f"{name} must be (frames, height, width), but {sizes!r} came.")
        for axis, size in zip(_AXES, sizes, strict=True):
            positive_int(f"{name} {axis}", size)
    for axis, side, part in zip(_AXES, clip, tubelet, strict=True):
        if side % part:
            raise ConfigError(
                f"tubelet {axis} must divide clip {axis}, but {part} does not divide {side}. "
                f"Choose one of {', '.join(str(n) for n in range(1, side + 1) if side % n == 0)}, or resize the clips."
            )
    return (clip[0], clip[1], clip[2]), (tubelet[0], tubelet[1], tubelet[2])


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ConfigError(f"width must be a multiple of heads, but width {width} and heads {heads} came. Change one.")
