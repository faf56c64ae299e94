"""What a run ended with, in one small file."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from pvision.callbacks._provenance import git_commit, peak_memory, seed, versions
from pvision.callbacks._runs import copy_to_mlflow, run_id
from pvision.files import write_whole
from pvision.training.run_files import is_part_of_run, is_trial, run_folder
from pvision.training.trainer_parts import callbacks_of

__all__ = ["ReportsPrivacy", "RunSummary"]


@runtime_checkable
class ReportsPrivacy(Protocol):
    """A LightningModule that can say what may be claimed of its training."""

    def privacy_report(self) -> Any:
        """Return the claim: a dataclass, a mapping, or an object with ``as_dict()``."""


@runtime_checkable
class KeepsLedger(Protocol):
    """A LightningModule whose noisy steps are charged in a file."""

    @property
    def ledger_path(self) -> Path | None:
        """Where the ledger lies, None if there is none."""


@runtime_checkable
class SummarisesRun(Protocol):
    """A callback that has something to say in the run's summary."""

    def summary_metrics(self) -> Mapping[str, float | str]:
        """Return the metrics that the run ends with; a text, such as a hash, stands there as it is."""


class RunSummary(Callback):
    """Write ``summary.json`` into the run's folder, and to MLflow if that tracks the run.

    The file is written when fit, validate, test or predict ends, also by an exception; stages of one run add to it.
    While a run along a stream goes on, its status there is ``"RUNNING"``.
    A resumption that is refused before it begins leaves the file of the run that it would have continued.
    MLflow gets a copy of the run's privacy ledger too, and of the split of a stream, ``stream.json``.
    Infinite and undefined numbers stand in it as the strings ``"inf"``, ``"-inf"`` and ``"nan"``. Nothing is written
    under ``fast_dev_run``.

    Args:
        name: what to call the run in the file, for example its recipe.

    Attributes:
        path: the file, once it is written on this rank; only rank 0 writes.

    Example:
        >>> RunSummary(name="first try").path is None
        True
    """

    def __init__(self, *, name: str | None = None) -> None:
        self.name = name
        self.path: Path | None = None
        self._folder: Path | None = None
        self._begin()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.is_global_zero and not is_trial(trainer):
            folder = run_folder(trainer)
            if folder != self._folder:
                self._begin()
            self._folder = folder
        self._stages.append(stage)

    @override
    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = True

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = True

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._collect(trainer, pl_module)
        self._write(trainer, "RUNNING" if is_part_of_run(trainer) else "FINISHED")

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if not self._stages:
            return  # the run had not begun: its loggers must not be started now
        resumes = trainer.ckpt_path is not None and self._stages == ["fit"] and not self._began
        if resumes and self._folder is not None and (self._folder / "summary.json").exists():
            return
        self._write_failure(trainer, pl_module, exception)

    def on_stream_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, error: BaseException | None) -> None:
        """Say how a run of several fits ended; `pvision.training.streams.fit_stream` calls this."""
        if error is None:
            self._write(trainer, "FINISHED")
        elif self._stages:
            self._write_failure(trainer, pl_module, error)

    def _write_failure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, error: BaseException) -> None:
        try:
            self._collect(trainer, pl_module)
        except Exception as another:
            error.add_note(f"summary.json is incomplete: {another}")
        # After Ctrl-C Lightning leaves by SystemExit, and so it does after SIGTERM.
        self._write(trainer, "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")

    def _begin(self) -> None:
        self._stages: list[str] = []
        self._began = False
        self._metrics: dict[str, float | str] = {}
        self._texts: dict[str, str] = {}
        self._privacy: dict[str, Any] | None = None
        self._ledger: Path | None = None
        self._started, self._clock = datetime.now(UTC), time.monotonic()

    def _collect(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # On every rank: reading a metric may synchronise it.
        self._metrics.update({name: _plain(float(value)) for name, value in trainer.callback_metrics.items()})
        for callback in callbacks_of(trainer):
            if isinstance(callback, SummarisesRun):
                self._take(callback.summary_metrics())
        if isinstance(pl_module, ReportsPrivacy):
            if isinstance(pl_module, KeepsLedger):
                self._ledger = pl_module.ledger_path or self._ledger
            self._privacy = {name: _plain(value) for name, value in _as_dict(pl_module.privacy_report()).items()}
            for name in ("epsilon_zero_out", "epsilon_replace"):
                if name in self._privacy:
                    self._metrics[f"privacy/{name}"] = self._privacy[name]

    def _take(self, metrics: Mapping[str, float | str]) -> None:
        for name, value in metrics.items():
            if isinstance(value, str):
                self._texts[name] = value
            self._metrics[name] = value if isinstance(value, str) else _plain(float(value))

    def _write(self, trainer: pl.Trainer, status: str) -> None:
        if self._folder is None or not trainer.is_global_zero or is_trial(trainer):
            return
        summary = {
            "name": self.name,
            "status": status,
            "stages": list(dict.fromkeys(self._stages)),
            "metrics": dict(sorted(self._metrics.items())),
            "privacy": self._privacy,
            "ledger": str(self._ledger.absolute()) if self._ledger else None,
            "seed": seed(),
            "run_id": run_id(trainer),
            "git_commit": git_commit(),
            "versions": versions(),
            "started": self._started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_seconds": round(time.monotonic() - self._clock, 3),
            **{name: round(value, 1) for name, value in peak_memory().items()},
        }
        self.path = self._folder / "summary.json"
        write_whole(self.path, json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        # As tags, because among MLflow's metrics an infinite ε becomes a number.
        tags = {f"privacy.{name}": str(value) for name, value in (self._privacy or {}).items()}
        tags |= {name.replace("/", "."): text for name, text in self._texts.items()}
        copy_to_mlflow(trainer, self.path, tags=tags)
        for path in (self._ledger, self._folder / "stream.json"):
            if path is not None and path.exists() and status != "RUNNING":
                copy_to_mlflow(trainer, path, tags={})


def _as_dict(report: Any) -> Mapping[str, Any]:
    if hasattr(report, "as_dict"):
        return dict(report.as_dict())
    return dataclasses.asdict(report) if dataclasses.is_dataclass(report) else dict(report)  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: strict JSON knows no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
