"""`pvision ledger RUN`: what a run may claim, read from its ledger alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvision.cli import runs
from pvision.errors import ConfigError

if TYPE_CHECKING:
    from pvision.privacy.ledger.reading import LedgerRecord

__all__ = ["beside", "find", "show"]

_NAME = "ledger.jsonl"
_LEDGERS = "ledger*.jsonl"


def show(run: str, *, as_json: bool = False) -> str:
    """Return what the ledger of ``run`` says, for a person or as JSON.

    Args:
        run: as for `find`.
        as_json: one JSON object instead of lines of text.

    Raises:
        ConfigError: if there is no such run.
        PrivacyError: if its ledger is missing, was edited, or is of a newer pvision.
    """
    path = find(run)  # before torch is loaded, which a misspelt name need not wait for
    from pvision.privacy.ledger.lock import writer_of
    from pvision.privacy.ledger.reading import read_ledger

    facts = _facts(read_ledger(path), path=path, writer=writer_of(path))
    return json.dumps(facts, indent=2) if as_json else _text(facts)


def find(run: str) -> Path:
    """Return the ledger of ``run``.

    Args:
        run: a run's folder, a ledger, a checkpoint or another file of the run, or the id or name of an MLflow run in
            ``mlruns``.

    Raises:
        ConfigError: if nothing or more than one thing is called so.
    """
    path = Path(run)
    if path.is_dir() or (path.is_file() and path.suffix != ".jsonl"):
        return _only(beside(path), path)
    if path.exists() or path.name == _NAME:
        return path
    folders = runs.folders(run)
    if len(folders) == 1:
        return _only(beside(folders[0]), folders[0])
    if folders:
        raise ConfigError(
            f"{len(folders)} runs are called {run!r}. Name one by its folder: {', '.join(map(str, folders))}."
        )
    raise ConfigError(
        f"there is no run {run!r}. Name a run's folder, its {_NAME}, one of its checkpoints, or the id or name of an "
        f"MLflow run, in the folder from which it was started (which holds {runs.ROOT}/)."
    )


def beside(path: Path) -> list[Path]:
    """Return the ledgers of the run in whose folder, or in whose ``checkpoints``, ``path`` lies; one in most cases."""
    folder = path if path.is_dir() else path.absolute().parent
    above = path.suffix == ".ckpt" or folder.name == "checkpoints"
    inside = sorted(folder.glob(_LEDGERS))
    return inside or (sorted(folder.absolute().parent.glob(_LEDGERS)) if above else [])


def _only(ledgers: list[Path], path: Path) -> Path:
    if len(ledgers) > 1:  # of runs without a logger, which share a folder
        raise ConfigError(
            f"{len(ledgers)} ledgers lie in the folder of {path}. Name one: {', '.join(map(str, ledgers))}."
        )
    if ledgers:
        return ledgers[0]
    if path.is_dir() and (elsewhere := _told_by_summary(path)):
        return elsewhere
    return (path if path.is_dir() else path.absolute().parent.parent if path.suffix == ".ckpt" else path.parent) / _NAME


def _told_by_summary(folder: Path) -> Path | None:
    """Return the ledger that a run continued in another run's folder, as its summary says; None if it is not there."""
    try:
        path = Path(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["ledger"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return path if path.is_file() else None


def _facts(record: "LedgerRecord", *, path: Path, writer: str | None) -> dict[str, Any]:
    # An open session that nobody writes any more has crashed as well.
    crashed = record.open and writer is None
    header, report = record.header, record.report()
    return {
        "ledger": str(path),
        "verified": True,
        "private": report.private,
        "id": header["id"],
        "created": header["created"],
        "pvision": header["pvision"],
        "num_records": header["num_records"],
        "fingerprint": header["fingerprint"],
        "relation": record.spec.relation,
        "planned_steps": record.spec.steps,
        "charged_steps": record.charged,
        "sessions": record.sessions,
        "crashes": record.crashes + crashed,
        "torn_lines": record.torn,
        "lost_steps": record.lost + (record.reserved if crashed else 0),
        "lines": len(record.entries) + 1,
        "writer": writer,
        "report": report.as_dict(),
    }


def _text(facts: Mapping[str, Any]) -> str:
    report = facts["report"]
    planned, charged = facts["planned_steps"], facts["charged_steps"]
    sensitive = f" (sensitive: {report['polarity']})" if report.get("polarity") else ""
    rows = {
        "ledger": facts["ledger"],
        "chain": f"verified, {facts['lines']} lines",
        "begun": f"{facts['created']} by pvision {facts['pvision']}, on {facts['num_records']} {report['unit']}s",
        "statement": f"{report['mechanism']}, for one {report['unit']}, relation {facts['relation']}, mask "
        f"{report['mask']}{sensitive}, label {report['label']}",
        "noise": f"noise_multiplier {_short(report['noise_multiplier'])}, sample_rate {_short(report['sample_rate'])} "
        f"({report['sampling']}), "
        f"max_grad_norm {_short(report['max_grad_norm'])}, delta {_short(report['delta'])}",
        "steps": f"{charged} charged of {planned} planned",
        "epsilon": ", ".join(
            f"{name} {_short(report[f'epsilon_{name}'])}" for name in ("zero_out", "replace", "add_remove")
        ),
        "not protected": report["not_protected"],
        "history": f"sessions {facts['sessions']}, crashes {facts['crashes']}, torn lines {facts['torn_lines']}; "
        f"charged but perhaps not run: {facts['lost_steps']} steps at most",
        "writer": facts["writer"] or "none",
    }
    lines = [f"{name:<14} {value}" for name, value in rows.items()]
    if not facts["private"]:
        lines.insert(0, "NOT PRIVATE: the noise can be computed by whoever knows its seed, so no ε below is a promise.")
    return "\n".join(lines)


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
