"""Download of a published archive, compared with its checksum before anything in it is used."""

import hashlib
import logging
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pvision.errors import DataError

__all__ = ["fetch_archive"]

_log = logging.getLogger(__name__)
_CHUNK = 2**20


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
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.parent / url.rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as made:
        workplace = Path(made)
        if not archive.is_file():
            _log.info("Downloading %s to %s.", url, archive)
            _download(url, workplace / archive.name)
            _check(workplace / archive.name, sha256, source=url)
            (workplace / archive.name).replace(archive)
        else:
            _check(archive, sha256, source=str(archive))
        _unpack(archive, workplace / folder.name, files)
        with suppress(OSError):  # another process was first; what it unpacked had the same checksum
            (workplace / folder.name).rename(folder)


def _download(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:
            shutil.copyfileobj(answer, file, _CHUNK)
    except (OSError, urllib.error.URLError) as error:
        raise DataError(
            f"{url} cannot be downloaded ({error}). Download it elsewhere, put it beside the data's folder, and try "
            "again."
        ) from error


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
