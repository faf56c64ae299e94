"""PredictionWriter where several processes predict. Two real ones do in tests/datamodules/test_video_sharing.py."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pvision.callbacks import PredictionWriter


class Predicts(pl.LightningModule):
    """Predictions for given positions; of positions that are negative, in a form that the writer does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def predict_step(self, batch: list[torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> object:
        index = batch[0]
        if (index < 0).any():
            return index
        return {"index": index, "probabilities": torch.tensor([[0.25, 0.75]]).repeat(len(index), 1)}


def predict(*loaders: list[int]) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[PredictionWriter()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=Path.cwd(),
    )
    data = [DataLoader(TensorDataset(torch.tensor(positions)), batch_size=2) for positions in loaders]
    trainer.predict(Predicts(), data, return_predictions=False)


def names() -> list[str]:
    return [line.split(",")[0] for line in Path("predictions.csv").read_text().splitlines()]


def beside(monkeypatch: pytest.MonkeyPatch, columns: list[str], positions: list[int]) -> list[object]:
    """Another process that has predicted ``positions``, and what this one sent to it."""
    sent: list[object] = []

    def from_both(mine: object) -> list[object]:
        sent.append(mine)
        return [mine, (columns, {(0, position): [position, 0, "0.500000"] for position in positions})]

    monkeypatch.setattr("pvision.callbacks.prediction_writer.from_all", from_both)
    return sent


COLUMNS = ["name", "predicted", "probability"]


def test_the_shares_make_one_table_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    beside(monkeypatch, COLUMNS, [1, 3])
    predict([4, 2, 0])
    assert names() == ["name", "0", "1", "2", "3", "4"]


def test_a_record_that_two_processes_had_stands_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    beside(monkeypatch, COLUMNS, [0, 1])
    predict([0, 2])
    assert names() == ["name", "0", "1", "2"]


def test_a_process_with_nothing_to_tell_meets_the_others_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = beside(monkeypatch, COLUMNS, [0, 1])
    with pytest.warns(UserWarning, match="is not written"):
        predict([-1])
    assert len(sent) == 1
    assert names() == ["name", "0", "1"]


def test_several_loaders_do_not_hide_each_other() -> None:
    predict([1, 0], [0, 1])
    assert names() == ["name", "0", "1", "0", "1"]
