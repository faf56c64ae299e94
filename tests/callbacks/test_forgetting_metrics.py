"""ForgettingMetrics in projects that know nothing of pvision: rows, values, loggers."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from scripted_project import BASELINE, COUNTS, R, Scripted, Validated, learn, loader, loaders, trainer
from torch import Tensor

from pvision.callbacks.forgetting_metrics import ForgettingMetrics
from pvision.callbacks.run_summary import RunSummary
from pvision.errors import ConfigError

GOLDEN = {
    "average_accuracy": 0.8225,
    "average_accuracy_micro": 0.852,
    "average_incremental_accuracy": 0.852708,
    "average_incremental_accuracy_micro": 0.8655,
    "accuracy_diaz_rodriguez": 0.843,
    "backward_transfer": -0.11,
    "forward_transfer": 0.15,
    "forgetting": 0.123333,
    "intransigence": 0.035,
    "learning_accuracy": 0.905,
    "learning_accuracy_gap": 0.0275,
    "stability": 0.79,
    "relative_forgetting": 0.13879,
    "forgetting_pycil": 0.13,
    "forgetting_avalanche": 0.11,
    "forgetting_coda_prompt": 0.059444,
}


@pytest.mark.parametrize("metric", [None, "test_acc"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_whole_stream_gives_the_golden_values(metric: str | None, by_hand: bool) -> None:
    callback = ForgettingMetrics(
        metric,
        compatible=True,
        reference=[0.93, 0.90, 0.96, 0.97],
        independent=[0.90, 0.91, 0.97, 0.95],
        plots=False,
    )
    module = Scripted(by_hand=by_hand)
    trainer(callback).test(module, loaders(), verbose=False)
    learn(callback, module, 4)
    np.testing.assert_allclose(callback.matrix, R, atol=1e-7)
    np.testing.assert_allclose(callback.counted.baseline(), BASELINE, atol=1e-7)
    wanted = {name: value for name, value in GOLDEN.items() if metric is None or not name.endswith("_micro")}
    found = {name: callback.values()[f"continual/{name}"] for name in wanted}
    assert found == pytest.approx(wanted, abs=1e-6)


def test_three_experiences_computed_by_hand() -> None:
    script = [[0.8, 0.0, 0.0], [0.6, 0.9, 0.0], [0.7, 0.5, 1.0]]
    callback = ForgettingMetrics("test_acc", plots=False)
    module = Scripted(script)
    for _ in script:
        run = trainer(callback)
        run.fit(module, loader(4))
        run.test(module, loaders(3), verbose=False)
    values = callback.values()
    assert values["continual/average_accuracy"] == pytest.approx((0.7 + 0.5 + 1.0) / 3)
    assert values["continual/forgetting"] == pytest.approx(((0.8 - 0.7) + (0.9 - 0.5)) / 2)
    assert values["continual/backward_transfer"] == pytest.approx(((0.7 - 0.8) + (0.5 - 0.9)) / 2)
    assert values["continual/learning_accuracy"] == pytest.approx((0.8 + 0.9 + 1.0) / 3)


def test_of_one_experience_forgetting_is_undefined_and_not_logged() -> None:
    callback = ForgettingMetrics(plots=False)
    run = trainer(callback)
    module = Scripted()
    run.fit(module, loader(4))
    run.test(module, loaders(), verbose=False)
    assert math.isnan(callback.values()["continual/forgetting"])
    assert run.callback_metrics["continual/average_accuracy"] == pytest.approx(0.9)
    assert "continual/forgetting" not in run.callback_metrics
    assert math.isnan(callback.summary_metrics()["continual/forgetting"])


def test_a_second_evaluation_replaces_the_row() -> None:
    callback = ForgettingMetrics(plots=False)
    module = Scripted()
    learn(callback, module, 2)
    assert callback.matrix[1, 0] == 0.80
    module.script = [R[0], R[2]]
    trainer(callback).test(module, loaders(), verbose=False)
    assert callback.matrix.shape == (2, 2)
    assert callback.matrix[1, 0] == 0.94
    assert callback.counted.counts().tolist() == COUNTS, "not counted on top of what was there"


def test_a_fit_without_an_evaluation_leaves_its_row_empty() -> None:
    callback = ForgettingMetrics(plots=False)
    module = Scripted()
    trainer(callback).fit(module, loader(4))
    learn(callback, module, 1)
    assert np.isnan(callback.matrix[0]).all()
    assert callback.matrix[1].tolist() == R[1][:2]


def test_trials_leave_no_trace(tmp_path: Path) -> None:
    callback = ForgettingMetrics(stage="validation")
    module = Validated()
    run = trainer(callback, fast_dev_run=True)
    run.fit(module, loader(4), loaders())
    run.validate(module, loaders(), verbose=False)
    assert callback.values() == {}
    assert callback.state_dict()["fits"] == 0
    assert not list(Path.cwd().glob("accuracy*"))


def test_the_sanity_check_measures_nothing() -> None:
    callback = ForgettingMetrics(stage="validation", plots=False)
    run = trainer(callback, num_sanity_val_steps=2, limit_train_batches=0)
    run.fit(Validated(), loader(4), loaders())
    assert callback.values() == {}


def test_validation_within_a_fit_measures_the_row_of_that_fit() -> None:
    callback = ForgettingMetrics(stage="validation", plots=False)
    module = Validated([BASELINE, *R])
    module.fits = 1  # so that the script is one row ahead: a model that has learned while it still trains
    for _ in range(3):
        run = trainer(callback, max_epochs=2)
        run.fit(module, loader(4), loaders())
        assert "continual/average_accuracy" in run.callback_metrics
    np.testing.assert_allclose(callback.matrix, [[0.1, 0.12, 0.08], *[row[:3] for row in R[:2]]])
    values = callback.values()
    means = [0.10, (0.9 + 0.2) / 2, (0.8 + 0.85 + 0.25) / 3]
    assert values["continual/anytime_average_accuracy"] == pytest.approx(np.mean(means))
    assert len(callback.state_dict()["history"]["during"]) == 6
    assert (Path.cwd() / "accuracy_matrix.csv").read_text().count("\n") == 4


def test_a_checkpoint_may_be_chosen_by_what_is_kept() -> None:
    checkpoint = ModelCheckpoint(Path.cwd(), monitor="continual/average_accuracy", mode="max")
    run = trainer(ForgettingMetrics(stage="validation", plots=False), checkpoint, enable_checkpointing=True)
    run.fit(Validated(), loader(4), loaders())
    assert checkpoint.best_model_score == pytest.approx(BASELINE[0])


def test_callbacks_with_other_arguments_keep_states_of_their_own() -> None:
    made = [
        ForgettingMetrics(),
        ForgettingMetrics("test_acc"),
        ForgettingMetrics("test_acc", stage="validation"),
        ForgettingMetrics("test/iou_{}", classes=[[0], [1]]),
        ForgettingMetrics("test/iou_{}", classes=[[0], [1, 2]]),
    ]
    assert len({callback.state_key for callback in made}) == len(made)


def test_another_definition_of_forgetting_says_so_in_its_name() -> None:
    callback = ForgettingMetrics(definition="pycil", plots=False)
    learn(callback, Scripted(), 4)
    assert callback.values()["continual/forgetting_pycil"] == pytest.approx(0.13)
    assert "continual/forgetting" not in callback.values()


class Segments(Scripted):
    """One joint evaluation that logs a metric per class; class 2 is absent from the test set."""

    IOU = ((0.9, 0.7, math.nan, 0.1), (0.5, 0.3, math.nan, 0.8))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        for label, value in enumerate(self.IOU[self.fits - 1]):
            self.log(f"test/iou_{label}", value)


@pytest.mark.parametrize("metric", ["test/iou_{}", {label: f"test/iou_{label}" for label in range(4)}])
def test_a_metric_per_class_makes_a_row_of_one_evaluation(metric: Any) -> None:
    callback, module = ForgettingMetrics(metric, classes=[[0, 1], [2, 3]], plots=False), Segments()
    for _ in range(2):
        run = trainer(callback)
        run.fit(module, loader(4))
        run.test(module, loader(8), verbose=False)
    np.testing.assert_allclose(callback.matrix, [[0.8, 0.1], [0.4, 0.8]], rtol=1e-6)
    assert callback.values()["continual/forgetting"] == pytest.approx(0.4)


def test_a_metric_per_class_needs_to_know_the_classes() -> None:
    with pytest.raises(ConfigError, match="classes is missing"):
        trainer(ForgettingMetrics("test/iou_{}")).test(Segments(), loader(8), verbose=False)
    with pytest.raises(ConfigError, match="names no metric for class 7"):
        trainer(ForgettingMetrics({0: "test/iou_0"}, classes=[[0, 7]])).test(Segments(), loader(8), verbose=False)


class Grows(Scripted):
    """Meets new classes with every experience, and predicts task-aware too."""

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        preds, target = self.evaluate(batch, dataloader_idx)
        return {"preds": preds.clamp(max=self.fits), "target": target, "preds_task_aware": target}


def test_classes_may_come_with_the_experiences_and_predictions_be_task_aware() -> None:
    callback, module = ForgettingMetrics(plots=False), Grows()
    for number in range(3):
        run = trainer(callback)
        run.fit(module, loader(4))
        run.test(module, loaders(number + 1), verbose=False)
    expected = np.where(np.tri(3, dtype=bool), np.array(R)[:3, :3], np.nan)
    np.testing.assert_allclose(callback.matrix, expected)
    assert callback.counted.confusion(2).trace() == 94 + 70 + 190
    assert callback.values()["continual/task_aware/average_accuracy"] == 1
    assert callback.values()["continual/task_aware/forgetting"] == 0


class Bare(Logger):
    """A logger that can do no more than a logger must."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[dict[str, float], int | None]] = []

    name, version = "bare", 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.logged.append((dict(metrics), step))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def test_every_logger_gets_the_scalars_with_the_row_as_step() -> None:
    bare, table = Bare(), CSVLogger(Path.cwd(), name="csv")
    learn(ForgettingMetrics(), Scripted(), 2, logger=[bare, table])
    steps = [(step, logged) for logged, step in bare.logged if "continual/average_accuracy" in logged]
    assert [step for step, _ in steps] == [0, 1]
    assert steps[1][1]["continual/accuracy/experience_0"] == 0.8
    assert "continual/forgetting" not in steps[0][1], "undefined, so not a number that anyone could plot"
    assert steps[1][1]["continual/forgetting"] == pytest.approx(0.1)
    assert "continual/forgetting" in (Path(table.log_dir) / "metrics.csv").read_text()
    assert (Path.cwd() / "bare" / "version_0" / "accuracy_matrix.png").exists()


