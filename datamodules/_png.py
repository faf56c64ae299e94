"""Reading of PNG masks, by PyAV: no image library is needed beside it."""

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pvision.datamodules._video_file import MAX_SIDE, import_av
from pvision.errors import CorruptVideoError, DataError

__all__ = ["png_size", "read_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR, _PALETTE = 0, 2, 3


def png_size(path: Path) -> tuple[int, int]:
    """Return height and width of a PNG that can serve as a mask, from its header.

    Args:
        path: the file.

    Raises:
        CorruptVideoError: if it is missing, no PNG, or larger than a video may be.
        DataError: if it has 16 bits a channel or transparency: small values would vanish, and what is meant is unclear.
    """
    try:
        with path.open("rb") as file:
            head = file.read(26)
    except OSError as error:
        raise CorruptVideoError(path, error.strerror or "it cannot be read") from error
    if len(head) < 26 or not head.startswith(_SIGNATURE) or head[12:16] != b"IHDR":
        raise CorruptVideoError(path, "it is no PNG")
    width, height, bits, kind = struct.unpack(">IIBB", head[16:26])
    if not 0 < max(width, height) <= MAX_SIDE:
        raise CorruptVideoError(path, f"it is {width}x{height} pixels, and the limit is {MAX_SIDE} a side")
    if bits > 8 or kind not in (_GREY, _COLOUR, _PALETTE):
        raise DataError(f"The mask {path} has 16 bits a channel or transparency. Save it as 8-bit grey, 0 and 255.")
    return height, width


def read_png(path: Path) -> Tensor:
    """Return a PNG's pixels, uint8, ``(H, W, 3)``.

    Args:
        path: the file.

    Raises:
        CorruptVideoError: if it is missing, damaged, no PNG, or larger than a video may be.
        DataError: as `png_size`.
    """
    size = png_size(path)
    av = import_av()
    try:
        with av.open(f"file:{path}", format="png_pipe", container_options={"protocol_whitelist": "file"}) as container:
            container.streams.video[0].codec_context.thread_count = 1
            frame = next(container.decode(video=0))
            picture = frame.to_ndarray(format="rgb24", threads=1)
    except (av.FFmpegError, MemoryError, StopIteration) as error:
        raise CorruptVideoError(path, getattr(error, "strerror", None) or "it cannot be decoded") from error
    if frame.is_corrupt or picture.shape[:2] != size:
        raise CorruptVideoError(path, "it is damaged")
    return torch.from_numpy(np.ascontiguousarray(picture))
