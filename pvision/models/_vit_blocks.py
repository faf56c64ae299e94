"""The parts of a vision transformer, their parameters named as timm's, so that weights and adapters fit both."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Attention", "Block", "PatchEmbed"]

EPS = 1e-6  # of the layer norms, as in all published vision transformers
_FIRST_SCALE = 1e-5  # where layer scale starts: a block begins as nearly the identity


class PatchEmbed(nn.Module):
    """Make a token of each patch of an image.

    Args:
        channels: of the image.
        width: of a token.
        patch_size: side of a patch in pixels.
    """

    def __init__(self, channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Return tokens ``(B, N, width)``, row by row, of images ``(B, channels, H, W)``."""
        tokens: Tensor = self.proj(image).flatten(2).transpose(1, 2)
        return tokens


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values, in this order.

    Args:
        width: of a token.
        heads: how many heads share it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return what tokens ``(B, N, width)`` take from each other, in the same shape."""
        return self.attend(*self.split(tokens))

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each ``(B, heads, N, width / heads)``."""
        packed = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = packed.unbind(0)
        return queries, keys, values

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return ``(B, N, width)``: for each query, the values that its keys choose; the keys may be more than N."""
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class Block(nn.Module):
    """Attention, then an MLP, each on normalised tokens and added to them.

    Args:
        width: of a token.
        heads: of the attention.
        hidden: channels inside the MLP.
        layer_scale: multiply each channel of what is added by a learned number.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, layer_scale: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.ls1 = _LayerScale(width) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = _Mlp(width, hidden)
        self.ls2 = _LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens ``(B, N, width)``, changed."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        change: Tensor = self.ls2(self.mlp(self.norm2(tokens)))
        return tokens + change


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        changed: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return changed


class _LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), _FIRST_SCALE))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma
