"""Whether a ledger is the one that a run has to go on in."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pvision.errors import LedgerMismatch, LedgerTampered
from pvision.privacy.ledger.lines import LedgerMark
from pvision.privacy.ledger.reading import LedgerRecord
from pvision.privacy.spec import PrivacySpec

__all__ = ["check_mark", "check_same_run"]


def check_same_run(record: LedgerRecord, spec: PrivacySpec, *, num_records: int, fingerprint: str, path: Path) -> None:
    """Refuse a ledger of another statement or other data.

    Raises:
        LedgerMismatch: naming what differs, with both values.
    """
    theirs = _comparable(record.spec, noise=float(record.header["noise_multiplier"]))
    ours = _comparable(spec, noise=spec.noise)
    theirs |= {"num_records": record.header["num_records"], "data": record.header["fingerprint"]}
    ours |= {"num_records": num_records, "data": fingerprint}
    differing = [name for name, value in ours.items() if theirs[name] != value]
    if differing:
        told = "; ".join(f"{name} was {theirs[name]!r} and is {ours[name]!r}" for name in differing)
        raise LedgerMismatch(
            f"{path} is the ledger of another run: {told}. Resume with the settings and data that the run began with, "
            "or start a new run."
        )


def _comparable(spec: PrivacySpec, *, noise: float) -> dict[str, Any]:
    """Return what has to agree. The noise counts as it is: a target that leads to the same noise is no difference."""
    fields = asdict(spec) | {"noise_multiplier": noise}
    del fields["target_epsilon"]
    return {f"privacy.{name}": value for name, value in fields.items()}


def check_mark(record: LedgerRecord, mark: LedgerMark, *, path: Path) -> None:
    """Refuse a ledger that is no continuation of what a checkpoint saw; being longer is expected.

    Raises:
        LedgerTampered: if it is shorter, another one, or was rewritten before the mark.
    """
    known = record.mark()
    if mark.id != known.id:
        fault = f"the checkpoint belongs to ledger {mark.id}, and this is ledger {known.id}"
    elif known.length < mark.length:
        fault = f"the checkpoint saw {mark.length} bytes of it, and {known.length} are left: steps were cut off"
    elif record.ends.get(mark.length) != mark.hash:
        fault = f"its first {mark.length} bytes are not those that the checkpoint saw"
    else:
        return
    raise LedgerTampered(
        f"{path} does not go on from the checkpoint: {fault}. Restore the original ledger.jsonl of the "
        "checkpoint's run."
    )
