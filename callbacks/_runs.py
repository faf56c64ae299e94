"""How MLflow gets a copy of a run's files."""

from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_warn

from pvision.training.run_files import run_loggers

__all__ = ["copy_to_mlflow", "run_id"]


def run_id(trainer: pl.Trainer) -> str | None:
    """Return the id of the first MLflow run, None if MLflow does not track this one."""
    return next((logger.run_id for logger in run_loggers(trainer) if isinstance(logger, MLFlowLogger)), None)


def copy_to_mlflow(trainer: pl.Trainer, path: Path, *, tags: Mapping[str, str]) -> None:
    """Give each MLflow run ``path`` as an artifact, and tags; a store that does not answer costs a warning only."""
    for logger in run_loggers(trainer):
        if not isinstance(logger, MLFlowLogger):
            continue
        try:
            logger.experiment.log_artifact(logger.run_id, str(path))
            for name, value in tags.items():
                logger.experiment.set_tag(logger.run_id, name, value)
        except Exception as error:  # whatever client and server can fail with: the file itself is safe
            rank_zero_warn(f"MLflow did not take {path.name} ({error}); it lies at {path}.")
