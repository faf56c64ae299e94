"""Private training by the command: refused while nothing is written, resumed in the run that was cut off."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from pvision.privacy import PrivacyLedger, PrivacySpec, read_ledger

STEPS = 8
PRIVACY = {
    "mechanism": "dp_sgd",
    "unit": "clip",
    "mask": "private",
    "label": "private",
    "relation": "replace",
    "delta": 1e-3,
    "max_grad_norm": 1.0,
    "sample_rate": 1.0,
    "steps": STEPS,
    "noise_multiplier": 4.0,
}
CONFIG = {
    "model": {
        "class_path": "PrivateTraining",
        "init_args": {"network": {"class_path": "private_project.Net"}, "privacy": PRIVACY},
    },
    "data": {"class_path": "private_project.Clips"},
    "trainer": {
        "max_epochs": -1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 1, "save_top_k": -1}},
        ],
    },
}


@pytest.fixture
def config() -> Path:
    path = Path("mine.yaml")
    path.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return path


def stopping(after: int) -> list[str]:
    return ["--trainer.callbacks+=private_project.Stops", f"--trainer.callbacks.after={after}"]


@pytest.fixture
def crash(pvision: Callable, config: Path) -> Callable[..., Path]:
    """Train until a power cut, and return the run's folder."""

    def run(*args: object, after: int) -> Path:
        with pytest.raises(ZeroDivisionError):
            pvision("fit", "--config", config, *args, *stopping(after))
        return max(Path("mlruns").glob("*/*/ledger.jsonl"), key=lambda path: path.stat().st_mtime).parent

    return run


def checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"epoch=0-step={step}.ckpt"


def runs(database: Path) -> dict[str, str]:
    """The status of each MLflow run."""
    client = MlflowClient(f"sqlite:///{database.absolute()}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_id: run.info.status for run in client.search_runs(experiments)}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--trainer.max_epochs=7"], "trainer.max_epochs is 7, but the schedule has"),
        (["--trainer.gradient_clip_val=1"], "trainer.gradient_clip_val is 1"),
        (["--trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches is 2"),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=train/loss"],
            "EarlyStopping monitors 'train/loss'",
        ),
        (["--privacy_accounting.budget=0.001"], "does not allow a single noisy step"),
        (["--privacy_accounting.delta=1e-3"], "states its own privacy"),
    ],
)
def test_an_unsafe_setting_is_refused_while_nothing_is_written(
    args: list[str], words: str, pvision: Callable, config: Path
) -> None:
    code, out, err = pvision("fit", "--config", config, *args)
    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]
    assert "Traceback" not in err
    assert set(Path().rglob("*")) == {config}


def test_unsafe_settings_of_training_do_not_matter_to_a_test(
    pvision: Callable, config: Path, crash: Callable, tracked: Path
) -> None:
    folder = crash(after=2)
    args = ["--ckpt_path", checkpoint(folder, 1), "--trainer.gradient_clip_val=1"]
    code, _, err = pvision("test", "--config", config, *args)
    assert code == 0, err


def test_a_resumed_run_is_the_run_that_was_cut_off_as_often_as_it_is_cut_off(
    pvision: Callable, config: Path, crash: Callable, tracked: Path
) -> None:
    folder = crash(after=3)
    assert runs(tracked) == {folder.name: "FAILED"}
    assert crash("--ckpt_path", checkpoint(folder, 2), after=6) == folder
    assert runs(tracked) == {folder.name: "FAILED"}
    code, out, err = pvision("fit", "--config", config, "--ckpt_path", checkpoint(folder, 4))
    assert code == 0, err
    assert Path(out.splitlines()[-1]) == folder / "summary.json"
    assert runs(tracked) == {folder.name: "FINISHED"}
    assert json.loads((folder / "summary.json").read_text())["privacy"]["steps"] == STEPS
    assert (read_ledger(folder / "ledger.jsonl").charged, read_ledger(folder / "ledger.jsonl").sessions) == (STEPS, 3)


def test_a_run_in_whose_ledger_nothing_is_left_says_so_and_its_ledger_is_found(
    pvision: Callable, config: Path, tracked: Path
) -> None:
    _, out, err = pvision("fit", "--config", config)
    first = Path(out.splitlines()[-1]).parent
    assert "are charged in" not in err
    (kept,) = (first / "checkpoints").glob("*step=3.ckpt")
    code, out, err = pvision("fit", "--config", config, "--ckpt_path", kept)
    assert (code, f"all {STEPS} noisy steps are charged in" in err) == (0, True)
    second = Path(out.splitlines()[-1]).parent
    assert second != first
    assert str(first / "ledger.jsonl") in pvision("ledger", second.name).out
    assert str(first / "ledger.jsonl") in pvision("ledger", second).out


