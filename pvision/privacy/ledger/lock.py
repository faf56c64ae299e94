"""One writer per privacy ledger: a lock file beside it that says who holds it."""

import json
import os
import socket
import sys
import weakref
from contextlib import suppress
from pathlib import Path

from pvision.errors import LedgerBusy, PrivacyError
from pvision.privacy.ledger.file import refused

if sys.platform == "win32":
    import msvcrt
else:
    import errno
    import fcntl

__all__ = ["LedgerLock", "writer_of"]

# POSIX record locks do not exclude within one process, and closing any descriptor of the file drops them: who holds
# what in this process stands here, by process id, because a forked child inherits the table but not the locks.
_HELD: dict[Path, int] = {}

_OFFSET = 1 << 20  # Windows forbids reading what is locked: lock a byte behind the text


class LedgerLock:
    """The right to write one ledger, until `release`.

    A lock left by a killed process of this host is taken over. One left on another host is refused, because nobody can
    tell from here whether that process still lives.

    Args:
        ledger: the ledger's path.

    Raises:
        LedgerBusy: if somebody holds it; the message says who.
        PrivacyError: if the folder cannot be written, or its file system cannot lock.
    """

    def __init__(self, ledger: Path) -> None:
        self._path = _lock_path(ledger)
        self._pid = os.getpid()
        if _HELD.get(self._path) == self._pid:
            raise LedgerBusy(f"{ledger} is already written by this process (pid {self._pid}). Close the first writer.")
        self._file = self._acquire(ledger)
        _HELD[self._path] = self._pid
        # A writer that is thrown away unclosed, as in a notebook after an error, must not block the next one.
        self._release = weakref.finalize(self, _release, self._file, self._path, self._pid)
        os.ftruncate(self._file, 0)
        with suppress(OSError):  # on a full disk the ledger's own next line is refused, which tells it better
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, json.dumps({"pid": self._pid, "host": socket.gethostname()}).encode())

    def _acquire(self, ledger: Path) -> int:
        while True:
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
            except OSError as error:
                raise refused(ledger, error) from error
            try:
                free = _try_lock(file)
                owner = _owner(os.read(file, 1000))
                if not free or owner.get("host", socket.gethostname()) != socket.gethostname():
                    raise _busy(ledger, self._path, owner, alive=not free)
                # The holder before us removes its file: a lock on a removed file excludes nobody.
                if _same_file(file, self._path):
                    return file
            except OSError as error:
                os.close(file)
                raise PrivacyError(
                    f"{self._path} cannot be locked ({error.strerror}), so a second run could hide its steps. Keep the "
                    "run on a file system with POSIX locks."
                ) from error
            except LedgerBusy:
                os.close(file)
                raise
            os.close(file)

    def release(self) -> None:
        """Let others write. In a forked child this only forgets the lock, which is the parent's."""
        self._release()


def _release(file: int, path: Path, pid: int) -> None:
    if os.getpid() == pid:
        with suppress(OSError):  # Windows does not remove an open file; the next writer takes it over
            path.unlink()
        _HELD.pop(path, None)
    os.close(file)


def writer_of(ledger: Path) -> str | None:
    """Return who writes the ledger now, as ``"pid … on …"``; None if nobody does."""
    path = _lock_path(ledger)
    if _HELD.get(path) == os.getpid():
        return f"pid {os.getpid()} on {socket.gethostname()}"
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        owner = _owner(os.read(file, 1000))
        ours = owner.get("host", socket.gethostname()) == socket.gethostname()
        return None if ours and _try_lock(file, shared=True) else f"pid {owner.get('pid')} on {owner.get('host')}"
    finally:
        os.close(file)


def _lock_path(ledger: Path) -> Path:
    real = ledger.resolve()
    return real.with_name(f"{real.name}.lock")


def _try_lock(file: int, *, shared: bool = False) -> bool:
    """Lock ``file`` if nobody else has; it is given back when the file is closed."""
    try:
        if sys.platform == "win32":
            os.lseek(file, _OFFSET, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if sys.platform != "win32" and error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    return True


def _same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _owner(text: bytes) -> dict[str, object]:
    try:
        owner = json.loads(text)
    except ValueError:  # its owner has not written yet, or was killed before
        return {}
    return owner if isinstance(owner, dict) else {}


def _busy(ledger: Path, lock: Path, owner: dict[str, object], *, alive: bool) -> LedgerBusy:
    who = f"pid {owner.get('pid', 'unknown')} on host {owner.get('host', socket.gethostname())}"
    if alive:
        return LedgerBusy(f"{ledger} is being written by {who}. Wait until that run has ended, or stop it.")
    return LedgerBusy(
        f"{ledger} was last written by {who} and never given back; whether it still runs cannot be seen from "
        f"{socket.gethostname()}. Make sure that it has ended, then delete {lock} and start again."
    )
