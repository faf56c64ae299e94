"""Read what users give as numpy arrays, and say in one sentence what is wrong with it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pvision.errors import ConfigError

__all__ = ["Floats", "Integers", "Mask", "as_confusion", "as_floats", "as_fractions", "as_integers", "plain", "ratio"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
ROUNDING = 1e-6  # a float32 mean of ones may end this far above 1


def plain(value: object) -> object:
    """Return a tensor of any device and type as a numpy array, anything else as it is."""
    detach = getattr(value, "detach", None)
    if detach is None:
        return value
    tensor = detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()  # numpy knows no bfloat16


def as_floats(name: str, value: object, dimensions: int) -> Floats:
    """Return a new float64 array of that many dimensions; NaN is allowed, infinity is not.

    Raises:
        ConfigError: if ``value`` is ragged, not numeric, infinite or of other dimensions.
    """
    try:
        array = np.array(plain(value), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} must be a rectangular array of numbers, but it cannot be read as one ({error})."
            " Give rows of equal length, with NaN where nothing was measured."
        ) from error
    if array.ndim != dimensions:
        raise ConfigError(f"{name} must have {dimensions} dimension(s), but its shape is {array.shape}.")
    if np.isinf(array).any():
        raise ConfigError(f"{name} holds an infinite value. Use NaN where nothing was measured.")
    return array


def as_fractions(name: str, value: object, dimensions: int) -> Floats:
    """Return a new float64 array of fractions, or NaN.

    Raises:
        ConfigError: if a value lies outside [0, 1], as percentages do.
    """
    array = as_floats(name, value, dimensions)
    wrong = array[(array < 0) | (array > 1 + ROUNDING)]
    if wrong.size:
        remedy = " If these are percentages, divide by 100." if wrong.max() > 1 else ""
        raise ConfigError(f"{name} must hold fractions in [0, 1], or NaN, but {wrong.flat[0]:g} came.{remedy}")
    return array


def as_integers(name: str, value: object, shape: tuple[int, ...], error: type[ValueError] = ConfigError) -> Integers:
    """Return a new int64 array; ``shape`` gives its dimensions, -1 where any size will do.

    Raises:
        ValueError: ``error`` if ``value`` is no array of whole numbers of that shape.
    """
    try:
        array = np.asarray(plain(value))
    except ValueError as fault:
        raise error(f"{name} must be an array of whole numbers, but it is ragged.") from fault
    if array.size == 0 and isinstance(value, list | tuple):
        array = array.astype(np.int64)  # numpy reads an empty list as floats
    if array.dtype.kind not in "iu":
        raise error(f"{name} must be an array of whole numbers, but its type is {array.dtype}.")
    if array.ndim != len(shape) or any(size not in (-1, came) for size, came in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if size == -1 else str(size) for size in shape)
        raise error(f"{name} must have the shape ({wanted}), but it has {array.shape}.")
    return np.array(array, dtype=np.int64)


def as_confusion(value: object) -> Integers:
    """Return a new square int64 array of pixel counts, rows truth and columns prediction.

    Raises:
        ConfigError: if ``value`` is none, is empty, or has a negative count.
    """
    pixels = as_integers("confusion", value, (-1, -1))
    if pixels.shape[0] != pixels.shape[1] or not pixels.size or (pixels < 0).any():
        raise ConfigError(
            f"confusion must be square and hold pixel counts, none negative, but its shape is {pixels.shape}"
            f" and its smallest entry {pixels.min(initial=0)}."
        )
    return pixels


def ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> Floats:
    """Return numerator / denominator, NaN where the denominator is 0."""
    undefined = np.full(denominator.shape, np.nan)
    quotient: Floats = np.divide(numerator, denominator, out=undefined, where=denominator != 0)
    return quotient
