"""Where a run keeps its files, and how MLflow gets a copy of them."""

import os
from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["copy_to_mlflow", "is_trial", "run_folder", "run_id", "write_whole"]


def run_folder(trainer: pl.Trainer) -> Path:
    """Return the folder in which the run's checkpoints lie too: ``save_dir/name/version`` of the first logger.

    Without a logger it is ``trainer.default_root_dir``. Meant for rank 0 once the loggers have started: other ranks
    do not know MLflow's run id.
    """
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version)


def is_trial(trainer: pl.Trainer) -> bool:
    """Return whether this is a ``fast_dev_run``, which leaves no traces."""
    return bool(getattr(trainer, "fast_dev_run", False))


def run_id(trainer: pl.Trainer) -> str | None:
    """Return the id of the first MLflow run, None if MLflow does not track this one."""
    return next((logger.run_id for logger in trainer.loggers if isinstance(logger, MLFlowLogger)), None)


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either all of it or what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def copy_to_mlflow(trainer: pl.Trainer, path: Path, *, tags: Mapping[str, str]) -> None:
    """Give each MLflow run ``path`` as an artifact, and tags; a store that does not answer costs a warning only."""
    for logger in trainer.loggers:
        if not isinstance(logger, MLFlowLogger):
            continue
        try:
            logger.experiment.log_artifact(logger.run_id, str(path))
            for name, value in tags.items():
                logger.experiment.set_tag(logger.run_id, name, value)
        except Exception as error:  # whatever client and server can fail with: the file itself is safe
            rank_zero_warn(f"MLflow did not take {path.name} ({error}); it lies at {path}.")
