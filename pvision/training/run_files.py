"""Where a run keeps its files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger

__all__ = ["is_part_of_run", "is_trial", "one_run", "run_folder", "run_loggers"]


class _Run(NamedTuple):
    folder: Path
    loggers: list[Logger]


_several_fits: WeakKeyDictionary[pl.Trainer, _Run] = WeakKeyDictionary()


@contextmanager
def one_run(trainer: pl.Trainer) -> Iterator[None]:
    """Let all fits and tests in the block belong to one run: the loggers that the Trainer has now, and their folder.

    Within it each fit may have loggers of its own; afterwards the Trainer has those of the run again.
    """
    run = _Run(run_folder(trainer), list(trainer.loggers))
    if trainer.is_global_zero:
        for logger in run.loggers:
            getattr(logger, "experiment", None)  # makes its folder before the loggers of a fit put theirs into it
    _several_fits[trainer] = run
    try:
        yield
    finally:
        del _several_fits[trainer]
        trainer.loggers = run.loggers


def is_part_of_run(trainer: pl.Trainer) -> bool:
    """Return whether the fit or test of the moment is one of several that make a run."""
    return trainer in _several_fits


def run_loggers(trainer: pl.Trainer) -> list[Logger]:
    """Return the loggers of the run, also while one of its fits has loggers of its own."""
    run = _several_fits.get(trainer)
    return list(trainer.loggers) if run is None else run.loggers


def run_folder(trainer: pl.Trainer) -> Path:
    """Return the folder in which the run's checkpoints lie too: ``save_dir/name/version`` of the first logger.

    Without a logger it is ``trainer.default_root_dir``. Meant for rank 0 once the loggers have started: other ranks
    do not know MLflow's run id.
    """
    if trainer in _several_fits:
        return _several_fits[trainer].folder
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version)


def is_trial(trainer: pl.Trainer) -> bool:
    """Return whether this is a ``fast_dev_run``, which leaves no traces."""
    return bool(getattr(trainer, "fast_dev_run", False))
