"""Adapters in one safetensors file: their tensors, and in its header what they are."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pvision.adapters.adapted import AdaptedModel
from pvision.adapters.description import checked_description, describe
from pvision.errors import ConfigError, DataError

__all__ = ["load_adapters", "save_adapters", "write_tensors"]

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
    path = _checked(path)
    chosen = adapted.names if names is None else adapted.known(names)
    if not chosen:
        raise ConfigError("save_adapters: the model has no adapters. Add some first.")
    tensors = {key: tensor.detach() for key, tensor in _tensors(adapted, chosen).items()}
    write_tensors(path, tensors, header={_HEADER: json.dumps(describe(adapted, chosen))})


def load_adapters(model: nn.Module, path: str | Path) -> AdaptedModel:
    """Return ``model`` with the adapters of a file on top of those it has.

    Args:
        model: the network that they were trained in, or an `AdaptedModel` around it; changed in place.
        path: a file that `save_adapters` wrote.

    Raises:
        ConfigError: if there is no such file, a name in it is taken, or the network lacks a place.
        DataError: if the file is damaged or was written by something else.
    """
    path = _checked(path)
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}. Give one that save_adapters wrote.")
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


def write_tensors(path: Path, tensors: dict[str, Tensor], *, header: dict[str, str]) -> None:
    """Write a safetensors file so that ``path`` holds either all of it or what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(
            save({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, metadata=header)
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}). Save the adapters again.") from None
    if header is None:
        raise DataError(f"{path} was not written by save_adapters. For a folder of PEFT's, use import_peft.")
    return checked_description(header, path), tensors


def _checked(path: str | Path) -> Path:
    if Path(path).suffix != ".safetensors":
        raise ConfigError(f"path must end in .safetensors, but {str(path)!r} came.")
    return Path(path)
