"""The loggers of an experience, below those of the run: its steps begin at 0 again."""

from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from pvision.continual.experience import Experience
from pvision.training.run_files import run_loggers

__all__ = ["finalize_run", "keep_running", "loggers_of_experience"]

_PARENT, _EXPERIENCE = "mlflow.parentRunId", "pvision.experience"


@contextmanager
def loggers_of_experience(trainer: pl.Trainer, experience: Experience) -> Iterator[None]:
    """Let the Trainer log to the experience's own loggers; afterwards to those of the run again.

    Under MLflow an experience is a child run, under CSV and TensorBoard a subfolder; any other logger stays as it is.
    """
    trainer.loggers = [_below(logger, experience, first=trainer.is_global_zero) for logger in run_loggers(trainer)]
    try:
        yield
    finally:
        trainer.loggers = run_loggers(trainer)


def keep_running(trainer: pl.Trainer) -> None:
    """Show the run as running in MLflow: Lightning calls it finished whenever a fit or test ends."""
    if not trainer.is_global_zero:
        return
    for logger in run_loggers(trainer):
        if isinstance(logger, MLFlowLogger):
            logger.experiment.update_run(logger.run_id, status="RUNNING")


def finalize_run(trainer: pl.Trainer, status: str) -> None:
    """Tell the run's loggers how it ended."""
    for logger in run_loggers(trainer):
        logger.finalize(status)


def _below(logger: Logger, experience: Experience, *, first: bool) -> Logger:
    version = logger.version
    if isinstance(logger, MLFlowLogger):
        return _child_run(logger, experience) if first else logger
    subfolder = f"{version if isinstance(version, str) else f'version_{version}'}/experience_{experience.index + 1}"
    if isinstance(logger, CSVLogger):
        flushed = logger._flush_logs_every_n_steps
        return CSVLogger(
            logger._root_dir, logger.name, version=subfolder, prefix=logger._prefix, flush_logs_every_n_steps=flushed
        )
    if isinstance(logger, TensorBoardLogger):
        return TensorBoardLogger(logger._root_dir, logger.name, version=subfolder, prefix=logger._prefix)
    return logger


def _child_run(parent: MLFlowLogger, experience: Experience) -> MLFlowLogger:
    tags = {_PARENT: parent.run_id, _EXPERIENCE: str(experience.index + 1)}
    child = MLFlowLogger(
        parent._experiment_name,
        run_name=f"experience {experience.index + 1}: {experience.name}",
        tracking_uri=parent._tracking_uri,
        tags=tags,
        save_dir=parent.save_dir,
        log_model=parent._log_model,
        prefix=parent._prefix,
        run_id=_unfinished(parent, tags),
    )
    child._artifact_location = parent._artifact_location
    return child


def _unfinished(parent: MLFlowLogger, tags: dict[str, str | None]) -> str | None:
    """Return the child that an interrupted run left behind, to go on in it."""
    condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    client = parent.experiment
    for run in client.search_runs([parent.experiment_id], filter_string=condition):
        if run.info.status != "FINISHED":
            client.update_run(run.info.run_id, status="RUNNING")
            return str(run.info.run_id)
    return None