def test_what_goes_on_from_a_finished_run_or_in_another_experiment_is_a_run_of_its_own(
    pvision: Callable, toy: Callable, tracked: Path
) -> None:
    _, out, _ = pvision("fit", "--config", toy())
    first = Path(out.splitlines()[-1]).parent
    more = ["--ckpt_path", next(first.glob("checkpoints/*.ckpt")), "--trainer.max_epochs=2"]
    assert pvision("fit", "--config", toy(), *more).code == 0
    client = MlflowClient(f"sqlite:///{tracked.absolute()}")
    client.update_run(first.name, status="FAILED")
    assert pvision("fit", "--config", toy(), *more, "--trainer.logger.experiment_name=other").code == 0
    assert len(runs(tracked)) == 3
    assert runs(tracked)[first.name] == "FAILED"
    assert pvision("fit", "--config", toy(), *more).code == 0
    assert len(runs(tracked)) == 3
    assert runs(tracked)[first.name] == "FINISHED"


def test_a_refused_resumption_leaves_the_summary_of_the_run(
    pvision: Callable, config: Path, crash: Callable, tracked: Path
) -> None:
    folder = crash(after=3)
    before = (folder / "summary.json").read_text()
    args = ["--ckpt_path", checkpoint(folder, 2), "--data.init_args.count=25"]
    code, _, err = pvision("fit", "--config", config, *args)
    assert code == 2
    assert "Traceback" not in err
    assert (folder / "summary.json").read_text() == before
    assert runs(tracked) == {folder.name: "FAILED"}


def everything() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_another_statement_is_refused_while_nothing_is_written(
    stage: str, pvision: Callable, config: Path, crash: Callable, tracked: Path
) -> None:
    folder = crash(after=3)
    before = everything()
    args = ["--ckpt_path", checkpoint(folder, 2), "--model.init_args.privacy.noise_multiplier=3"]
    code, _, err = pvision(stage, "--config", config, *args)
    assert code == 2
    assert "noise_multiplier 4.0, not 3.0" in err
    assert everything() == before


def test_a_ledger_that_is_in_use_or_was_edited_is_refused_while_nothing_is_written(
    pvision: Callable, config: Path, crash: Callable, tracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = crash(after=3)
    args = ["fit", "--config", config, "--ckpt_path", checkpoint(folder, 2)]
    before = everything()
    with monkeypatch.context() as patched:
        patched.setattr("pvision.cli.early.writer_of", lambda path: "pid 1 on elsewhere")
        code, _, err = pvision(*args)
    assert (code, "is being written by pid 1" in err) == (2, True)
    assert everything() == before
    ledger = folder / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"steps":1', '"steps":0', 1))
    before = everything()
    code, _, err = pvision(*args)
    assert (code, "is not what was written" in err) == (2, True)
    assert everything() == before


def test_ledgers_of_runs_without_a_logger_are_told_apart(pvision: Callable) -> None:
    Path("runs/checkpoints").mkdir(parents=True)
    Path("runs/checkpoints/a.ckpt").touch()
    for name in ("ledger.jsonl", "ledger_2.jsonl"):
        PrivacyLedger.create(Path("runs", name), PrivacySpec(**PRIVACY), num_records=2000).close()
    for run in ("runs", "runs/checkpoints/a.ckpt"):
        code, _, err = pvision("ledger", run)
        assert (code, "2 ledgers lie" in err, "ledger_2.jsonl" in err) == (2, True, True)
    assert pvision("ledger", "runs/ledger_2.jsonl").code == 0


@pytest.mark.filterwarnings("ignore:NOT PRIVATE:UserWarning")
@pytest.mark.parametrize(("seed", "private"), [(None, True), (3, False)])
def test_fit_ends_with_what_may_be_claimed_and_what_may_not(
    pvision: Callable, config: Path, seed: int | None, private: bool
) -> None:
    seeded = [] if seed is None else [f"--model.init_args.privacy.noise_seed={seed}"]
    code, out, err = pvision("fit", "--config", config, "--trainer.logger=false", *seeded)
    assert code == 0
    assert "content or nothing behind the mask" in err
    assert "not protected: " in err
    assert ("NOT PRIVATE" not in err) == private
    assert out.strip().endswith("summary.json")
    summary = json.loads(Path(out.strip().splitlines()[-1]).read_text(encoding="utf-8"))
    assert summary["privacy"]["private"] == private
    assert read_ledger(Path(summary["ledger"])).header["private"] == private


@pytest.mark.slow
def test_two_processes_are_one_run_and_one_refusal(config: Path, tracked: Path) -> None:
    def start(*args: str) -> subprocess.CompletedProcess[str]:
        script = Path("command.py")
        script.write_text("from pvision.cli import main\nraise SystemExit(main())\n", encoding="utf-8")
        command = [sys.executable, str(script), "fit", "--config", str(config), *args]
        more = ["--trainer.devices=2", "--trainer.strategy=ddp"]
        folders = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [*command, *more],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            env={**os.environ, "PYTHONPATH": folders, "OMP_NUM_THREADS": "1"},
        )

    refused = start("--trainer.gradient_clip_val=1")
    assert refused.returncode == 2
    assert refused.stderr.count("pvision: ") == 1
    done = start()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("summary.json") == 1
    (status,) = runs(tracked).values()
    assert status == "FINISHED"
    folder = Path(done.stdout.splitlines()[-1]).parent
    assert read_ledger(folder / "ledger.jsonl").charged == STEPS
    assert json.loads((folder / "summary.json").read_text())["stages"] == ["fit", "test"]
    for noise in ("Traceback", "sync_dist", "Seed set"):
        assert noise not in done.stderr
