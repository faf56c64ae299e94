"""One colour for each label of a mask, the same in every picture."""

import colorsys

__all__ = ["palette"]

# Told apart by most people with a colour vision deficiency; further labels follow by the golden angle.
_FIRST = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (128, 237, 153),
    (148, 103, 189),
    (255, 173, 173),
)
_BACKGROUND, _VOID = (34, 40, 49), (224, 224, 224)
_GOLDEN = 0.618033988749895


def palette() -> list[tuple[int, int, int]]:
    """Return red, green and blue, 0 to 255, of the labels 0 to 255."""
    further = [_further(place) for place in range(254 - len(_FIRST))]
    return [_BACKGROUND, *_FIRST, *further, _VOID]


def _further(place: int) -> tuple[int, int, int]:
    colour = colorsys.hsv_to_rgb(place * _GOLDEN % 1, 0.55 + 0.3 * (place % 2), 0.95 - 0.2 * (place % 3))
    red, green, blue = (round(255 * value) for value in colour)
    return red, green, blue
