"""Adapters in one safetensors file: their tensors, and in its header what they are."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from pvision.adapters.adapted import AdaptedModel
from pvision.adapters.description import checked_description, describe
from pvision.errors import ConfigError, DataError
from pvision.tensor_files import read_tensors, tensor_path, write_tensors

__all__ = ["load_adapters", "save_adapters"]

_HEADER = "pvision_adapters"


def save_adapters(adapted: AdaptedModel, path: str | Path, *, names: tuple[str, ...] | None = None) -> None:
    """Write adapters to a file, without the network.

    Args:
        adapted: what holds them; merged or not.
        path: a ``.safetensors`` file; replaced whole where it exists.
        names: which ones; None for all.

    Raises:
        ConfigError: if there are none of these names, or the file's name ends in something else.
    """
    path = tensor_path(path)
    chosen = adapted.names if names is None else adapted.known(names)
    if not chosen:
        raise ConfigError("save_adapters: the model has no adapters. Add some first.")
    write_tensors(path, _tensors(adapted, chosen), header={_HEADER: json.dumps(describe(adapted, chosen))})


def load_adapters(model: nn.Module, path: str | Path) -> AdaptedModel:
    """Return ``model`` with the adapters of a file on top of those it has.

    Args:
        model: the network that they were trained in, or an `AdaptedModel` around it; changed in place.
        path: a file that `save_adapters` wrote.

    Raises:
        ConfigError: if there is no such file, a name in it is taken, or the network lacks a place.
        DataError: if the file is damaged or was written by something else.
    """
    path = tensor_path(path)
    description, tensors = _read(path)
    adapted = model if isinstance(model, AdaptedModel) else AdaptedModel(model)
    before = adapted.names
    adapted.extend(description)
    slots = _tensors(adapted, tuple(description["names"]))
    shapes = [{key: tuple(tensor.shape) for key, tensor in some.items()} for some in (slots, tensors)]
    if shapes[0] != shapes[1]:
        adapted.remove(*(name for name in adapted.names if name not in before))
        raise DataError(
            f"{path} is damaged: its tensors are not those that its header tells of. Save the adapters again."
        )
    with torch.no_grad():
        for key, slot in slots.items():
            slot.copy_(tensors[key])
    return adapted


def _tensors(adapted: AdaptedModel, names: tuple[str, ...]) -> dict[str, Tensor]:
    of_layers = {
        f"{layer.name}/{name}/{key}": tensor
        for layer in adapted.layers
        for name, adapter in layer.adapters.items()
        if name in names
        for key, tensor in adapter.state_dict(keep_vars=True).items()
    }
    return of_layers | {f"magnitudes/{name}": value for name, value in adapted.magnitudes.items() if name in names}


def _read(path: Path) -> tuple[dict[str, list[str]], dict[str, Tensor]]:
    header, tensors = read_tensors(path, writer="save_adapters", cure="Save the adapters again.")
    if _HEADER not in header:
        raise DataError(f"{path} was not written by save_adapters. For a folder of PEFT's, use import_peft.")
    return checked_description(header[_HEADER], path), tensors