def test_the_run_summary_ends_with_them() -> None:
    callback, summary = ForgettingMetrics(plots=False), RunSummary()
    module = Scripted()
    run = trainer(callback, summary)
    run.fit(module, loader(4))
    run.test(module, loaders(), verbose=False)
    assert '"continual/average_accuracy": 0.9' in summary.path.read_text()
    assert '"continual/forgetting": "nan"' in summary.path.read_text()


def test_one_line_says_what_was_measured_and_may_be_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    learn(ForgettingMetrics(names=["cats", "dogs"], plots=False), Scripted(), 2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("After experience")]
    assert lines[1].startswith("After experience 2 (dogs): average accuracy 0.825, forgetting 0.100. Accuracy matrix: ")
    learn(ForgettingMetrics(plots=False, verbose=False), Scripted(), 1)
    assert "After experience" not in capsys.readouterr().out


FOREIGN = """
import sys, warnings
warnings.simplefilter("ignore")
import lightning.pytorch as pl
old = set(sys.modules)
from pvision.callbacks.forgetting_metrics import ForgettingMetrics
new = {name.partition(".")[0] for name in set(sys.modules) - old}
assert not new & {"mlflow", "kornia", "albumentations", "pytorchvideo", "matplotlib", "torchvision"}, new
import torch
from torch.utils.data import DataLoader, TensorDataset

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 4)
    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("test_acc", (self.layer(batch[0]).argmax(1) == batch[1]).float().mean())
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.3)

torch.manual_seed(0)
corner = torch.tensor([[3.0, 3], [-3, 3], [3, -3], [-3, -3]])
tasks = []
for classes in ([0, 1], [2, 3]):
    label = torch.tensor(classes).repeat(20)
    tasks.append(DataLoader(TensorDataset(corner[label] + torch.randn(40, 2), label), 40))
forgetting, net = ForgettingMetrics("test_acc"), Net()
for task in tasks:
    trainer = pl.Trainer(max_epochs=30, callbacks=[forgetting], accelerator="cpu", logger=False,
                         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(net, task)
    trainer.test(net, tasks, verbose=False)
values = forgetting.values()
assert forgetting.matrix[0, 0] > 0.9 and forgetting.matrix[1, 1] > 0.9 and forgetting.matrix[1, 0] < 0.7
assert values["continual/forgetting"] > 0.3, values
print("matrix", forgetting.matrix.tolist())
"""


@pytest.mark.slow
def test_one_line_in_a_foreign_project(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    names = {path.name for path in tmp_path.iterdir()}
    assert {"accuracy_matrix.csv", "accuracy_matrix.json", "accuracy_matrix.png", "accuracy_curves.png"} <= names
