"""What ForgettingMetrics refuses: each with the sentence that says how to mend it."""

from typing import Any

import pytest
import torch
from scripted_project import Scripted, Silent, learn, loaders, trainer

from pvision.callbacks.forgetting_metrics import ForgettingMetrics
from pvision.errors import ConfigError


def test_percentages_are_refused_with_the_remedy_and_divided_if_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"test_percent.* must be a fraction .* 10 came.*scale=100"):
        trainer(ForgettingMetrics("test_percent")).test(Scripted(), loaders(), verbose=False)
    callback = ForgettingMetrics("test_percent", scale=100, plots=False)
    learn(callback, Scripted(), 1)
    assert callback.matrix[0, 0] == pytest.approx(0.9)


def test_a_fit_that_could_not_train_is_no_experience() -> None:
    callback, module = ForgettingMetrics(plots=False), Scripted()
    run = trainer(callback)
    run.fit(module, loaders()[0])
    run.test(module, loaders(), verbose=False)
    with pytest.raises(ConfigError, match="This fit trained nothing, because its Trainer had reached its max_epochs"):
        run.fit(module, loaders()[1])
    assert len(callback.matrix) == 1
    trainer(callback, max_epochs=0).fit(module, loaders()[1])  # who asks for no training knows what he gets


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            "test_accuracy",
            "'test_accuracy/dataloader_idx_0', but nobody logged it. Logged were: test_acc, test_percent",
        ),
        (None, "has nothing to measure: .* Logged were: test_acc, test_percent"),
        ("iou_{}", "which one loader over all classes gives, but 4 loaders came"),
    ],
)
def test_what_an_evaluation_does_not_give_is_named(metric: str | None, message: str) -> None:
    classes = [[0], [1]] if metric == "iou_{}" else None
    with pytest.raises(ConfigError, match=message):
        trainer(ForgettingMetrics(metric, classes=classes)).test(Silent(), loaders(), verbose=False)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"preds": torch.rand(4, 3), "target": torch.zeros(4).long()}, "'preds' .* must be an int tensor"),
        ({"preds": torch.zeros(3).long(), "target": torch.zeros(4).long()}, "holds 3 classes, but 'target' holds 4"),
        ({"preds": torch.zeros(4).long(), "target": torch.full((4,), -100)}, "holds the class -100"),
        ({"preds": [0, 1], "target": torch.zeros(2).long()}, "must be an int tensor of classes, but list came"),
    ],
)
def test_predictions_that_cannot_be_counted_are_refused(outputs: dict[str, Any], message: str) -> None:
    module = Scripted()
    module.test_step = lambda batch, batch_idx, dataloader_idx=0: outputs  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=message):
        trainer(ForgettingMetrics()).test(module, loaders(), verbose=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage": "predict"}, "stage must be one of 'test', 'validation'"),
        ({"definition": "mine"}, "definition of forgetting must be one of"),
        ({"scale": 0}, "scale must be a finite number above 0"),
        ({"baseline": [0.1, 12]}, "baseline must hold a fraction .* 12 came"),
        ({"reference": ["0.5"]}, "reference must hold a fraction"),
        ({"metric": "test_acc", "classes": [[0]]}, "classes belongs to a metric per class"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ForgettingMetrics(**arguments)


def test_a_crash_leaves_the_trainer_as_it_was() -> None:
    callback = ForgettingMetrics("absent")
    run = trainer(callback)
    with pytest.raises(ConfigError):
        run.test(Scripted(), loaders(), verbose=False)
    assert "_prepare_dataloader" not in vars(run._data_connector)


def test_processes_that_take_the_matrix_with_them_are_refused() -> None:
    run = trainer(ForgettingMetrics(), strategy="ddp_spawn", devices=2)
    with pytest.raises(ConfigError, match=r"'spawn' for each fit and test.* Use trainer.strategy='ddp'"):
        run.callbacks[0].setup(run, Scripted(), "fit")


def test_a_process_that_holds_another_value_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_both(mine: Any) -> list[Any]:
        pairs, _, logged = mine
        return [(pairs, {}, logged), (pairs, {}, {**logged, "test_acc/dataloader_idx_0": 0.3})]

    monkeypatch.setattr("pvision.callbacks._forgetting_values.from_all", from_both)
    with pytest.raises(
        ConfigError, match=r"different values of the metric 'test_acc/dataloader_idx_0'.*sync_dist=True"
    ):
        trainer(ForgettingMetrics("test_acc")).test(Scripted(), loaders(), verbose=False)
