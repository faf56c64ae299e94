"""What the training commands do when the configuration is right."""

import csv
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient


def last_line(out: str) -> Path:
    return Path(out.splitlines()[-1])


def summary_of(out: str) -> dict:
    return json.loads(last_line(out).read_text(encoding="utf-8"))


def only_run(database: Path):
    client = MlflowClient(f"sqlite:///{database.absolute()}")
    experiment = client.get_experiment_by_name("pvision")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


@pytest.fixture
def trained(pvision: Callable, toy: Callable) -> Path:
    """A checkpoint of the toy project."""
    code, _, err = pvision("fit", "--config", toy(), "--trainer.logger=false", "--trainer.default_root_dir=before")
    assert code == 0, err
    return next(Path("before").rglob("*.ckpt"))


def test_fit_ends_with_the_path_of_a_summary_with_test_metrics_and_privacy(
    pvision: Callable, toy: Callable, tracked: Path
) -> None:
    code, out, err = pvision("fit", "--config", toy(**{"model.init_args.epsilon": 3.0}))
    assert code == 0, err
    path = last_line(out)
    assert path.name == "summary.json"
    summary = summary_of(out)
    assert {"train/loss", "val/accuracy", "test/accuracy", "test/accuracy_redacted"} <= summary["metrics"].keys()
    assert summary["metrics"]["privacy/epsilon_zero_out"] == 3.0
    assert summary["metrics"]["privacy/epsilon_replace"] == 6.0
    assert (summary["status"], summary["stages"], summary["seed"]) == ("FINISHED", ["fit", "test"], 1)


def test_mlflow_has_the_run_its_config_its_tags_and_its_metrics(
    pvision: Callable, toy: Callable, tracked: Path
) -> None:
    code, out, err = pvision("fit", "--config", toy("my_run.yaml"))
    assert code == 0, err
    client, run = only_run(tracked)
    folder = Path("mlruns") / run.info.experiment_id / run.info.run_id
    assert last_line(out) == folder / "summary.json"
    assert (run.info.run_name, run.info.status) == ("my_run", "FINISHED")
    assert run.data.tags["pvision.recipe"] == "my_run"
    assert run.data.tags["pvision.version"]
    assert run.data.tags["privacy.epsilon_zero_out"] == "inf"
    assert {"test/accuracy", "val/accuracy"} <= run.data.metrics.keys()
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {"config.yaml", "summary.json"}
    assert (folder / "artifacts/config.yaml").is_file()
    assert list((folder / "checkpoints").glob("*.ckpt"))
    assert {path.name for path in Path("mlruns").iterdir()} == {"mlflow.db", run.info.experiment_id}


def test_the_kept_configuration_trains_again_to_the_same_end(pvision: Callable, toy: Callable, tracked: Path) -> None:
    _, out, _ = pvision("fit", "--config", toy(**{"model.init_args.lr": 0.02}))
    kept = last_line(out).parent / "artifacts/config.yaml"
    assert yaml.safe_load(kept.read_text())["model"]["init_args"]["lr"] == 0.02
    code, again, err = pvision("fit", "--config", kept)
    assert code == 0, err
    assert summary_of(again)["metrics"] == summary_of(out)["metrics"]
    assert summary_of(again)["name"] == "toy"


@pytest.mark.slow
def test_the_database_is_made_with_one_line_that_says_so(pvision: Callable, toy: Callable) -> None:
    config = toy(**{"trainer.logger.init_args.experiment_name": "mine"})
    code, _, err = pvision("fit", "--config", config)
    assert code == 0, err
    assert err.count("setting up mlruns/mlflow.db") == 1
    assert "alembic" not in err
    code, _, err = pvision("fit", "--config", config)
    assert (code, err.count("setting up")) == (0, 0)


def test_without_a_logger_summary_and_config_stand_in_the_root_folder(pvision: Callable, toy: Callable) -> None:
    code, out, err = pvision("fit", "--config", toy(), "--trainer.logger=false")
    assert code == 0, err
    assert last_line(out) == Path("mlruns/summary.json")
    assert {path.name for path in Path("mlruns").iterdir()} == {"summary.json", "config.yaml", "checkpoints"}


def test_another_logger_gets_the_summary_into_its_own_folder(pvision: Callable, toy: Callable) -> None:
    code, out, err = pvision("fit", "--config", toy(), "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs")
    assert code == 0, err
    assert last_line(out) == Path("logs/lightning_logs/version_0/summary.json")
    assert not Path("mlruns/mlflow.db").exists()


