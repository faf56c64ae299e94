"""The privacy ledger: every release is written down, durably, before it happens.

A count that lives in checkpoints forgets what ran after the last of them. This one may count too many steps after a
crash, never too few. The format is explained in docs/ledger.md.
"""

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from pvision import __version__
from pvision.checks import positive_int
from pvision.errors import LedgerMismatch, PrivacyError
from pvision.privacy.ledger.file import LedgerFile, create_whole, make_folder
from pvision.privacy.ledger.lines import FORMAT, ROOT_HASH, LedgerMark, encode
from pvision.privacy.ledger.lock import LedgerLock
from pvision.privacy.ledger.matching import check_mark, check_same_run
from pvision.privacy.ledger.reading import LedgerRecord, parse_ledger
from pvision.privacy.ledger.tally import torn_entry
from pvision.privacy.spec import PrivacySpec

__all__ = ["PrivacyLedger"]


class PrivacyLedger:
    """The writer of one ledger. Make it with `create` or `resume`, and close it at the end.

    Attributes:
        path: the file; None if the ledger lives in memory only.
        spec: the privacy statement that it charges.

    Guarantee:
        Whatever ends the process, the steps that the file charges are at least those for which `charge` returned.

        ===========================================  =====================================================
        event                                        result
        ===========================================  =====================================================
        `charge` returns                             the step is on the disk, in its block's reservation
        `settle`, `close`                            what was reserved and did not run is given back
        killed between                               the reservation stays charged: at most one block too many
        killed while writing                         the torn line is charged as one block
        disk full, interrupted write                 `charge` raises, then and ever after; nothing was released
        ``spec.steps`` are charged                   `charge` raises
        `charge` in a forked child, after `close`    raises
        ===========================================  =====================================================
    """

    def __init__(
        self,
        record: LedgerRecord,
        spec: PrivacySpec,
        *,
        file: LedgerFile | None,
        lock: LedgerLock | None,
        path: Path | None,
    ) -> None:
        self.path = path
        self.spec, self._header = spec, record.header
        self._end, self._charged = record.mark(), record.charged
        self._file, self._lock = file, lock
        self._pid = os.getpid()
        self._unused = 0
        self._settled = False
        self._refusal: str | None = None  # why nothing more is written

    @classmethod
    def create(
        cls, path: Path | None, spec: PrivacySpec, *, num_records: int, fingerprint: str = "", block: int | None = None
    ) -> Self:
        """Begin a ledger for a new run.

        Args:
            path: where no file is yet; None keeps the ledger in memory, for runs that leave nothing behind.
            spec: the privacy statement of the run.
            num_records: units in the training set.
            fingerprint: what identifies the training data; resuming on other data is refused.
            block: steps to reserve at once, a two-hundredth of ``spec.steps`` if None. More costs less time, and up to
                so many steps per crash.

        Raises:
            PrivacyError: if the file exists or cannot be written.
            LedgerBusy: if somebody else is about to create it.
        """
        header = {
            "kind": "header",
            "format": FORMAT,
            "id": secrets.token_hex(16),
            "created": _now(),
            "pvision": __version__,
            "private": spec.private,
            "accountant": spec.accountant,
            "noise_multiplier": spec.noise,
            "block": max(1, spec.steps // 200) if block is None else positive_int("block", block),
            "num_records": positive_int("num_records", num_records),
            "fingerprint": fingerprint,
            "spec": asdict(spec),
        }
        line, _ = encode(ROOT_HASH, header)
        if path is None:
            return cls._opened(parse_ledger(line, path=Path("in memory")), spec, path=None, lock=None, mark=None)
        make_folder(path)
        lock = LedgerLock(path)
        try:
            if path.exists():
                raise PrivacyError(
                    f"{path} exists: a ledger is never overwritten, because its steps would be forgotten. Resume from "
                    "a checkpoint of that run, or start in another folder."
                )
            create_whole(path, line)
            return cls._opened(parse_ledger(line, path=path), spec, path=path, lock=lock, mark=None)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def resume(
        cls,
        path: Path,
        spec: PrivacySpec,
        *,
        num_records: int,
        fingerprint: str = "",
        mark: LedgerMark | None = None,
    ) -> Self:
        """Go on in the ledger of an interrupted run; what the ledger charges beyond the checkpoint stays charged.

        Args:
            path: the ledger.
            spec: the privacy statement, the same as before.
            num_records: units in the training set, as many as before.
            fingerprint: what identifies the training data, the same as before.
            mark: the position that the checkpoint carries. Without it a ledger whose end was cut off is not noticed.

        Raises:
            LedgerTampered: if the ledger was edited, or is not a continuation of what the checkpoint saw.
            LedgerMismatch: if there is none, or it is of another run; the message names what differs.
            LedgerBusy: if another run is writing it.
        """
        if not path.is_file():
            raise LedgerMismatch(
                f"There is no privacy ledger at {path}, so what the checkpoint's run has spent is unknown. Put its "
                "ledger.jsonl back in its place, next to checkpoints/."
            )
        lock = LedgerLock(path)
        try:
            record = parse_ledger(path.read_bytes(), path=path)
            check_same_run(record, spec, num_records=num_records, fingerprint=fingerprint, path=path)
            if mark is not None:
                check_mark(record, mark, path=path)
            return cls._opened(record, spec, path=path, lock=lock, mark=mark)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _opened(
        cls,
        record: LedgerRecord,
        spec: PrivacySpec,
        *,
        path: Path | None,
        lock: LedgerLock | None,
        mark: LedgerMark | None,
    ) -> Self:
        file = None if path is None else LedgerFile(path)
        ledger = cls(record, spec, file=file, lock=lock, path=path)
        seen = None if mark is None else {"length": mark.length, "hash": mark.hash}
        try:
            if record.tail:  # on the same line, so that no crash leaves a broken line that looks complete
                ledger._end = record.mark()._replace(length=record.length + len(record.tail))
                ledger._append(torn_entry(record.tail, block=int(record.header["block"])), charged=record.charged)
            entry = {"kind": "open", "pid": ledger._pid, "host": socket.gethostname(), "time": _now(), "mark": seen}
            ledger._append(entry, charged=record.charged)
        except BaseException:
            if file is not None:
                file.close()
            raise
        return ledger

    @property
    def spent(self) -> int:
        """Steps released, or lost in a crash: all that is charged but what this writer has in reserve."""
        return self._charged - self._unused

    @property
    def charged(self) -> int:
        """Steps that ε has to be computed for according to the file."""
        return self._charged

    @property
    def id(self) -> str:
        """The random id of the ledger."""
        return str(self._header["id"])

    def charge(self) -> None:
        """Charge one release. Call it before the release, and release nothing if it raises.

        Raises:
            PrivacyError: if all planned steps are charged, the file cannot be written, or this is no writer any more.
        """
        self._check_writer()
        if not self._unused:
            self._reserve()
        self._unused -= 1

    def _reserve(self) -> None:
        left = self.spec.steps - self._charged
        if left <= 0:
            raise PrivacyError(
                f"All {self.spec.steps} steps of the privacy statement are charged, those lost in crashes among them, "
                "so no further step is released. Stop here; more steps need a new run with a larger privacy.steps."
            )
        steps = min(int(self._header["block"]), left)
        noise = {"noise_multiplier": self._header["noise_multiplier"], "sample_rate": self.spec.sample_rate}
        self._append({"kind": "reserve", "steps": steps, **noise}, charged=self._charged + steps, unused=steps)

    def settle(self) -> None:
        """Give back what was reserved and did not run. `charge` may follow; it reserves anew."""
        self._check_writer()
        if not self._settled:
            self._append({"kind": "settle", "unused": self._unused}, charged=self.spent)

    def close(self) -> None:
        """Settle, and let others write. A ledger that could not be written keeps its reservation charged."""
        if os.getpid() != self._pid:
            return  # a forked copy has nothing to give back
        try:
            if self._refusal is None:
                self.settle()
        finally:
            self._refusal = self._refusal or "it is closed"
            if self._file is not None:
                self._file.close()
            if self._lock is not None:
                self._lock.release()
            self._file = self._lock = None

    def mark(self) -> LedgerMark:
        """Return the present end of the ledger, for a checkpoint to carry."""
        return self._end

    def _append(self, entry: Mapping[str, Any], *, charged: int, unused: int = 0) -> None:
        line, digest = encode(self._end.hash, entry)
        # A signal may interrupt at any point: until the line is whole and counted, no other may follow it.
        self._refusal = "its last line could not be written as a whole"
        if self._file is not None:
            self._file.append(line)
        self._end = LedgerMark(self.id, self._end.length + len(line), digest)
        self._charged, self._unused = charged, unused
        self._settled = entry["kind"] == "settle"
        self._refusal = None

    def _check_writer(self) -> None:
        if os.getpid() != self._pid:
            raise PrivacyError(
                f"The privacy ledger {self.path or 'in memory'} belongs to process {self._pid}; this is a forked copy, "
                f"process {os.getpid()}. Train in the process that opened the ledger."
            )
        if self._refusal is not None:
            raise PrivacyError(
                f"The privacy ledger {self.path or 'in memory'} takes no more steps: {self._refusal}. Resume from the "
                "last checkpoint, which opens it anew."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a copied module must not count for itself

    def __reduce__(self) -> NoReturn:
        raise PrivacyError(
            "A privacy ledger cannot be pickled: a copy would count apart. Let the other side resume it."
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
