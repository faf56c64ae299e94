"""Colours of the classes: each has a few of its own, which wear and dirt shift."""

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules.rendered_yard.labels import CLASS_NAMES, PARTS, label_of

__all__ = ["draw_colors"]

_COLORS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "vehicle": ((0.75, 0.65, 0.1), (0.8, 0.1, 0.15)),
    "wheel": ((0.1, 0.1, 0.1), (0.18, 0.15, 0.14)),
    "table": ((0.55, 0.35, 0.18), (0.8, 0.65, 0.45)),
    "quadruped": ((0.1, 0.5, 0.6), (0.8, 0.8, 0.85)),
    "ball": ((0.85, 0.25, 0.55), (0.55, 0.2, 0.7), (0.9, 0.9, 0.85)),
    "drum": ((0.2, 0.35, 0.75), (0.15, 0.5, 0.3)),
    "arm": ((0.9, 0.5, 0.1), (0.75, 0.78, 0.8)),
    "trousers": ((0.12, 0.16, 0.45), (0.3, 0.3, 0.32), (0.45, 0.4, 0.2)),
    "shirt": ((0.95, 0.42, 0.06), (0.8, 0.92, 0.1), (0.85, 0.1, 0.1)),
    "skin": ((0.93, 0.76, 0.65), (0.55, 0.38, 0.27), (0.36, 0.24, 0.18), (0.8, 0.6, 0.45)),
}
_OWN_SHARE = 0.75  # the rest is any colour; skin has no rest


def draw_colors(rng: np.random.Generator, kinds: list[str]) -> NDArray[np.uint8]:
    """Return the colour table of a scene: the fully lit colour of each class, uint8, ``(10, 3)``.

    The row of a class is its label minus 1; classes that none of the objects has are black.

    Args:
        rng: of the scene's colours.
        kinds: of the objects.
    """
    table = np.zeros((len(CLASS_NAMES), 3), np.uint8)
    for kind in kinds:
        for name in PARTS[kind]:
            own = np.array(_COLORS[name][int(rng.integers(len(_COLORS[name])))])
            shift = rng.uniform(0.05, 0.95, 3)
            color = own if name == "skin" else _OWN_SHARE * own + (1 - _OWN_SHARE) * shift
            table[label_of(name) - 1] = np.rint(255 * color)
    return table
