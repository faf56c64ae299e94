"""Weights of a backbone from a file, without code in it."""

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pvision.errors import ConfigError

__all__ = ["load_weights"]


def load_weights(
    network: nn.Module,
    path: str,
    *,
    classifier: str,
    fitted: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> None:
    """Load a ``.safetensors`` file, or a ``.pth`` file of tensors only, into a network; it has to fill all of it.

    Args:
        network: what to fill.
        path: of the file.
        classifier: what the names of tensors begin with that are left out.
        fitted: turns the tensors of the file into those of the network; None if they are the same.

    Raises:
        ConfigError: if there is no such file, it holds anything else, or it does not fit the network.
    """
    state = {name: value for name, value in _read(Path(path)).items() if not name.startswith(classifier)}
    try:
        network.load_state_dict(state if fitted is None else fitted(state))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ConfigError(
            f"weights: {path} does not fit {type(network).__name__}: {' '.join(lines)[:300]} Give weights of this very "
            "architecture, or null for random ones."
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(
            f"weights: there is no file {str(path)!r}. Give the path of a .safetensors or .pth file, or null for "
            "random weights."
        )
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"weights: {path} cannot be read: {reason} Save a state dict of tensors only.") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"weights: {path} holds more than tensors. Save the network's state dict alone.")
    return state
