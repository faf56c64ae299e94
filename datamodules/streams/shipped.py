"""The small image sets that lie beside this file, made by ``benchmarks/make_stream_data.py``."""

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pvision.datamodules.streams.idx import read_idx

__all__ = ["load_shipped"]

_FOLDER = Path(__file__).parent


def load_shipped(
    name: Literal["digits", "fashion_mnist"], split: Literal["train", "test"]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return the images ``(N, H, W)`` and the labels ``(N,)`` of a shipped set, both uint8.

    Raises:
        DataError: if a file is missing or damaged.
    """
    images = read_idx(_FOLDER / f"{name}-{split}-images.idx.xz", dims=3)
    return images, read_idx(_FOLDER / f"{name}-{split}-labels.idx.xz", dims=1)
