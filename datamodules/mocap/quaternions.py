"""Quaternions ``(x, y, z, w)`` in NumPy: the little that poses need."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["from_rotation_vector", "multiply", "slerp"]

Array = NDArray[np.float64]


def multiply(first: Array, second: Array) -> Array:
    """Return the rotation that applies ``second`` and then ``first``, both ``(..., 4)``."""
    ax, ay, az, aw = np.moveaxis(first, -1, 0)
    bx, by, bz, bw = np.moveaxis(second, -1, 0)
    return np.stack(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ],
        axis=-1,
    )


def from_rotation_vector(vector: Array) -> Array:
    """Return the rotation about ``vector`` by its length in radians, ``(..., 3)`` to ``(..., 4)``."""
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    # np.sinc(x) is sin(pi x) / (pi x), which is finite at angle 0.
    return np.concatenate([vector * 0.5 * np.sinc(angle / (2 * np.pi)), np.cos(angle / 2)], axis=-1)


def slerp(start: Array, end: Array, fraction: Array) -> Array:
    """Turn from ``start`` to ``end`` along the shorter arc.

    Args:
        start: unit quaternions, ``(..., 4)``.
        end: unit quaternions, ``(..., 4)``.
        fraction: how far, 0 to 1, broadcast against ``(..., 1)``.
    """
    cosine = (start * end).sum(-1, keepdims=True)
    end, cosine = np.where(cosine < 0, -end, end), np.abs(cosine)
    angle = np.arccos(np.clip(cosine, 0, 1))
    # Ratios of sinc stay finite when the two coincide.
    scale = np.sinc(angle / np.pi)
    near = (1 - fraction) * np.sinc((1 - fraction) * angle / np.pi) / scale
    far = fraction * np.sinc(fraction * angle / np.pi) / scale
    turned = near * start + far * end
    return np.asarray(turned / np.linalg.norm(turned, axis=-1, keepdims=True))
