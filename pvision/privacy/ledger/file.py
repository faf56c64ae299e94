"""The file of a privacy ledger: made whole or not at all, then only ever longer."""

import os
import shutil
import sys
import weakref
from contextlib import suppress
from pathlib import Path

from pvision.errors import PrivacyError

__all__ = ["LedgerFile", "create_whole", "make_folder", "refused"]


def make_folder(path: Path) -> None:
    """Make the folder of the file ``path``.

    Raises:
        PrivacyError: if it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(path, error) from error


def create_whole(path: Path, data: bytes) -> None:
    """Make the file ``path`` with ``data`` in it, durably; after a crash it is there as a whole or not at all.

    Raises:
        PrivacyError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        if sys.platform != "win32":  # which has no descriptors for folders
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise refused(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


class LedgerFile:
    """An existing ledger, open to append durably.

    Args:
        path: the file.

    Raises:
        PrivacyError: if it cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise refused(path, error) from error
        self._close = weakref.finalize(self, os.close, self._file)

    def append(self, line: bytes) -> None:
        """Return once ``line`` is on the disk.

        Raises:
            PrivacyError: if it is not; then a part of it may be.
        """
        try:
            written = 0
            while written < len(line):  # a disk that fills up takes a part first
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError as error:
            raise refused(self._path, error) from error

    def close(self) -> None:
        """Give the file back to the system."""
        self._close()


def refused(path: Path, error: OSError) -> PrivacyError:
    """Return what to raise where the ledger at ``path``, or what lies beside it, cannot be written."""
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} bytes are free there"
    except OSError:
        free = "the folder does not answer"
    return PrivacyError(
        f"The privacy ledger {path} cannot be written ({error.strerror}; {free}), so no further step is released. Free "
        "some space or mend the permissions, then resume from the last checkpoint."
    )
