"""MLflow out of the box: one SQLite file, everything of a run under one folder."""

import importlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import MLFlowLogger
from typing_extensions import override

import pvision
from pvision.callbacks._provenance import git_commit
from pvision.errors import ConfigError, UserError
from pvision.files import write_whole
from pvision.training.run_files import run_folder, run_loggers

__all__ = [
    "ROOT",
    "KeepConfig",
    "announce_set_up",
    "check_store",
    "default_logger",
    "describe_run",
    "environment",
    "go_on_in_the_run_of",
    "mlflow_settings",
    "refusing_store",
]

ROOT = "mlruns"
_SQLITE = "sqlite:///"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_LONGEST_REASON = 300


@contextmanager
def environment() -> Iterator[None]:
    """Set, unless the user did, what MLflow reads from the environment when it is imported."""
    # A privacy tool sends nothing anywhere unasked.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # With MLflow's own 7 retries a server that is down means four minutes of silence.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    # It tells every migration of a new database; `announce_set_up` says it in one line.
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    given = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        yield
    finally:
        # Lightning's logger makes its store everybody's, also that of the next command in this process.
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if given is not None:
            os.environ["MLFLOW_TRACKING_URI"] = given


def default_logger() -> dict[str, Any]:
    """Return the logger of a run that names none."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{ROOT}/mlflow.db"
    return {
        "class_path": "lightning.pytorch.loggers.MLFlowLogger",
        "init_args": {"experiment_name": "pvision", "tracking_uri": uri},
    }


def mlflow_settings(logger: Any) -> Iterator[Namespace]:
    """Yield the settings of each MLflow logger among the settings ``trainer.logger``."""
    for settings in logger if isinstance(logger, list) else [logger]:
        if isinstance(settings, Namespace) and _is_mlflow(settings.class_path):
            yield settings.init_args


def _is_mlflow(class_path: str) -> bool:
    module, _, name = class_path.rpartition(".")
    return issubclass(getattr(importlib.import_module(module), name), MLFlowLogger)


def describe_run(settings: Namespace, *, name: str | None) -> None:
    """Give the run a name and tags, and its database a path that does not depend on the working folder."""
    settings.run_name = settings.run_name or name
    ours = {"pvision.version": pvision.__version__, "pvision.recipe": name, "git.commit": git_commit()}
    settings.tags = {key: value for key, value in ours.items() if value} | (settings.tags or {})
    database = _database(settings)
    if database is not None:
        settings.tracking_uri = f"{_SQLITE}{database.absolute()}"


def go_on_in_the_run_of(checkpoint: str, settings: Namespace, *, root: Path) -> None:
    """Let a resumed run be the MLflow run that was cut off, if the store and the experiment are still the same.

    A run that ended well stays as it is: what goes on from it is a run of its own.

    Args:
        checkpoint: from which training goes on.
        settings: of the MLflow logger; with a ``run_id`` they are left alone.
        root: the folder in which runs keep their files.
    """
    folder = _folder_of(checkpoint)
    database = _database(settings)
    if settings.run_id or not _RUN_ID.fullmatch(folder.name) or (database is not None and not database.is_file()):
        return
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(settings.tracking_uri)
    try:
        run = client.get_run(folder.name).info
        experiment = client.get_experiment(run.experiment_id)
    except MlflowException:
        return  # of another store
    here = Path(root, run.experiment_id, run.run_id).resolve() == folder.resolve()
    same = run.lifecycle_stage == "active" and experiment.name == settings.experiment_name
    if here and same and run.status != "FINISHED":
        settings.run_id = run.run_id
        client.update_run(run.run_id, status="RUNNING")


def _folder_of(checkpoint: str) -> Path:
    """Return the folder of the run that wrote a checkpoint, which lies in its ``checkpoints/`` or below."""
    path = Path(checkpoint).absolute()
    above = (parent.parent for parent in path.parents if parent.name == "checkpoints")
    return path if path.is_dir() else next(above, path.parent.parent)


def check_store(settings: Namespace) -> None:
    """Make sure that MLflow is installed and its database can be written, without writing.

    Raises:
        ConfigError: if not; the message says how to go on without.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "--trainer.logger: runs are tracked with the package 'mlflow', which is not installed. Install it with "
            "`pip install 'pvision[mlflow]'`, or go without: --trainer.logger=false."
        )
    database = _database(settings)
    if database is None:
        return
    folder = next(path for path in (database.absolute().parent, *database.absolute().parents) if path.exists())
    if database.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"--trainer.logger: MLflow's database {database} cannot be written, because {folder} is no folder or "
            "refuses. Start elsewhere, or go without: --trainer.logger=false."
        )


@contextmanager
def refusing_store() -> Iterator[None]:
    """Turn whatever a tracking store raises when it is opened into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # clients, drivers and servers have no common base
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        remedy = "Start it or correct --trainer.logger.init_args.tracking_uri"
        if "UNIQUE constraint" in reason or "deleted" in reason:
            remedy = "Restore the deleted experiment (`mlflow experiments restore`) or remove it for good (`mlflow gc`)"
        raise ConfigError(
            f"--trainer.logger: the tracking store does not open ({reason}). {remedy}, or go without: "
            "--trainer.logger=false."
        ) from error


def announce_set_up(settings: Namespace) -> None:
    """Say why nothing happens for a while, if MLflow is about to create its database."""
    database = _database(settings)
    if database is not None and not database.exists():
        print(f"pvision: setting up {database} (about 10 s, once)", file=sys.stderr)


def _database(settings: Namespace) -> Path | None:
    uri = settings.tracking_uri or ""
    path = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(path) if uri.startswith(_SQLITE) and path and path != ":memory:" else None


class KeepConfig(SaveConfigCallback):
    """Keep the whole configuration as ``config.yaml``: an artifact under MLflow, else a file in the run's folder.

    Lightning's own way of saving asks for a ``log_dir``, which its MLflow logger has not.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    @override
    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        tracked = [logger for logger in run_loggers(trainer) if isinstance(logger, MLFlowLogger)]
        for logger in tracked:
            logger.experiment.log_text(logger.run_id, text, self.config_filename)
        if not tracked:
            write_whole(run_folder(trainer) / self.config_filename, text)
