"""Where a run keeps its files, and how a file is written whole."""

import os
from pathlib import Path

import lightning.pytorch as pl

__all__ = ["is_trial", "run_folder", "write_whole"]


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


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either all of it or what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
