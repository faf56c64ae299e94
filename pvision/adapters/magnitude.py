"""One trainable number for all layers of an adapter."""

import torch
from torch import Tensor, nn

__all__ = ["Magnitude"]


class Magnitude(nn.Module):
    """What an adapter's output is multiplied with at all of its places.

    It is a module, not a bare parameter, so that the adapters that refer to it follow where loading or moving a model
    replaces the parameter.

    Args:
        start: its first value.
        like: a tensor whose device it takes, and whose dtype where that is float32 or wider; else it is float32.

    Attributes:
        value: the number, a tensor of no dimension.
    """

    def __init__(self, start: float, *, like: Tensor) -> None:
        super().__init__()
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.value = nn.Parameter(torch.tensor(start, dtype=dtype, device=like.device))
