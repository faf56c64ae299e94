"""Weights from a file, without code in it."""

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from pvision.errors import ConfigError

__all__ = ["load_weights", "read_weights"]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file, or of a ``.pth`` or ``.pt`` file that holds nothing else.

    Raises:
        ConfigError: if there is no such file, or it holds anything else.
    """
    if not path.is_file():
        raise ConfigError(f"There is no file of weights {path}. Give the path of one, or None for random weights.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, _safetensor_error()) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{path} cannot be read as weights: {reason} Save a state dict of tensors only.") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ConfigError(
            f"{path} holds more than weights. Save the network's state dict alone, for example checkpoint['model']."
        )
    return weights


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a file of weights into a network, all of them.

    Raises:
        ConfigError: if the file cannot be read, or does not fit the network.
    """
    weights = read_weights(path)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ConfigError(
            f"{path} does not fit {type(network).__name__}: {' '.join(lines)[:300]} Build the network with the "
            "settings that it was trained with."
        ) from error


def _safetensor_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError
