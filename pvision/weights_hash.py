"""One number that tells two networks' weights apart."""

import hashlib
from itertools import chain

import torch
from torch import nn

__all__ = ["weights_sha256"]


def weights_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers of ``module``, in hexadecimal.

    It covers their names, in order, types, shapes and bits, so a frozen network keeps it, on whatever device. Other
    names for the same numbers give another one: wrap a network, and it changes.

    Args:
        module: a network on any device; its buffers count whether they are saved or not.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> before = weights_sha256(layer)
        >>> with torch.no_grad():
        ...     _ = layer.bias.add_(1)
        >>> weights_sha256(layer) == before
        False
    """
    digest = hashlib.sha256()
    for name, value in sorted(chain(module.named_parameters(), module.named_buffers()), key=lambda item: item[0]):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        # As bytes first: NumPy knows no bfloat16.
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
