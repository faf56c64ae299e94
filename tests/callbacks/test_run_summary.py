"""RunSummary and PredictionWriter in a project that knows nothing of pvision: its own module, manual optimisation."""

import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pvision.callbacks.prediction_writer import PredictionWriter
from pvision.callbacks.run_summary import RunSummary


class Foreign(pl.LightningModule):
    """Somebody's module: manual optimisation, no privacy."""

    def __init__(self, *, fails_at: str = "") -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer, self.fails_at = nn.Linear(3, 2), fails_at

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        if self.fails_at == "fit":
            raise RuntimeError("a bug of theirs")
        optimizer = self.optimizers()
        loss = self.layer(batch[0]).square().mean()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log("loss", loss)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("score", float("inf") if self.fails_at == "score" else 0.25)

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layer(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class Classifies(Foreign):
    """Predictions in the form that PredictionWriter reads, out of order."""

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
        index = torch.arange(len(batch[0])) + 4 * batch_idx
        return {"index": index.flip(0), "probabilities": torch.tensor([[0.25, 0.75]]).repeat(len(index), 1)}


@dataclass(frozen=True)
class Report:
    epsilon_zero_out: float = 1.5
    epsilon_replace: float = math.inf
    private: bool = True


class Private(Foreign):
    def privacy_report(self) -> Report:
        return Report()


class Unready(Foreign):
    def privacy_report(self) -> Report:
        raise ValueError("no steps yet")


def loader() -> DataLoader:
    return DataLoader(TensorDataset(torch.ones(8, 3)), batch_size=4)


def trainer(*callbacks: pl.Callback, **changes: object) -> pl.Trainer:
    settings = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": list(callbacks),
        "default_root_dir": "out",
    }
    return pl.Trainer(**{**settings, **changes})


def read(path: Path | None) -> dict:
    assert path is not None
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_foreign_project_gets_its_metrics_versions_and_times() -> None:
    summary = RunSummary(name="theirs")
    run = trainer(summary)
    run.fit(Foreign(), loader())
    assert summary.path == Path("out/summary.json")
    content = read(summary.path)
    assert content["metrics"] == {"loss": pytest.approx(float(run.callback_metrics["loss"]))}
    assert (content["name"], content["status"], content["stages"]) == ("theirs", "FINISHED", ["fit"])
    assert content["privacy"] is None
    assert content["run_id"] is None
    assert content["versions"]["torch"] == torch.__version__.split("+")[0] or content["versions"]["torch"]
    assert content["wall_seconds"] > 0
    assert content["peak_memory_mb"] > 10
    assert content["started"] <= content["ended"]


def test_test_adds_to_what_fit_wrote() -> None:
    summary, module = RunSummary(), Foreign()
    run = trainer(summary)
    run.fit(module, loader())
    run.test(module, loader(), verbose=False)
    assert read(summary.path)["metrics"].keys() == {"loss", "score"}
    assert read(summary.path)["stages"] == ["fit", "test"]


def test_a_report_stands_under_privacy_and_among_the_metrics() -> None:
    summary = RunSummary()
    trainer(summary).fit(Private(), loader())
    content = read(summary.path)
    assert content["privacy"] == {"epsilon_zero_out": 1.5, "epsilon_replace": "inf", "private": True}
    assert content["metrics"]["privacy/epsilon_zero_out"] == 1.5
    assert content["metrics"]["privacy/epsilon_replace"] == "inf"


def test_the_file_is_strict_json_also_with_an_infinite_metric() -> None:
    summary = RunSummary()
    trainer(summary).test(Foreign(fails_at="score"), loader(), verbose=False)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert summary.path is not None
    assert json.loads(summary.path.read_text(), parse_constant=refuse)["metrics"]["score"] == "inf"


def test_a_failed_run_says_so_and_the_error_is_the_users_own() -> None:
    summary = RunSummary()
    with pytest.raises(RuntimeError, match="a bug of theirs"):
        trainer(summary).fit(Foreign(fails_at="fit"), loader())
    assert read(summary.path)["status"] == "FAILED"


def test_a_report_that_cannot_be_made_fails_the_run_and_is_not_left_out_in_silence() -> None:
    summary = RunSummary()
    with pytest.raises(ValueError, match="no steps yet"):
        trainer(summary).fit(Unready(), loader())
    assert read(summary.path)["status"] == "FAILED"


def test_another_run_begins_a_new_summary() -> None:
    summary = RunSummary()
    trainer(summary, default_root_dir="first").fit(Foreign(), loader())
    trainer(summary, default_root_dir="second").test(Foreign(), loader(), verbose=False)
    assert read(Path("first/summary.json"))["stages"] == ["fit"]
    assert read(Path("second/summary.json"))["stages"] == ["test"]
    assert read(Path("second/summary.json"))["metrics"].keys() == {"score"}


def test_the_folder_is_that_of_the_logger() -> None:
    summary = RunSummary()
    trainer(summary, logger=CSVLogger("logs", name="mine")).fit(Foreign(), loader())
    assert summary.path == Path("logs/mine/version_0/summary.json")


def test_a_trial_run_leaves_nothing() -> None:
    summary = RunSummary()
    trainer(summary, PredictionWriter(), fast_dev_run=True).fit(Foreign(), loader())
    assert summary.path is None
    assert not list(Path().iterdir())


def test_nothing_but_the_whole_file_is_left() -> None:
    summary = RunSummary()
    trainer(summary).fit(Foreign(), loader())
    assert [path.name for path in Path("out").iterdir()] == ["summary.json"]


def test_the_commit_is_that_of_the_working_folder() -> None:
    summary = RunSummary()
    trainer(summary).fit(Foreign(), loader())
    assert read(summary.path)["git_commit"] is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *command], check=True)
    trainer(summary).test(Foreign(), loader(), verbose=False)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert read(summary.path)["git_commit"] == head


def test_the_seed_is_the_one_of_seed_everything() -> None:
    pl.seed_everything(11, verbose=False)
    summary = RunSummary()
    trainer(summary).fit(Foreign(), loader())
    assert read(summary.path)["seed"] == 11


def test_predictions_are_written_in_the_order_of_the_records() -> None:
    trainer(PredictionWriter()).predict(Classifies(), loader(), return_predictions=False)
    lines = Path("out/predictions.csv").read_text().splitlines()
    assert lines[0] == "name,predicted,probability"
    assert lines[1:] == [f"{index},1,0.750000" for index in range(8)]


def test_predictions_of_another_form_are_left_alone_with_one_warning() -> None:
    with pytest.warns(UserWarning, match=r"predictions\.csv is not written") as caught:
        trainer(PredictionWriter()).predict(Foreign(), loader(), return_predictions=False)
    assert len([entry for entry in caught if "predictions.csv" in str(entry.message)]) == 1
    assert not Path("out").exists()
