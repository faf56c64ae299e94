"""A method's weights and what it has learned in one safetensors file, without its history."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pvision.errors import ConfigError, DataError
from pvision.segmentation.methods.method import SegmentationMethod, frozen_copy
from pvision.tensor_files import read_tensors, tensor_path, write_tensors

__all__ = ["load_segmenter", "save_segmenter"]

_HEADER = "pvision_segmenter"


def save_segmenter(method: SegmentationMethod, path: str | Path, *, class_names: Sequence[str]) -> None:
    """Write a method as it segments now: no teacher, no optimizer, nothing of the stream.

    Args:
        method: what to write; it stays as it is.
        path: a ``.safetensors`` file; replaced whole where it exists.
        class_names: of the classes from 1 on.

    Raises:
        ConfigError: if the method has learned no class, or the file's name ends in something else.
    """
    path = tensor_path(path)
    if not method.head.groups:
        raise ConfigError("The method has learned no class, so there is nothing to save. Train it first.")
    alone = frozen_copy(method)
    header = {"class_names": list(class_names), "state": _without_tensors(alone)}
    write_tensors(path, _tensors(alone), header={_HEADER: json.dumps(header)})


def load_segmenter(
    path: str | Path, *, network: nn.Module, method: Callable[[nn.Module], SegmentationMethod]
) -> tuple[SegmentationMethod, tuple[str, ...]]:
    """Return a method with the weights of a file, in evaluation mode, and the names of its classes from 1 on.

    Args:
        path: a file that `save_segmenter` wrote.
        network: of the same architecture; its weights are replaced.
        method: the class that was saved, or a function that makes it with its settings.

    Raises:
        ConfigError: if there is no such file, or it is of another method.
        DataError: if the file is damaged, was written by something else, or does not fit the network.
    """
    path = tensor_path(path)
    header, tensors = _read(path)
    made = method(network)
    made.set_extra_state(header["state"])
    if faults := _differences(_tensors(made), tensors):
        raise DataError(
            f"{path} does not fit {type(network).__name__}: they differ in {', '.join(faults[:3])}. Give the network "
            "that it was trained with."
        )
    made.load_state_dict(tensors, strict=False)  # the rest of the state is in the header
    return made.eval(), tuple(header["class_names"])


def _without_tensors(method: SegmentationMethod) -> dict[str, Any]:
    state = method.get_extra_state()
    try:
        json.dumps(state)
    except TypeError as error:
        raise ConfigError(
            f"{type(method).__name__} keeps more than plain values in its extra state ({error}). Keep tensors in "
            "buffers, or use a checkpoint."
        ) from error
    return state


def _tensors(method: SegmentationMethod) -> dict[str, Tensor]:
    return {name: value for name, value in method.state_dict().items() if isinstance(value, Tensor)}


def _differences(own: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors that only one side has, or in another shape."""
    shapes = [{name: value.shape for name, value in some.items()} for some in (own, found)]
    return sorted(name for name in own.keys() | found.keys() if shapes[0].get(name) != shapes[1].get(name))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header, tensors = read_tensors(path, writer="save_segmenter", cure="Save the method again.")
    if _HEADER not in header:
        raise DataError(f"{path} was not written by save_segmenter. Checkpoints are loaded by `pvision test`.")
    return json.loads(header[_HEADER]), tensors
