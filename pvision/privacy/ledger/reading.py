"""Read and verify a privacy ledger. Reading takes no lock and changes nothing: ε is a function of the file alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pvision.errors import LedgerTampered, PrivacyError
from pvision.privacy.ledger.lines import FORMAT, ROOT_HASH, LedgerMark, decode
from pvision.privacy.ledger.tally import Tally
from pvision.privacy.report import PrivacyReport
from pvision.privacy.spec import PrivacySpec

__all__ = ["LedgerRecord", "ledger_report", "parse_ledger", "read_ledger"]


@dataclass(frozen=True)
class LedgerRecord:
    """What a verified ledger says.

    Attributes:
        header: the first line: ``id``, ``created``, ``pvision``, ``spec``, ``noise_multiplier``, ``num_records``,
            ``fingerprint``, ``accountant``, ``block``, ``private``.
        spec: the privacy statement in the header.
        entries: the lines after it, in order.
        charged: releases that ε is computed for: reserved, not given back, plus one block for each torn line.
        sessions: how many writers opened the ledger.
        crashes: how many of those before the last left without settling.
        open: whether the last one has not settled: it still writes, or crashed too.
        reserved: steps in the last one's newest reservation, 0 once it settled.
        torn: lines that were cut while they were written.
        lost: how many of the charged releases may not have run, at most, because of the crashes and the torn lines.
        length: bytes up to and including the last whole line.
        hash: the hash of that line.
        tail: the bytes after it: the beginning of a line that was cut, charged already.
        ends: the hash of each line, by the byte at which it ends.
    """

    header: Mapping[str, Any]
    spec: PrivacySpec
    entries: tuple[Mapping[str, Any], ...]
    charged: int
    sessions: int
    crashes: int
    open: bool
    reserved: int
    torn: int
    lost: int
    length: int
    hash: str
    tail: bytes = field(repr=False)
    ends: Mapping[int, str] = field(repr=False)

    def mark(self) -> LedgerMark:
        """Return the position after the last whole line."""
        return LedgerMark(str(self.header["id"]), self.length, self.hash)

    def report(self) -> PrivacyReport:
        """Return what may be claimed for all that is charged, with the noise that really was added."""
        noise = float(self.header["noise_multiplier"])
        return replace(self.spec, target_epsilon=None, noise_multiplier=noise).report(steps=self.charged)


def read_ledger(path: str | Path) -> LedgerRecord:
    """Return what the ledger at ``path`` says, after verifying each line of it.

    Raises:
        LedgerTampered: if a line was edited, removed, added, doubled or moved; the message names the first such line.
            Lines missing at the end show only against the mark in a checkpoint.
        PrivacyError: if there is no ledger, or a newer pvision wrote it.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PrivacyError(
            f"There is no privacy ledger to read at {path} ({error.strerror}). A private run keeps its ledger.jsonl in "
            "its folder, next to checkpoints/; name that folder or file."
        ) from error
    return parse_ledger(data, path=path)


def ledger_report(path: str | Path) -> PrivacyReport:
    """Return what may be claimed, computed from the ledger alone.

    Raises:
        PrivacyError: as `read_ledger`.
    """
    return read_ledger(path).report()


def parse_ledger(data: bytes, *, path: Path) -> LedgerRecord:
    """Return what ``data``, the content of a ledger, says.

    Args:
        data: all bytes of the file.
        path: where it lies, for messages.

    Raises:
        PrivacyError: as `read_ledger`.
    """
    *lines, tail = data.split(b"\n")
    header: dict[str, Any] = {}
    entries, ends = [], {}
    tally = Tally(block=1)
    length, previous = 0, ROOT_HASH
    for number, line in enumerate(lines, start=1):
        try:
            before, entry, previous = decode(line, previous)
            if number == 1:
                header = entry
                _check_format(header, path)
                tally = Tally(
                    block=header["block"], released_at=(header["noise_multiplier"], header["spec"]["sample_rate"])
                )
            else:
                tally.add(entry, before=before)
                entries.append(entry)
        except PrivacyError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _tampered(path, number, error) from error
        length += len(line) + 1
        ends[length] = previous
    if not lines:
        raise _tampered(path, 1, "it is not whole, though the first line is never written in parts")
    return LedgerRecord(
        header=header,
        spec=_spec(header, path),
        entries=tuple(entries),
        charged=tally.charged + (tally.block if tail else 0),
        sessions=tally.sessions,
        crashes=tally.crashes,
        open=tally.open,
        reserved=tally.reserved,
        torn=tally.torn + bool(tail),
        lost=tally.lost + (tally.block if tail else 0),
        length=length,
        hash=previous,
        tail=tail,
        ends=ends,
    )


def _tampered(path: Path, number: int, reason: object) -> LedgerTampered:
    return LedgerTampered(
        f"{path}, line {number}, is not what was written: {reason}. The ledger was edited, cut or exchanged, so "
        "nothing can be claimed from it. Restore the original ledger.jsonl."
    )


def _check_format(header: Mapping[str, Any], path: Path) -> None:
    if header["kind"] != "header" or not isinstance(header["block"], int) or header["block"] < 1:
        raise ValueError("it is no header")
    if header["format"] != FORMAT:
        raise PrivacyError(
            f"{path} is a ledger of format {header['format']!r}, written by pvision {header.get('pvision')}; this "
            f"pvision reads format {FORMAT}. Read it with the pvision that wrote it."
        )


def _spec(header: Mapping[str, Any], path: Path) -> PrivacySpec:
    try:
        return PrivacySpec(**header["spec"])
    except TypeError as error:  # a field that this version does not know, or one that did not exist then
        raise PrivacyError(
            f"{path} states its privacy in the words of pvision {header.get('pvision')}, which this version does not "
            f"know ({error}). Read it with the pvision that wrote it."
        ) from error
