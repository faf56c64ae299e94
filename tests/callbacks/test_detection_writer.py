"""DetectionWriter: every image once, in order, in a form that COCO tools know."""

import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from pvision.callbacks.detection_writer import DetectionWriter
from pvision.callbacks.prediction_writer import PredictionWriter
from pvision.detection.records import Prediction


class Detects(pl.LightningModule):
    """Finds in image N a weak box and a good one, in an image whose name begins with "empty" nothing."""

    class_names = ("person", "dog")

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def predict_step(self, batch: list[str], batch_idx: int, dataloader_idx: int = 0) -> object:
        return {"names": batch, "predictions": [found(name) for name in batch]}


class Other(Detects):
    def predict_step(self, batch: list[str], batch_idx: int, dataloader_idx: int = 0) -> object:
        return torch.zeros(1)


def found(name: str) -> Prediction:
    count = 0 if name.startswith("empty") else 2
    boxes = torch.tensor([[1.0, 2.0, 4.0, 8.5], [0.0, 0.0, 2.0, 2.0]])
    return {"boxes": boxes[:count], "scores": torch.tensor([0.25, 0.5])[:count], "labels": torch.tensor([1, 0])[:count]}


def predict(module: pl.LightningModule, *loaders: list[str], **changes: object) -> None:
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
                "enable_progress_bar": False, "enable_model_summary": False}  # fmt: skip
    run = pl.Trainer(**{**settings, "callbacks": [DetectionWriter(), PredictionWriter()], **changes})
    data = [DataLoader(names, batch_size=2, collate_fn=list) for names in loaders]
    run.predict(module, data, return_predictions=False)


def written() -> list[dict]:
    return json.loads(Path("detections.json").read_text(encoding="utf-8"))


def test_boxes_stand_there_by_name_as_left_top_width_height_the_best_first() -> None:
    predict(Detects(), ["b", "empty", "a"])
    assert written() == [
        {"image": image, **entry}
        for image in ("a", "b")
        for entry in (
            {"category": "person", "bbox": [0.0, 0.0, 2.0, 2.0], "score": 0.5},
            {"category": "dog", "bbox": [1.0, 2.0, 3.0, 6.5], "score": 0.25},
        )
    ]
    assert not Path("predictions.csv").exists()


def test_no_detections_are_an_empty_list() -> None:
    predict(Detects(), ["empty"])
    assert written() == []


def test_a_label_without_a_name_stays_a_number() -> None:
    module = Detects()
    module.class_names = ("person",)
    predict(module, ["a"])
    assert [entry["category"] for entry in written()] == ["person", 1]


def test_several_loaders_do_not_hide_each_other() -> None:
    predict(Detects(), ["a"], ["a"])
    assert len(written()) == 4


@pytest.mark.filterwarnings("ignore:.*predictions.csv is not written")
def test_predictions_of_another_form_are_left_alone() -> None:
    predict(Other(), ["a"])
    assert not Path("detections.json").exists()


def test_a_trial_run_leaves_nothing() -> None:
    predict(Detects(), ["a"], fast_dev_run=True)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("mine", [["a", "c"], []], ids=["some", "none"])
def test_the_shares_of_two_processes_make_one_list(monkeypatch: pytest.MonkeyPatch, mine: list[str]) -> None:
    def from_both(own: object) -> list[object]:
        theirs = {(0, name): [{"image": name, "category": "dog"}] for name in ("b", "c")}
        return [own, (True, theirs)]

    monkeypatch.setattr("pvision.callbacks.detection_writer.from_all", from_both)
    predict(Detects(), mine or ["empty"])
    images = [entry["image"] for entry in written()]
    assert images == (["a", "a", "b", "c", "c"] if mine else ["b", "c"])
