"""The command, run in this process, and a database of MLflow that needs no ten seconds."""

import logging
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

TOY = {
    "model": {
        "class_path": "toy_project.ToyModule",
        "init_args": {"network": {"class_path": "toy_project.Net"}},
    },
    "data": {"class_path": "toy_project.ToyData"},
    "trainer": {
        "max_epochs": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def toy_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let configurations name the classes of toy_project.py, and let the command set its defaults without a trace."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def is_lightnings(handler: logging.Handler) -> bool:
    return type(handler) is logging.StreamHandler  # pytest puts its own there too where a logger does not propagate


@pytest.fixture
def pvision(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run the command in this process: ``pvision("recipes", "list")``."""
    import lightning.pytorch  # noqa: F401  # so that its handlers exist

    from pvision.cli import main

    def call(*args: object) -> Outcome:
        capsys.readouterr()
        for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
            for handler in filter(is_lightnings, logging.getLogger(name).handlers):
                # Lightning keeps the stderr of the moment it was imported, here that of another test.
                monkeypatch.setattr(handler, "stream", sys.stderr)
        try:
            code = main([str(arg) for arg in args]) or 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def toy() -> Callable[..., Path]:
    """Write a configuration of the toy project: ``toy(**{"model.init_args.lr": 0.2})`` returns its path."""

    def write(name: str = "toy.yaml", **changes: object) -> Path:
        settings = yaml.safe_load(yaml.safe_dump(TOY))
        for key, value in changes.items():
            *parents, last = key.split(".")
            level = settings
            for parent in parents:
                level = level.setdefault(parent, {})
            level[last] = value
        path = Path(name)
        path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes ten seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client = MlflowClient(f"sqlite:///{path}")
    client.search_experiments()
    with sqlite3.connect(path) as database:
        # Without the experiment that MLflow made for itself, whose artifacts would lie in the template's folder.
        database.execute("DELETE FROM experiments")
    database.close()
    return path


@pytest.fixture
def tracked(migrated_database: Path) -> Path:
    """A working folder in which MLflow's database exists already: its path."""
    Path("mlruns").mkdir()
    return Path(shutil.copy(migrated_database, "mlruns/mlflow.db"))


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process, without Lightning: ``compare("a", "b")``."""
    from pvision.cli import main

    def call(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(["compare", *map(str, args)]) or 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capsys.readouterr())

    return call