def test_fast_dev_run_leaves_nothing(pvision: Callable, toy: Callable) -> None:
    config = toy()
    code, out, err = pvision("fit", "--config", config, "--trainer.fast_dev_run=true")
    assert code == 0, err
    assert "summary.json" not in out
    assert set(Path().rglob("*")) == {config}


def test_fit_tests_only_where_there_is_a_test_set(pvision: Callable, toy: Callable) -> None:
    config = toy(**{"data.class_path": "toy_project.TrainOnly"})
    code, out, err = pvision("fit", "--config", config, "--trainer.logger=false")
    assert code == 0, err
    assert summary_of(out)["stages"] == ["fit"]


@pytest.mark.parametrize(("stage", "metric"), [("validate", "val/accuracy"), ("test", "test/accuracy")])
def test_evaluation_of_a_checkpoint_ends_with_a_summary(
    stage: str, metric: str, pvision: Callable, toy: Callable, trained: Path, tracked: Path
) -> None:
    code, out, err = pvision(stage, "--config", toy(), "--ckpt_path", trained)
    assert code == 0, err
    summary = summary_of(out)
    assert (summary["stages"], summary["status"]) == ([stage], "FINISHED")
    assert metric in summary["metrics"]


def test_predict_writes_a_line_per_record_with_both_views(
    pvision: Callable, toy: Callable, trained: Path, tracked: Path
) -> None:
    code, out, err = pvision("predict", "--config", toy(), "--ckpt_path", trained)
    assert code == 0, err
    table = last_line(out).parent / "predictions.csv"
    assert f"Predictions: {table}" in out
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["name"] for row in rows] == [f"clip_{index}.mp4" for index in range(8)]
    assert {row["predicted"] for row in rows} <= {"left", "right"}
    for row in rows:
        assert row["predicted"] != row["predicted_redacted"]  # the toy's redacted view is its mirror image
        assert float(row["probability"]) == float(row["probability_redacted"]) > 0.5


def test_resuming_goes_on_from_the_checkpoint(pvision: Callable, toy: Callable, trained: Path) -> None:
    args = ["--trainer.logger=false", "--trainer.default_root_dir=after", "--trainer.max_epochs=2"]
    code, _, err = pvision("fit", "--config", toy(), "--ckpt_path", trained, *args)
    assert code == 0, err
    assert [path.name for path in Path("after/checkpoints").iterdir()] == ["epoch=1-step=4.ckpt"]


def test_a_checkpoint_adds_weights_and_overrules_no_setting(pvision: Callable, toy: Callable, trained: Path) -> None:
    assert torch.load(trained, weights_only=True)["hyper_parameters"]["lr"] == 0.1
    args = ["--trainer.logger=false", "--trainer.default_root_dir=after", "--model.init_args.lr=0.3"]
    code, _, err = pvision("test", "--config", toy(), "--ckpt_path", trained, *args)
    assert code == 0, err
    assert yaml.safe_load(Path("after/config.yaml").read_text())["model"]["init_args"]["lr"] == 0.3


def test_several_configurations_merge_from_left_to_right(pvision: Callable, toy: Callable) -> None:
    Path("more.yaml").write_text("model: {init_args: {lr: 0.5, epsilon: 1.0}}\nseed_everything: 7\n")
    Path("last.yaml").write_text("model: {init_args: {lr: 0.25}}\n")
    args = ["--config", toy(), "--config=more.yaml", "-c", "last.yaml", "--trainer.logger=false"]
    code, out, err = pvision("fit", *args)
    assert code == 0, err
    settings = yaml.safe_load(Path("mlruns/config.yaml").read_text())["model"]["init_args"]
    assert (settings["lr"], settings["epsilon"]) == (0.25, 1.0)
    assert (summary_of(out)["seed"], summary_of(out)["name"]) == (7, "toy+more+last")


def test_print_config_prints_settings_that_can_be_used(pvision: Callable, toy: Callable) -> None:
    code, out, _ = pvision("fit", "--config", toy(**{"model.init_args.lr": 0.125}), "--print_config")
    assert code == 0
    settings = yaml.safe_load(out)
    assert settings["model"]["init_args"]["lr"] == 0.125
    assert settings["trainer"]["default_root_dir"] == "mlruns"
    assert settings["trainer"]["logger"]["init_args"]["tracking_uri"] == "sqlite:///mlruns/mlflow.db"
    assert settings["seed_everything"] == 1
    assert not Path("mlruns").exists()


