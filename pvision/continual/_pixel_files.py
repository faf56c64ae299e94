"""Opens files that pack others: archives, arrays, checkpoints and pictures. Nothing in them is executed."""

import gzip
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

__all__ = ["Contents", "contents", "fitted"]

_SPOOLED = 1 << 26  # what is unpacked lies in memory up to here, and in a temporary file beyond
_LARGEST = 1 << 35  # 32 GiB: a packed file that unpacks to more is not followed
_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"II*\x00", b"MM\x00*")
_BROKEN = (OSError, RuntimeError, ValueError, KeyError, EOFError, TypeError, zlib.error, UnpicklingError)


@dataclass(frozen=True)
class Contents:
    """One thing that a file packs: a value, a picture, or a file; or why it cannot be read.

    Attributes:
        where: the file, and the member's name.
        value: tensors, as nested containers.
        picture: ``(H, W, 3)`` uint8.
        lossy: whether the picture's format changes pixels.
        stream: a packed file, opened; the reader closes it.
        problem: why it is none of these.
    """

    where: str
    value: Any = None
    picture: Tensor | None = None
    lossy: bool = False
    stream: IO[bytes] | None = None
    problem: str = ""


def contents(stream: IO[bytes], where: str) -> Iterator[Contents]:
    """Yield what a file packs, one thing at a time; nothing if it is a file like any other.

    Args:
        stream: the file; it can seek.
        where: its name, for its suffix and for what is said of it.
    """
    stream.seek(0)
    head = stream.read(16)
    stream.seek(0)
    try:
        if head.startswith(b"PK\x03\x04"):
            yield from _zip(stream, where)
        elif head.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=stream) as packed:
                yield Contents(where.removesuffix(".gz"), stream=_unpacked(packed))
        elif head.startswith(b"\x93NUMPY"):
            yield Contents(where, value=np.load(stream, allow_pickle=False))
        elif where.endswith(".safetensors"):
            yield Contents(where, value=load_safetensors(stream.read()))
        elif head.startswith(_PICTURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
            yield _picture(stream, where)
        elif PurePath(where).suffix in _TORCH_SUFFIXES:
            yield _torch(stream, where)
    except (*_BROKEN, SafetensorError, zipfile.BadZipFile, NotImplementedError) as error:
        yield Contents(where, problem=f"only its bytes were searched ({type(error).__name__}: {error})"[:300])


def fitted(picture: Tensor, channels: int, height: int, width: int) -> tuple[Tensor, bool]:
    """Return a picture ``(H, W, 3)`` as uint8 ``(channels, height, width)``, and whether it had to be resized."""
    from PIL import Image  # Pillow made the picture

    image = Image.fromarray(picture.numpy()).convert("L" if channels == 1 else "RGB")
    resized = image.size != (width, height)
    if resized:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).reshape(height, width, -1).permute(2, 0, 1)
    return pixels.contiguous(), resized


def _zip(stream: IO[bytes], where: str) -> Iterator[Contents]:
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        if any(name.endswith("/data.pkl") for name in names):
            stream.seek(0)
            loaded = _torch(stream, where)
            yield loaded
            if not loaded.problem:
                return
        for member in archive.infolist():
            if not member.is_dir():
                with archive.open(member) as packed:
                    yield Contents(f"{where}/{member.filename}", stream=_unpacked(packed))
                if "/data/" in member.filename and f"{member.filename.partition('/')[0]}/data.pkl" in names:
                    yield from _storage(archive.read(member), f"{where}/{member.filename}")


def _storage(data: bytes, where: str) -> Iterator[Contents]:
    """Yield what torch wrote of a tensor, whose type only the pickled part of the file knows, as each type of float."""
    for kind in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        if data and len(data) % kind.itemsize == 0:
            yield Contents(where, value=torch.frombuffer(bytearray(data), dtype=kind))


def _torch(stream: IO[bytes], where: str) -> Contents:
    """Load a file of torch; where that would run code, say so: its bytes and members are searched anyway."""
    try:
        return Contents(where, value=torch.load(stream, map_location="cpu", weights_only=True))
    except _BROKEN as error:
        reason = str(error).partition("\n")[0][:160]
        return Contents(where, problem=f"it could not be loaded, so its bytes were searched instead ({reason})")


def _picture(stream: IO[bytes], where: str) -> Contents:
    try:
        from PIL import Image
    except ImportError:
        return Contents(where, problem="pictures need Pillow, which is not installed (pip install pillow)")
    with Image.open(stream) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB")))
        return Contents(where, picture=pixels, lossy=image.format in ("JPEG", "WEBP"))


def _unpacked(packed: IO[bytes] | gzip.GzipFile) -> IO[bytes]:
    """Return what is packed as a file that can seek."""
    unpacked = tempfile.SpooledTemporaryFile(max_size=_SPOOLED)  # noqa: SIM115  # closed by who reads it
    try:
        while data := packed.read(1 << 22):
            unpacked.write(data)
            if unpacked.tell() > _LARGEST:
                raise ValueError("it unpacks to more than 32 GiB")
    except BaseException:
        unpacked.close()
        raise
    unpacked.seek(0)
    return unpacked
