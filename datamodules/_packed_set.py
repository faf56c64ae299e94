"""The folder of a set that was rendered: a manifest, and xz files whose size and SHA-256 it announces.

Nothing in it is a pickle. Each set adds what its files hold; see `storage.py` in the folders of the sets.
"""

import hashlib
import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvision.checks import one_of, positive_int
from pvision.errors import ConfigError, DataError

__all__ = ["PackedSet", "SetFormat", "file_entries", "open_packed"]


@dataclass(frozen=True)
class SetFormat:
    """What tells the sets of one kind from others.

    Args:
        title: name of the data set, for messages.
        name: of the format, in the manifest.
        version: of the format.
        shipped: the folder of the set that comes with pvision.
        command: which makes a set.
        unit: what a set holds, in the plural, for messages; the manifest's counts have this name.
        splits: their names.
    """

    title: str
    name: str
    version: int
    shipped: Path
    command: str
    unit: str
    splits: tuple[str, ...]

    def damaged(self, path: Path, what: str) -> DataError:
        """Return the error of a file that is not what it should be.

        Args:
            path: of the file.
            what: is wrong with it, a clause that goes on from its name.
        """
        return DataError(f"{path} {what}. Reinstall pvision, or make the set again with: {self.command}")


class PackedSet:
    """A set whose manifest was read.

    Args:
        layout: of the set.
        root: its folder; the shipped one if None.

    Raises:
        DataError: if the folder holds no such set, or one of another version.
    """

    def __init__(self, layout: SetFormat, *, root: str | Path | None = None) -> None:
        self.layout = layout
        self.folder = layout.shipped if root is None else Path(root).expanduser()
        self._manifest = self.folder / "manifest.json"
        self._content = self._read_manifest()
        self.seed = self.number("seed")
        try:
            entries = self._content["files"].items()
            self.files = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in entries}
            self.counts = {str(split): int(count) for split, count in self._content[layout.unit].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise layout.damaged(self._manifest, f"lacks an entry ({error!r})") from error

    def number(self, entry: str) -> int:
        """Return a whole number of the manifest.

        Args:
            entry: its name.

        Raises:
            DataError: if there is none of that name.
        """
        try:
            return int(self._content[entry])
        except (KeyError, TypeError, ValueError) as error:
            raise self.layout.damaged(self._manifest, f"lacks an entry ({error!r})") from error

    def count(self, split: str, limit: int | None) -> int:
        """Return how many to load of a split: all, or ``limit``.

        Args:
            split: its name.
            limit: at most as many as there are; all if None.

        Raises:
            ConfigError: if there is no such split, or it has fewer.
        """
        available = self.counts.get(one_of("split", split, self.layout.splits), 0)
        if limit is not None and positive_int("limit", limit, low=0) > available:
            unit = self.layout.unit
            raise ConfigError(f"{limit} {unit} of the {split} split are wanted, but the set has {available}.")
        return available if limit is None else limit

    def checked(self, name: str) -> bytes:
        """Return a file's bytes if they are those that the manifest announces.

        Args:
            name: of the file.

        Raises:
            DataError: if it is missing, damaged, or not of the manifest.
        """
        path = self.folder / name
        if name not in self.files:
            raise self.layout.damaged(self._manifest, f"does not name {name}")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise self.layout.damaged(path, f"cannot be read ({error.strerror})") from error
        size, digest = self.files[name]
        if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            what = f"is not the file that was written ({len(content)} bytes, {size} expected)"
            raise self.layout.damaged(path, what)
        return content

    def read(self, name: str, count: int) -> NDArray[np.uint8]:
        """Return the first bytes that a file decompresses to.

        Args:
            name: of the file.
            count: how many bytes.

        Raises:
            DataError: if it is missing or damaged, or holds fewer.
        """
        content = self.checked(name)
        try:
            # A fresh decompressor, because it can stop early: the beginning of a long split costs little.
            content = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(content, max_length=count)
        except lzma.LZMAError as error:
            raise self.damaged(name, f"cannot be decompressed ({error})") from error
        if len(content) != count:
            raise self.damaged(name, f"holds {len(content)} bytes, {count} expected")
        return np.frombuffer(content, np.uint8)

    def damaged(self, name: str, what: str) -> DataError:
        """Return the error of a file that is not what it should be.

        Args:
            name: of the file.
            what: is wrong with it, a clause that goes on from its name.
        """
        return self.layout.damaged(self.folder / name, what)

    def _read_manifest(self) -> dict[str, Any]:
        layout, path = self.layout, self._manifest
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise layout.damaged(path, f"is missing, so its folder holds no {layout.title} set") from error
        except (OSError, ValueError) as error:
            raise layout.damaged(path, f"cannot be read ({error})") from error
        found = (content.get("format"), content.get("version")) if isinstance(content, dict) else None
        if found != (layout.name, layout.version):
            raise layout.damaged(path, f"describes {found}, but {(layout.name, layout.version)} is expected")
        return dict(content)


def open_packed(path: Path, *, window: int = 1 << 22) -> lzma.LZMAFile:
    """Return an xz file to write to, packed for bytes that are no text.

    Args:
        path: of the file.
        window: how far back repetitions are found, in bytes. The preset's 64 MiB would need 700 MB of memory for each
            open file, and make it hardly smaller.
    """
    preset = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": window}
    # The upper half of the last byte predicts the next one best.
    return lzma.open(path, "wb", filters=[{**preset, "lc": 4, "pb": 0}])


def file_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the manifest's entries for the xz files of a folder: size in bytes and SHA-256 of each.

    Args:
        folder: where they are.
    """
    contents = {path.name: path.read_bytes() for path in sorted(folder.glob("*.xz"))}
    return {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
