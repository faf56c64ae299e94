"""The demo's runs in MLflow: one for the comparison, and one below it for each training and each row."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger

import pvision
from pvision.callbacks._provenance import git_commit, versions
from pvision.cli.demo.results import Row
from pvision.cli.tracking import ROOT
from pvision.errors import MissingExtraError
from pvision.files import write_whole

__all__ = ["Tracked"]


class Tracked:
    """Where the demo keeps what it makes: MLflow, and the run's folder under ``mlruns/``.

    Attributes:
        folder: of the comparison's own run.
        pictures: the paths of the plots so far.
        uri: MLflow's tracking address.

    Raises:
        MissingExtraError: if mlflow is not installed.
    """

    def __init__(self) -> None:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise MissingExtraError("mlflow", "mlflow", "Tracking the demo") from error
        root = Path(ROOT)
        if not (root / "mlflow.db").exists():
            print(f"Setting up {root / 'mlflow.db'} (about 10 s, once)", file=sys.stderr)
        root.mkdir(exist_ok=True)
        self.uri = f"sqlite:///{root}/mlflow.db"
        self._client: Any = MlflowClient(self.uri)
        own = self.logger("comparison")
        self._experiment, self._run = str(own.experiment_id), str(own.run_id)
        self.folder = root / self._experiment / self._run
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pictures: list[Path] = []

    def logger(self, name: str, *, below: str | None = None) -> MLFlowLogger:
        """Return the logger of a new run; ``below`` is the id of the run under which it is shown."""
        tags = {"pvision.version": pvision.__version__, "git.commit": git_commit() or "none"}
        if below is not None:
            tags["mlflow.parentRunId"] = below
        return MLFlowLogger("pvision", run_name=f"demo: {name}", tracking_uri=self.uri, tags=tags, save_dir=ROOT)

    def training(self, name: str) -> MLFlowLogger:
        """Return the logger of a training of the comparison."""
        return self.logger(name, below=self._run)

    def picture(self, path: Path) -> None:
        """Keep a picture as an artifact."""
        self.pictures.append(path)
        self._client.log_artifact(self._run, str(path))

    def row(self, row: Row) -> None:
        """Log a row as a run of its own."""
        logger = self.training(f"{row.method}, {row.region}")
        logger.log_hyperparams({"method": row.method, "region": row.region, "epsilon": row.epsilon})
        logger.log_metrics({name: value for name, value in row.metrics.items() if value != float("inf")})
        logger.finalize("success")

    def finish(self, rows: Sequence[Row], *, text: str, seconds: float) -> Path:
        """End the comparison's run and return the path of its summary."""
        summary = {
            "rows": [asdict(row) for row in rows],
            "wall_seconds": round(seconds, 1),
            "versions": versions(),
            "git_commit": git_commit(),
        }
        path = self.folder / "summary.json"
        write_whole(path, json.dumps(summary, indent=2).replace("Infinity", '"inf"'))
        self._client.log_artifact(self._run, str(path))
        self._client.log_text(self._run, text, "comparison.txt")
        self._client.set_terminated(self._run)
        return path
