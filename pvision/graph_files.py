"""How a model becomes one file that runs without pvision: checked, written, and run again to be compared."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pvision.checks import one_of, positive_int
from pvision.errors import ConfigError, MissingExtraError

__all__ = ["Found", "Run", "checked_target", "needed", "refused_clearly", "run_onnx", "write_onnx"]

Found = Sequence[Tensor]
"""The outputs of a model for one image."""

Run = Callable[[Tensor], Found]
"""A model in a file."""

_SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}


def checked_target(path: str | Path, *, format: Literal["onnx", "torch_export"], image_size: Sequence[int]) -> Path:
    """Return where to write, once the format, the path's ending and the size are right.

    Raises:
        ConfigError: if one is not.
    """
    suffix = _SUFFIXES[one_of("format", format, _SUFFIXES)]
    path = Path(path)
    if path.suffix != suffix:
        raise ConfigError(f"path must end in {suffix} for the format {format!r}, but {str(path)!r} came.")
    if len(image_size) != 2:
        raise ConfigError(f"image_size must be height and width in pixels, but {list(image_size)} came.")
    for side in image_size:
        positive_int("image_size", side)
    return path


def needed(package: str) -> Any:
    """Return a package that only export to ONNX needs.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, "export", "Exporting to ONNX") from error


@contextmanager
def refused_clearly(what: str, *, known: str = "") -> Iterator[None]:
    """Turn whatever an exporter raises into one error.

    Args:
        what: is exported.
        known: what is known to work, a sentence with a space after it.

    Raises:
        ConfigError: with the exporter's reason.
    """
    try:
        yield
    except Exception as error:  # the exporters raise nearly anything
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        reason = (str(root).strip().splitlines() or [""])[0][:200]
        raise ConfigError(
            f"The {what} cannot be exported in this format ({type(root).__name__}: {reason}). {known}Try the other "
            "format, or serve it with `pvision predict`."
        ) from error


def write_onnx(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    outputs: Sequence[str],
    translations: Mapping[Any, Callable[..., Any]] | None = None,
) -> None:
    """Write a model of one image as ONNX.

    Args:
        model: takes an image and returns as many tensors as there are ``outputs``.
        example: an image.
        path: where to.
        outputs: their names.
        translations: how operators are written that torch cannot translate.
    """
    torch.onnx.export(
        model,
        (example,),
        path,
        dynamo=True,
        external_data=False,  # one file
        input_names=["image"],
        output_names=list(outputs),
        custom_translation_table=None if translations is None else dict(translations),
        verbose=False,
    )


def run_onnx(path: Path, *, outputs: Sequence[str]) -> Run:
    """Return the model in a file that `write_onnx` wrote."""
    session = needed("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: [torch.from_numpy(array) for array in session.run(list(outputs), {"image": image.numpy()})]