def test_the_users_tracking_server_is_the_default(
    pvision: Callable, toy: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    _, out, _ = pvision("fit", "--config", toy(), "--print_config")
    assert yaml.safe_load(out)["trainer"]["logger"]["init_args"]["tracking_uri"] == "http://tracking.example"


def test_a_bare_class_name_is_enough(pvision: Callable, toy: Callable) -> None:
    pvision("fit", "--config", toy(), "--trainer.fast_dev_run=true")  # imports toy_project
    config = toy(**{"model.class_path": "ToyModule", "data.class_path": "ToyData"})
    code, _, err = pvision("fit", "--config", config, "--trainer.fast_dev_run=true")
    assert code == 0, err


def test_a_class_of_the_working_folder_can_be_named(pvision: Callable, toy: Callable) -> None:
    Path("project_of_this_folder.py").write_text("from toy_project import ToyModule\nclass Mine(ToyModule): pass\n")
    config = toy(**{"model.class_path": "project_of_this_folder.Mine"})
    before = list(sys.path)
    try:
        code, _, err = pvision("fit", "--config", config, "--trainer.fast_dev_run=true")
    finally:
        sys.path[:] = before
    assert code == 0, err


def test_an_error_of_the_user_during_training_is_one_message_and_a_failed_run(
    pvision: Callable, toy: Callable, tracked: Path
) -> None:
    code, _, err = pvision("fit", "--config", toy(**{"model.init_args.fault": "user"}))
    assert code == 2
    assert "pvision: the budget is spent." in err
    assert "Traceback" not in err
    _, run = only_run(tracked)
    assert run.info.status == "FAILED"
    summary = json.loads((Path("mlruns") / run.info.experiment_id / run.info.run_id / "summary.json").read_text())
    assert summary["status"] == "FAILED"


def test_a_bug_keeps_its_traceback_and_fails_the_run(pvision: Callable, toy: Callable, tracked: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"):
        pvision("fit", "--config", toy(**{"model.init_args.fault": "bug"}))
    _, run = only_run(tracked)
    assert run.info.status == "FAILED"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Take Ctrl-C as a terminal's process does; a worker of xdist does otherwise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_exits_with_130_and_marks_the_run(pvision: Callable, toy: Callable, tracked: Path) -> None:
    code, _, err = pvision("fit", "--config", toy(**{"model.init_args.fault": "interrupt"}))
    assert code == 130
    assert err.splitlines()[-1].startswith("pvision: stopped")
    assert "Traceback" not in err
    _, run = only_run(tracked)
    assert run.info.status == "KILLED"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_exits_with_143_and_marks_the_run(pvision: Callable, toy: Callable, tracked: Path) -> None:
    code, _, err = pvision("fit", "--config", toy(**{"model.init_args.fault": "terminate"}))
    assert code == 143
    assert "Traceback" not in err
    _, run = only_run(tracked)
    assert run.info.status == "KILLED"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_video_met_in_training_is_one_message(workers: int, pvision: Callable, toy: Callable) -> None:
    config = toy(**{"data.init_args.corrupt": True, "data.init_args.num_workers": workers})
    code, _, err = pvision("fit", "--config", config, "--trainer.logger=false")
    assert code == 2
    assert err.splitlines()[-1].startswith("pvision: clips/a.mp4: no video stream. Mend or remove the file")
    assert "Traceback" not in err


def test_a_lost_store_at_the_end_costs_a_warning_and_not_the_summary(
    pvision: Callable, toy: Callable, tracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = MlflowClient.log_artifact

    def lost(self: MlflowClient, run_id: str, path: str, *rest: object) -> None:
        if path.endswith("summary.json"):
            raise ConnectionError("the server is gone")
        keep(self, run_id, path, *rest)

    monkeypatch.setattr(MlflowClient, "log_artifact", lost)
    with pytest.warns(UserWarning, match="the server is gone"):
        code, out, _ = pvision("fit", "--config", toy())
    assert code == 0
    assert summary_of(out)["status"] == "FINISHED"


def test_two_runs_share_one_database(pvision: Callable, toy: Callable, tracked: Path) -> None:
    paths = {last_line(pvision("fit", "--config", toy(f"run_{number}.yaml")).out) for number in range(2)}
    assert len(paths) == 2
    with sqlite3.connect(tracked) as database:
        assert database.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone() == (2,)
    database.close()


@pytest.mark.slow
def test_the_installed_command_trains_in_a_process_of_its_own(toy: Callable, tracked: Path) -> None:
    """The console script: exit code, the last line of stdout, and no word of telemetry or advertising."""
    config = toy(**{"model.init_args.lr": 0.1})
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from pvision.cli import main; raise SystemExit(main())",
            "fit",
            "--config",
            str(config),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"mlruns/\d+/[0-9a-f]{32}/summary\.json", done.stdout.splitlines()[-1])
    for noise in ("litlogger", "litmodels", "Seed set", "Deprecat", "does not have many workers"):
        assert noise not in done.stderr
