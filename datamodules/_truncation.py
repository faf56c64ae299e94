"""Whether a video file was cut short, by the sizes that its own outermost structure declares.

FFmpeg tells only if the cut goes through a frame; cut between two frames, a file reads as a shorter video.
"""

import struct
from pathlib import Path
from typing import IO

__all__ = ["missing_bytes"]

_MP4_BOXES = {
    b"ftyp",
    b"moov",
    b"mdat",
    b"free",
    b"skip",
    b"wide",
    b"moof",
    b"mfra",
    b"sidx",
    b"styp",
    b"uuid",
    b"meta",
}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_RIFF_SLACK = 8  # Some writers count the chunk's own header.


def missing_bytes(path: Path) -> int:
    """Return how many bytes a file lacks: MP4 and MOV, AVI, Matroska and WebM tell; 0 for all others.

    Args:
        path: the file.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head[4:] in _MP4_BOXES:
            end = _mp4_end(file, length)
        elif head[:4] == b"RIFF":
            end = _riff_end(file, length) - _RIFF_SLACK
        elif head[:4] == _EBML:
            end = _matroska_end(file)
        else:
            end = 0
    return max(0, end - length)


def _mp4_end(file: IO[bytes], length: int) -> int:
    end = 0
    while end + 16 <= length:
        file.seek(end)
        size, kind, long_size = struct.unpack(">I4sQ", file.read(16))
        size = long_size if size == 1 else size
        if kind not in _MP4_BOXES or size < 8:  # 0: the box goes on to the end, however far that is
            break
        end += size
    return end


def _riff_end(file: IO[bytes], length: int) -> int:
    end = 0
    while end + 8 <= length:
        file.seek(end)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or size in (0, 2**32 - 1):  # both are written by recorders that cannot go back
            break
        end += 8 + size + size % 2
    return end


def _matroska_end(file: IO[bytes]) -> int:
    file.seek(len(_EBML))
    file.seek(_ebml_size(file), 1)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return 0
    size = _ebml_size(file)
    return file.tell() + size if size else 0


def _ebml_size(file: IO[bytes]) -> int:
    """Read a size, whose first byte tells by its leading zeros how many follow; 0 if it is left open."""
    first = int.from_bytes(file.read(1), "big")
    more = 8 - first.bit_length()
    if more == 8:
        return 0
    size = int.from_bytes(bytes([first ^ (1 << (7 - more))]) + file.read(more), "big")
    return 0 if size == 2 ** (7 * (more + 1)) - 1 else size
