"""Image sets that other packages on the package index carry: found without importing the package, checked, unpacked.

Such packages need more than their data does, so that users install them without their dependencies, and to import them
would fail.
"""

import gzip
import hashlib
import importlib.util
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pvision.errors import DataError

__all__ = ["PackageFile", "find_package_files", "unpacked"]


@dataclass(frozen=True, kw_only=True)
class PackageFile:
    """A data file, compressed by gzip, of a published package.

    Attributes:
        requirement: what pip installs: ``animal-mnist==0.4``.
        path: below the folder that holds the package; it begins with the package's import name.
        size: of the compressed file, in bytes.
        sha256: of the compressed file, 64 hexadecimal digits.
    """

    requirement: str
    path: str
    size: int
    sha256: str


def find_package_files(files: Sequence[PackageFile], *, root: Path | None) -> list[Path]:
    """Return where the files lie.

    Args:
        files: the files.
        root: the folder into which the packages were installed or unzipped, or that holds the files themselves; None
            for the packages that Python finds.

    Raises:
        DataError: if one is missing; it names all that are, and the command that installs them.
    """
    found = [_find(file, root) for file in files]
    missing = [file for file, path in zip(files, found, strict=True) if path is None]
    if missing:
        where = "The installed packages hold" if root is None else f"{root} holds"
        raise DataError(f"{where} no {' and no '.join(file.path for file in missing)}. Run: {_command(missing, root)}")
    return [path for path in found if path is not None]


def unpacked(file: PackageFile, path: Path, *, root: Path | None) -> bytes:
    """Return what a file holds.

    Args:
        file: the file that it must be.
        path: where it lies.
        root: as in `find_package_files`.

    Raises:
        DataError: if it cannot be read, or is another file.
    """
    try:
        with path.open("rb") as opened:
            content = opened.read(file.size + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise DataError(
            f"{path} is not the file of {file.requirement}: its first {len(content)} bytes have the SHA-256 {found}, "
            f"but {file.size} bytes of {file.sha256} are expected. Run: {_command([file], root, anew=True)}"
        )
    return gzip.decompress(content)


def _find(file: PackageFile, root: Path | None) -> Path | None:
    if root is not None:
        places = [root / file.path, root / Path(file.path).name]
    else:
        spec = importlib.util.find_spec(file.path.partition("/")[0])
        folders = [] if spec is None else spec.submodule_search_locations or []
        places = [Path(folder).parent / file.path for folder in folders]
    return next((place for place in places if place.is_file()), None)


def _command(files: Sequence[PackageFile], root: Path | None, *, anew: bool = False) -> str:
    """Return the command that installs the packages of files; ``anew`` where pip would see nothing to do."""
    options = [] if root is None else ["--target", str(root)]
    if anew:
        options.append("--force-reinstall" if root is None else "--upgrade")
    return shlex.join(["pip", "install", "--no-deps", *options, *dict.fromkeys(file.requirement for file in files)])
