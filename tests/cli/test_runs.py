"""Runs on the disk: every name a run can have finds it, and a broken file is one message."""

import json
import sqlite3
from pathlib import Path

import pytest

from pvision.cli import runs
from pvision.errors import ConfigError, DataError


def leave(folder: Path, **changes: object) -> Path:
    """Leave a run in a folder as `pvision fit` does."""
    folder.mkdir(parents=True)
    summary = {"name": "my run", "status": "FINISHED", "metrics": {"a": 0.5}, "seed": 1, **changes}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def repeated(name: str, **statuses: str) -> Path:
    """Leave a repeat with class order 7 and one run for each status."""
    folder, entries = Path("mlruns/repeats", name), {}
    for seed, status in enumerate(statuses.values(), start=1):
        run = leave(folder / f"seed_{seed}" / "1" / f"{name}{seed}", name=name, seed=seed)
        told = str((run / "summary.json").relative_to(folder))
        entries[f"seed_{seed}"] = {"seed": seed, "class_order": 7, "status": status, "summary": told}
    (folder / "runs.json").write_text(json.dumps({"name": name, "recipe": "from this", "runs": entries}))
    return folder


@pytest.fixture
def database() -> None:
    """MLflow's table of two runs of one name, one of them a child that left no summary."""
    Path("mlruns").mkdir()
    with sqlite3.connect("mlruns/mlflow.db") as connection:
        connection.execute("CREATE TABLE runs (run_uuid, name, experiment_id, lifecycle_stage, start_time)")
        connection.execute("INSERT INTO runs VALUES ('72ba4b5ff26a', 'my run', 1, 'active', 0)")
        connection.execute("INSERT INTO runs VALUES ('child', 'my run', 1, 'active', 1)")
        connection.execute("INSERT INTO runs VALUES ('deleted', 'my run', 1, 'deleted', 2)")
    connection.close()


@pytest.mark.parametrize(
    "name", ["mlruns/1/72ba4b5ff26a", "mlruns/1/72ba4b5ff26a/summary.json", "72ba4b5ff26a", "my run"]
)
def test_a_run_is_found_by_folder_summary_id_or_name(name: str, database: None) -> None:
    leave(Path("mlruns/1/72ba4b5ff26a"))
    leave(Path("mlruns/1/deleted"))
    (found,) = runs.find(name)
    assert (found.folder, found.name, found.key) == (Path("mlruns/1/72ba4b5ff26a"), "my run", (1, None))


def test_a_name_stands_for_all_runs_that_have_it(database: None) -> None:
    for name in ("72ba4b5ff26a", "child"):
        leave(Path("mlruns/1", name))
    assert [run.folder.name for run in runs.find("my run")] == ["child", "72ba4b5ff26a"]  # the newest first


@pytest.mark.parametrize("name", ["replay", "mlruns/repeats/replay"])
def test_a_repeat_stands_for_its_runs_with_its_class_orders(name: str) -> None:
    repeated("replay", a="FINISHED", b="KILLED", c="FINISHED")
    found = runs.find(name)
    assert [run.finished for run in found] == [True, False, True]
    assert [run.key for run in found if run.finished] == [(1, 7), (3, 7)]
    assert {run.recipe for run in found} == {"from this"}


def test_the_moved_folder_of_a_repeat_is_still_one() -> None:
    repeated("replay", a="FINISHED").rename("moved")
    assert [run.name for run in runs.find("moved")] == ["replay"]


def test_a_run_of_a_repeat_is_found_by_its_id_beside_its_artifacts() -> None:
    repeated("replay", a="FINISHED")
    Path("mlruns/1/replay1/artifacts").mkdir(parents=True)
    assert runs.folders("replay1") == [Path("mlruns/repeats/replay/seed_1/1/replay1")]


@pytest.mark.parametrize("place", ["config.yaml", "artifacts/config.yaml"])
def test_the_class_order_stands_in_the_configuration_that_the_run_kept(place: str) -> None:
    path = leave(Path("mlruns/1/72ba")) / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("data: {init_args: {scenario: {init_args: {class_order_seed: 1993}}}}", encoding="utf-8")
    assert runs.read(path.parents[place.count("/")]).key == (1, 1993)


def test_settings_are_found_with_and_without_init_args() -> None:
    config = {"model": {"class_path": "M", "init_args": {"lr": 0.1, "net": {"init_args": {"width": 4}}}}}
    assert runs.setting(config, "model.init_args.lr") == runs.setting(config, "model.lr") == 0.1
    assert runs.setting(config, "model.net.width") == 4
    assert runs.setting(config, "model.net.depth") is None
    assert runs.setting(config, "model.lr.init_args") is None


def test_infinite_and_undefined_metrics_are_floats_again() -> None:
    found = runs.read(leave(Path("run"), metrics={"a": "inf", "b": "nan", "c": 1}))
    assert [str(value) for value in found.metrics.values()] == ["inf", "nan", "1.0"]


def test_a_run_that_says_nothing_of_privacy_has_no_epsilon_and_one_without_noise_an_infinite_one() -> None:
    claim = {"epsilon_zero_out": 1.0, "epsilon_replace": 2.0, "epsilon_add_remove": "inf"}
    inf = float("inf")
    assert runs.read(leave(Path("a"))).epsilon is None
    found = runs.read(leave(Path("b"), privacy={**claim, "private": True})).epsilon
    assert found == {"zero_out": 1.0, "replace": 2.0, "add_remove": inf}
    found = runs.read(leave(Path("c"), privacy={**claim, "private": False})).epsilon
    assert found == {"zero_out": inf, "replace": inf, "add_remove": inf}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is broken"),
        ("[]", "holds no object"),
        ("{}", "`metrics` are not numbers"),
        ('{"metrics": {"a": "much"}}', "`metrics` are not numbers"),
        ('{"metrics": {"a": true}}', "`metrics` are not numbers"),
    ],
)
def test_a_broken_summary_is_refused(content: str, words: str) -> None:
    path = leave(Path("run")) / "summary.json"
    path.write_text(content)
    with pytest.raises(DataError, match=words) as refusal:
        runs.find("run")
    assert "run/summary.json" in str(refusal.value)


@pytest.mark.parametrize("content", ["[]", "{}", '{"recipe": "a", "runs": {"seed_1": 3}}'])
def test_a_broken_list_of_a_repeat_is_refused(content: str) -> None:
    path = repeated("replay", a="FINISHED") / "runs.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"runs\.json"):
        runs.find("replay")


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere", "there is no run 'nowhere'"), (".", "holds no summary.json"), ("", "holds no summary.json")],
)
def test_what_is_not_there_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        runs.find(name)


def test_a_broken_database_is_refused() -> None:
    Path("mlruns").mkdir()
    Path("mlruns/mlflow.db").write_text("no database")
    with pytest.raises(ConfigError, match="cannot be read"):
        runs.find("name")
