"""Reading of masks: PNG files whose pixels are class numbers."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pvision.errors import DataError, MissingExtraError

__all__ = ["read_mask"]

_GREY_OR_PALETTE = ("L", "P", "1")


def read_mask(path: Path) -> npt.NDArray[np.uint8]:
    """Return the class numbers of a mask, uint8 ``(H, W)``: grey values, or places in the palette.

    Args:
        path: a PNG of one channel and at most 8 bits.

    Raises:
        DataError: naming the file, if it is missing, damaged, no PNG, coloured, of 16 bits, or of 2 or 4 bits of grey.
        MissingExtraError: if Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "continual", "Reading masks") from error
    try:
        with Image.open(path, formats=("PNG",)) as image:
            mode, raw = image.mode, _raw_mode(image)
            pixels = np.array(image, dtype=np.uint8) if mode in _GREY_OR_PALETTE else None
    except FileNotFoundError as error:
        raise DataError(f"There is no mask {path}. Each image needs one.") from error
    except Exception as error:  # Pillow lets through whatever its decoders meet in a damaged file
        raise DataError(f"The mask {path} cannot be read as a PNG ({error}). Mend or remove the file.") from error
    if pixels is None:
        raise DataError(
            f"The mask {path} has colours, transparency or 16 bits (Pillow's mode {mode}), but class numbers are "
            "expected. Save it as a PNG of 8-bit grey, or with a palette."
        )
    if mode == "L" and raw != "L":
        # Pillow spreads fewer bits over 0 to 255, so that class 1 of 15 would come out as 17.
        raise DataError(f"The mask {path} has fewer than 8 bits of grey ({raw}). Save it with 8, or with a palette.")
    return pixels


def _raw_mode(image: object) -> str:
    """Return how Pillow calls the pixels in the file, as they are before it decodes them."""
    tile = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else ""
    return arguments if isinstance(arguments, str) else str(arguments[0])
