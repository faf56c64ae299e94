"""The privacy ledger of a Lightning run: where it lies, what a checkpoint keeps of it, when it is closed."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from pvision.errors import LedgerMismatch, PrivacyError
from pvision.privacy import LedgerMark, PrivacyLedger, PrivacySpec, Ranks
from pvision.training.run_files import is_trial, run_folder

__all__ = ["RunLedger"]

_NAME = "ledger.jsonl"


class RunLedger:
    """The one ledger of a run, kept by rank 0, across its checkpoints and resumptions.

    A new run begins ``ledger.jsonl`` in its folder, beside ``checkpoints/``. A resumed one goes on in the ledger of
    the run that wrote the checkpoint, wherever its own folder is.
    """

    def __init__(self) -> None:
        self.ledger: PrivacyLedger | None = None
        """The open ledger, on rank 0."""
        self.path: Path | None = None
        """Where it lies, also after it was closed; None in memory."""
        self.is_open = False
        """Whether a run goes on; on every rank."""
        self._mark: LedgerMark | None = None
        self._resumed: Path | None = None

    def open(self, trainer: pl.Trainer, spec: PrivacySpec, *, num_units: int, fingerprint: str) -> None:
        """Begin a ledger, or go on in that of the checkpoint; a collective.

        Raises:
            PrivacyError: if the ledger is missing, changed, of another run, in use, or cannot be written.
        """
        ranks, refusal = Ranks(), None
        if ranks.first:
            try:
                self.ledger = self._opened(trainer, spec, num_units=num_units, fingerprint=fingerprint)
                self.path = self.ledger.path
            except PrivacyError as error:
                refusal = error
        refused = ranks.count_of_first(int(refusal is not None))
        if refusal is not None:
            raise refusal
        if refused:
            raise PrivacyError("Rank 0 could not open the privacy ledger; its own message says why.")
        self.is_open = True

    def close(self) -> None:
        """Give back what was reserved and did not run, and let others write."""
        self.is_open = False
        if self.ledger is not None:
            ledger, self.ledger = self.ledger, None
            self._mark = ledger.mark()
            ledger.close()

    def state(self) -> dict[str, Any] | None:
        """Return what a checkpoint must keep, as plain values."""
        mark = self.ledger.mark() if self.ledger is not None else self._mark
        if mark is None:
            return None
        return {**mark._asdict(), "path": None if self.path is None else str(self.path.absolute())}

    def load(self, state: dict[str, Any] | None, *, checkpoint: Path | None) -> None:
        """Take from what `state` gave which ledger is to be continued.

        Args:
            state: as a checkpoint kept it.
            checkpoint: the checkpoint, beside which the ledger lies in most cases; None for a run of this process.

        Raises:
            LedgerMismatch: if the state names none, or there is no telling where it lies.
        """
        was = None if state is None else state.get("path")
        if state is None or (checkpoint is None and was is None):
            raise LedgerMismatch(
                "The checkpoint names no privacy ledger (a fast_dev_run keeps none), so what its run has spent is "
                "unknown. Start anew, without --ckpt_path."
            )
        self._mark = LedgerMark(id=state["id"], length=state["length"], hash=state["hash"])
        self._resumed = _ledger_of(checkpoint, self._mark, was=None if was is None else Path(was))

    def _opened(self, trainer: pl.Trainer, spec: PrivacySpec, *, num_units: int, fingerprint: str) -> PrivacyLedger:
        if self._resumed is not None:
            return PrivacyLedger.resume(
                self._resumed, spec, num_records=num_units, fingerprint=fingerprint, mark=self._mark
            )
        path = None if is_trial(trainer) else _free(run_folder(trainer))
        return PrivacyLedger.create(path, spec, num_records=num_units, fingerprint=fingerprint)


def _free(folder: Path) -> Path:
    """Return a path for a new ledger: without a logger, several runs share a folder."""
    path, number = folder / _NAME, 1
    while path.exists():
        number += 1
        path = folder / f"ledger_{number}.jsonl"
    return path


def _ledger_of(checkpoint: Path | None, mark: LedgerMark, *, was: Path | None) -> Path:
    """Return the ledger with the mark's id: beside the checkpoint or its folder, which may have moved, or where it was.

    A resumed run writes its checkpoints into a folder of its own, and charges in the first run's. If none is found,
    the path at which it should lie is returned.
    """
    folders = [] if checkpoint is None else [checkpoint.absolute().parent.parent, checkpoint.absolute().parent]
    beside = [path for folder in folders for path in sorted(folder.glob("ledger*.jsonl"))]
    for path in [*beside, *([was] if was is not None and was.is_file() else [])]:
        with path.open(encoding="utf-8", errors="replace") as file:
            if mark.id in file.readline():
                return path
    return was if was is not None and not folders else folders[0] / _NAME
