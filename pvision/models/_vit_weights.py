"""Weights of a vision transformer, from a file or from pvision, made to fit its size, channels and number of blocks."""

import re
from importlib.resources import as_file, files
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.errors import ConfigError
from pvision.network_weights import is_weights_path, load_exactly, read_weights, without_head

__all__ = ["SHIPPED", "load_vit_weights", "resized_positions"]

SHIPPED = {
    "glyphs": ("glyphs.safetensors", "eb4d86965e16c64ffa1a5bf7fb60fccc0902315602d2bb706807475fc91869c9"),
}
"""File and SHA-256 of the weights that come with pvision, by name."""

_KERNEL = "patch_embed.proj.weight"
_POSITIONS = "pos_embed"


def load_vit_weights(network: nn.Module, weights: str, *, depth: int) -> None:
    """Fill ``network`` with ``weights``.

    Positions of another grid are interpolated. A kernel for colour becomes one for grey by the sum over its channels,
    which gives what three equal channels would. A head, and blocks that were published but not built, are left out.

    Args:
        network: a `VisionTransformer`.
        weights: the name of shipped weights, or the path of a file.
        depth: how many blocks the network would have with all of them; the file may hold as many.

    Raises:
        ConfigError: if there are no such weights, or they are another network's.
        DataError: if the file is damaged.
    """
    state = without_head(_read(weights))
    own = network.state_dict()
    built = sum(name.endswith(".norm1.weight") for name in own)
    state = {name: value for name, value in state.items() if not built <= _block(name) < depth}
    if _POSITIONS in state and state[_POSITIONS].ndim == 3:
        state[_POSITIONS] = resized_positions(state[_POSITIONS], own[_POSITIONS])
    if _KERNEL in state and state[_KERNEL].ndim == 4 and own[_KERNEL].shape[1] == 1:
        state[_KERNEL] = state[_KERNEL].sum(1, keepdim=True)
    load_exactly(network, state, source=repr(weights))


def resized_positions(positions: Tensor, own: Tensor, *, prefix: int = 1) -> Tensor:
    """Return position embeddings for another grid, or those that came where they fit or cannot be made to.

    Args:
        positions: ``(1, prefix + N, width)``, N a square.
        own: those of the network, ``(1, prefix + M, width)``, M a square.
        prefix: how many of them belong to no patch.
    """
    cells, wanted = positions.shape[1] - prefix, own.shape[1] - prefix
    if cells == wanted or min(cells, wanted) < 1 or isqrt(cells) ** 2 != cells or isqrt(wanted) ** 2 != wanted:
        return positions
    side = isqrt(cells)
    grid = positions[:, prefix:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(isqrt(wanted),) * 2, mode="bicubic", antialias=True)
    return torch.cat([positions[:, :prefix], grid.flatten(2).transpose(1, 2).to(positions.dtype)], 1)


def _read(weights: str) -> dict[str, Tensor]:
    if weights in SHIPPED:
        name, sha256 = SHIPPED[weights]
        with as_file(files("pvision.models").joinpath(name)) as path:
            return read_weights(path, sha256=sha256)
    if not is_weights_path(weights):
        raise ConfigError(
            f"weights must be None, {', '.join(map(repr, SHIPPED))} or the path of a .safetensors file, but "
            f"{weights!r} came."
        )
    return read_weights(weights)


def _block(name: str) -> int:
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found[1]) if found else -1
