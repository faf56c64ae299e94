"""Runs on the disk: found by folder, id or name, and read without torch, Lightning or MLflow."""

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pvision.errors import ConfigError, DataError

__all__ = ["REPEATS", "ROOT", "SUMMARY", "Key", "Run", "find", "folders", "read", "read_json", "setting"]

ROOT = Path("mlruns")
REPEATS = ROOT / "repeats"
SUMMARY = "summary.json"
Key = tuple[int, int | None]
_RELATIONS = ("zero_out", "replace", "add_remove")
_CLASS_ORDER = "data.init_args.scenario.init_args.class_order_seed"


@dataclass(frozen=True)
class Run:
    """What is known of a run that has ended.

    Attributes:
        folder: where its files lie.
        summary: its ``summary.json``.
        recipe: the configuration it was started with, as far as known; else its name.
        told_order: the seed of its order of classes, as its repeat set it; None if that is left to its configuration.
    """

    folder: Path
    summary: Mapping[str, Any]
    recipe: str
    told_order: int | None = None

    @property
    def name(self) -> str:
        """What the run is called; its folder where it has no name."""
        return str(self.summary.get("name") or self.folder.name)

    @property
    def finished(self) -> bool:
        """Whether the run ended well."""
        return self.summary.get("status") == "FINISHED"

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Its last metrics, fractions as fractions; infinite and undefined ones as floats."""
        return {name: float(value) for name, value in self.summary["metrics"].items()}

    @cached_property
    def class_order(self) -> int | None:
        """The seed of its order of classes; None where there is none, or nothing says so."""
        order = setting(self.config or {}, _CLASS_ORDER) if self.told_order is None else self.told_order
        return order if isinstance(order, int) else None

    @property
    def key(self) -> Key | None:
        """Seed and class order, by which runs of two methods are paired; None if the seed is not known."""
        seed = self.summary.get("seed")
        return None if seed is None else (int(seed), self.class_order)

    @property
    def epsilon(self) -> dict[str, float] | None:
        """What ε it may claim, by relation: infinite where it is not private, None if it says nothing of privacy."""
        report = self.summary.get("privacy")
        if not report:
            return None
        private = report.get("private", True)
        return {name: float(report.get(f"epsilon_{name}", "inf")) if private else math.inf for name in _RELATIONS}

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """The whole configuration that it kept; None if that is not on this disk."""
        import yaml

        for path in _configs(self.folder):
            if path.is_file():
                try:
                    return cast(dict[str, Any], yaml.safe_load(path.read_text(encoding="utf-8")))
                except (OSError, ValueError, yaml.YAMLError) as error:
                    raise DataError(f"{path} cannot be read ({_one_line(error)}). Remove or mend it.") from error
        return None


def find(name: str) -> list[Run]:
    """Return the runs that ``name`` stands for, those that did not end well among them.

    Args:
        name: a run's folder or ``summary.json``, the folder or name of a repeat, which stands for all its runs, or the
            id or name of an MLflow run in ``mlruns``; a name that several runs have stands for all of them.

    Raises:
        ConfigError: if there is nothing called so.
        DataError: if a file of the run cannot be read.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return [read(path.parent if path.name == SUMMARY else path)]
    for folder in (path, REPEATS / name):
        if (folder / "runs.json").is_file():
            return list(_repeated(folder))
    if path.is_dir():
        return [read(path)]
    found = [read(folder) for folder in folders(name) if (folder / SUMMARY).is_file()]
    if found:
        return found
    raise ConfigError(
        f"there is no run {name!r} that has ended. Name a run's folder, its {SUMMARY}, a repeat, or the id or name of "
        f"an MLflow run, in the folder from which it was started (which holds {ROOT}/)."
    )


def folders(name: str) -> list[Path]:
    """Return the folders of the runs whose MLflow id or name is ``name``, the newest first."""
    return _of_id(name) or [next(iter(_of_id(run)), ROOT / experiment / run) for experiment, run in _named(name)]


def read(folder: Path, *, recipe: str | None = None) -> Run:
    """Return the run in ``folder``; of a file that is no folder, the run whose summary it is.

    Raises:
        ConfigError: if there is no summary.
        DataError: if it cannot be read, or is none.
    """
    path = folder / SUMMARY if folder.is_dir() else folder
    if not path.is_file():
        raise ConfigError(f"{folder} holds no {SUMMARY}, so no run has ended there. Name the folder of one that has.")
    summary = read_json(path)
    metrics = summary.get("metrics")
    if not isinstance(metrics, dict) or not all(_is_number(value) for value in metrics.values()):
        raise DataError(f"{path} is no summary of a run: its `metrics` are not numbers. Name a file of `pvision fit`.")
    return Run(path.parent, summary, recipe or str(summary.get("name") or path.parent.name))


def setting(config: Mapping[str, Any], key: str) -> Any:
    """Return the value at the dotted ``key``, in which ``init_args`` may be left out; None if there is none."""
    level: Any = config
    for part in key.split("."):
        if isinstance(level, Mapping) and part not in level and part != "init_args":
            level = level.get("init_args")
        level = level.get(part) if isinstance(level, Mapping) else None
    return level


def _repeated(folder: Path) -> Iterator[Run]:
    index = read_json(folder / "runs.json")
    try:
        recipe = str(index["recipe"])
        entries = [
            (name, str(run["status"]), run["class_order"], run.get("summary")) for name, run in index["runs"].items()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / 'runs.json'} lists no runs of a repeat. Name the runs by their folders.") from error
    for name, status, order, summary in entries:
        if status != "FINISHED" or summary is None:
            yield Run(folder / name, {"status": status, "metrics": {}}, recipe)
        else:  # a path relative to the repeat, whose folder may have been moved
            yield replace(read(folder / summary, recipe=recipe), told_order=order)


def _of_id(run: str) -> list[Path]:
    """Return the folders of the run with that id; the runs of a repeat lie apart from their artifacts."""
    places = [place for place in ROOT.glob("*") if place != REPEATS]
    apart = [folder for place in REPEATS.glob("*/*/*") if (folder := place / run).is_dir()]
    return apart or [folder for place in places if (folder := place / run).is_dir()]


def _named(name: str) -> list[tuple[str, str]]:
    """Return experiment and id of the runs of that name, the newest first; MLflow itself takes seconds to load."""
    database = ROOT / "mlflow.db"
    if not database.is_file():
        return []
    query = (
        "SELECT experiment_id, run_uuid FROM runs WHERE name = ? AND lifecycle_stage = 'active' "
        "ORDER BY start_time DESC"
    )
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(query, (name,)).fetchall()
    except sqlite3.Error as error:
        raise ConfigError(f"{database} cannot be read ({error}). Name the run's folder instead of {name!r}.") from error
    return [(str(experiment), str(run)) for experiment, run in rows]


def _configs(folder: Path) -> Iterator[Path]:
    yield folder / "config.yaml"
    yield folder / "artifacts" / "config.yaml"
    yield from ROOT.glob(f"*/{folder.name}/artifacts/config.yaml")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        DataError: if it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"{path} is broken ({_one_line(error)}). Remove it, or run that run again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is broken: it holds no object. Remove it, or run that run again.")
    return content


def _is_number(value: object) -> bool:
    try:
        float(cast(Any, value))
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
