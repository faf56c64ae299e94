"""Download of published files, compared with their checksums before anything in them is used."""

import hashlib
import logging
import shutil
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from pvision.errors import DataError

__all__ = ["fetch_archive", "fetch_file"]

_log = logging.getLogger(__name__)
_CHUNK = 2**20
_MOST = 2**30  # bytes of an archive; the largest of CIFAR has a sixth of it


def fetch_file(url: str, path: Path, *, most: int, check: Callable[[Path], None]) -> None:
    """Download a file; it gets its name only if ``check`` finds nothing wrong with it.

    Several processes may do so at the same moment: each works in a folder of its own, and the last one wins.

    Args:
        url: of the file.
        path: where it goes; its folder is made.
        most: bytes that it may have.
        check: raises an error if the file at the path that it is given is not the one meant.

    Raises:
        DataError: if the file cannot be had, or has more bytes.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as workplace:
            _log.info("Downloading %s to %s.", url, path)
            arrived = Path(workplace) / path.name
            _download(url, arrived, most)
            check(arrived)
            arrived.replace(path)
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{url} cannot be downloaded ({error}). Download it elsewhere, put it into {path.parent}, and try again."
        ) from error


def fetch_archive(url: str, *, sha256: str, folder: Path, files: Sequence[str]) -> None:
    """Download a tar archive unless it lies beside ``folder`` already, and unpack some of its files.

    Several processes may do so at the same moment: each works in a folder of its own, and the first one wins.

    Args:
        url: of the archive.
        sha256: the checksum that its bytes must have, 64 hexadecimal digits.
        folder: where the files go; in the archive they lie in a folder of the same name.
        files: the names of the files in it; nothing else is unpacked.

    Raises:
        DataError: if the archive cannot be had, has another checksum, or lacks a file.
    """
    archive = folder.parent / url.rpartition("/")[2]
    if archive.is_file():
        _check(archive, sha256, source=str(archive))
    else:
        fetch_file(url, archive, most=_MOST, check=lambda path: _check(path, sha256, source=url))
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as workplace:
        _unpack(archive, Path(workplace) / folder.name, files)
        with suppress(OSError):  # another process was first; what it unpacked had the same checksum
            (Path(workplace) / folder.name).rename(folder)


def _download(url: str, path: Path, most: int) -> None:
    with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:
        while chunk := answer.read(_CHUNK):
            if file.tell() + len(chunk) > most:
                raise DataError(f"{url} has more than the {most} bytes that are expected. Nothing of it was used.")
            file.write(chunk)


def _check(path: Path, sha256: str, *, source: str) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise DataError(
            f"{source} has the SHA-256 {digest.hexdigest()}, but {sha256} is expected: it is damaged or another file. "
            "Delete it and try again; nothing of it was used."
        )


def _unpack(archive: Path, folder: Path, files: Sequence[str]) -> None:
    """Write the named files of an archive, by their contents alone: no link, mode or path of the archive is used."""
    folder.mkdir()
    try:
        with tarfile.open(archive, "r:*") as tar:
            for name in files:
                content = tar.extractfile(f"{folder.name}/{name}")
                if content is None:
                    raise KeyError(name)
                with content, (folder / name).open("wb") as file:
                    shutil.copyfileobj(content, file, _CHUNK)
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise DataError(
            f"{archive} holds no readable {folder.name}/{name} ({error}). Delete it and try again."
        ) from error
