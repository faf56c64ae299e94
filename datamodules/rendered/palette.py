"""Colours and temperatures of surfaces.

The scenes are yards: people wear high-visibility clothes, machines the colours of their makers, floor and buildings are
greyish, and clutter has any colour. So a detector of RGB images goes by colour too, which no other sensor sees. Heat
overlaps: a parked vehicle is as cold as a box, a box that stood in the sun or holds a motor is as warm as a person.
"""

import numpy as np

from pvision.datamodules.rendered.objects import SURFACES, Surface

__all__ = ["draw_surfaces"]

_LIVERY: dict[str, tuple[tuple[float, float, float], ...]] = {
    "shirt": ((0.95, 0.42, 0.06), (0.8, 0.92, 0.1)),
    "trousers": ((0.12, 0.16, 0.45), (0.95, 0.42, 0.06)),
    "shoes": ((0.1, 0.1, 0.12),),
    "body": ((0.08, 0.6, 0.62), (0.15, 0.35, 0.8)),
    "motors": ((0.1, 0.12, 0.2),),
    "legs": ((0.08, 0.6, 0.62), (0.15, 0.35, 0.8)),
    "engine": ((0.8, 0.08, 0.1), (0.75, 0.1, 0.5)),
    "wheels": ((0.1, 0.1, 0.1),),
    "trim": ((0.8, 0.08, 0.1), (0.85, 0.85, 0.85)),
}
_LIVERY_SHARE = 0.7  # the rest is any colour: dirt, wear, other makers

_SKINS = ((0.93, 0.76, 0.65), (0.55, 0.38, 0.27), (0.36, 0.24, 0.18), (0.8, 0.6, 0.45))


def draw_surfaces(rng: np.random.Generator, kind: str, air: float) -> tuple[Surface, ...]:
    """Return the surfaces of one object, in the order of `SURFACES`.

    Args:
        rng: of the scene.
        kind: one of `pvision.datamodules.rendered.objects.KINDS`.
        air: temperature in K.
    """
    warmth = {"person": _person, "quadruped": _machine, "vehicle": _machine, "clutter": _clutter}[kind](rng, air)
    return tuple(_surface(rng, name, heat) for name, heat in zip(SURFACES[kind], warmth, strict=True))


def _person(rng: np.random.Generator, air: float) -> list[float]:
    # Skin is regulated; clothes lie between skin and air, the nearer to the air the thicker they are.
    skin = rng.uniform(303.5, 308.5)
    return [skin, *(air + (skin - air) * rng.uniform(0.25, 0.75, 3) * [1, 1, 0.6]).tolist()]


def _machine(rng: np.random.Generator, air: float) -> list[float]:
    if rng.random() < 0.3:  # switched off
        return [float(heat) for heat in air + rng.uniform(-1, 2) + rng.normal(0, 0.5, 3)]
    return [float(heat) for heat in air + rng.uniform([6, 4, 0], [30, 16, 5])]


def _clutter(rng: np.random.Generator, air: float) -> list[float]:
    return [float(air + (rng.uniform(-2, 3) if rng.random() < 0.5 else rng.uniform(3, 24)))]


def _surface(rng: np.random.Generator, name: str, temperature: float) -> Surface:
    color = rng.uniform(0.05, 0.95, 3)
    if rng.random() < 0.4:  # much is grey
        color = np.clip(color.mean() + rng.normal(0, 0.04, 3), 0.03, 0.97)
    if name in _LIVERY:
        worn = np.array(_LIVERY[name][int(rng.integers(len(_LIVERY[name])))])
        color = _LIVERY_SHARE * worn + (1 - _LIVERY_SHARE) * color
    if name == "skin":
        color = np.array(_SKINS[int(rng.integers(len(_SKINS)))])
    red, green, blue = color.tolist()
    metal = name in ("engine", "motors", "clutter") and rng.random() < 0.25
    emissivity = rng.uniform(0.6, 0.8) if metal else 0.98 if name == "skin" else rng.uniform(0.88, 0.97)
    return Surface((red, green, blue), rng.uniform(0.15, 0.85), temperature, emissivity)
