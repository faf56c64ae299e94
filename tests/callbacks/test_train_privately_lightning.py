"""Loaders, epochs, logs and other callbacks around a module that trains privately."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from somebodys_project import CLASSES, RECORDS, Own, OwnByHand, fit, records, redact, statement
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy

from pvision.callbacks import PrivacyAccounting, TrainPrivately
from pvision.errors import ConfigError, PrivacyError

pytestmark = pytest.mark.usefixtures("quick")


class Clips(Dataset[Any]):
    """Dictionaries with numbers, a text and a mask; counts how often each record was asked for."""

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "video": torch.full((3, 2), float(index)),
            "label": index % CLASSES,
            "name": f"clip {index}",
            "size": (torch.tensor(index), torch.tensor([1.5], dtype=torch.float64)),
        }


class OwnOfClips(Own):
    def loss(self, batch: Any) -> Tensor:
        assert all(isinstance(name, str) for name in batch["name"])
        assert len(batch["name"]) in (1, len(batch["video"]))
        return F.cross_entropy(self.network(batch["video"].flatten(1)), batch["label"])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_are_those_of_the_users_own_loader_empty_ones_too(workers: int) -> None:
    spec = statement(sample_rate=0.02, steps=12)
    private, module = TrainPrivately(spec, engine="loop"), OwnOfClips()
    fit(private, module, Clips(), loader={"num_workers": workers})
    sizes = [len(batch["video"]) for batch in module.batches]
    assert len(sizes) == 12 == private.privacy_steps
    assert 0 in sizes, "with 0.98^24 = 0.6 each, one of twelve is empty but for one run in sixty thousand"
    for batch in module.batches:
        plain = next(iter(DataLoader(Clips(), batch_size=RECORDS)))
        assert batch.keys() == plain.keys()
        assert batch["label"].dtype == plain["label"].dtype
        assert batch["size"][1].dtype == torch.float64
        assert batch["video"].shape[1:] == (3, 2)
        assert list(batch["name"]) == [f"clip {int(index)}" for index in batch["size"][0]]


def test_texts_ask_for_the_other_engine() -> None:
    with pytest.raises(ConfigError, match="engine='loop'"):
        fit(TrainPrivately(statement(sample_rate=1.0)), OwnOfClips(), Clips())


def test_training_ends_with_the_statement_and_an_epoch_is_one_round() -> None:
    private, module = TrainPrivately(statement(sample_rate=0.5, steps=5)), Own()
    trainer = fit(private, module)
    assert (trainer.num_training_batches, trainer.global_step, trainer.current_epoch) == (2, 5, 3)
    assert private.privacy_steps == 5


def test_training_may_end_sooner() -> None:
    private = TrainPrivately(statement(sample_rate=0.5, steps=50))
    fit(private, Own(), max_epochs=2)
    assert private.privacy_steps == 4


def test_the_module_is_given_back_as_it_was() -> None:
    class Breaks(Own):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("planned")

    for module in (Own(), Breaks(), OwnByHand(private := TrainPrivately(statement()))):
        before = dict(vars(module))
        if isinstance(module, Breaks):
            with pytest.raises(RuntimeError, match="planned"):
                fit(TrainPrivately(statement()), module)
        else:
            fit(private if isinstance(module, OwnByHand) else TrainPrivately(statement()), module)
        assert before.keys() >= {name for name in vars(module) if not name.startswith("_")}
        for name in ("training_step", "manual_backward", "log"):
            assert name not in vars(module)


class Logs(Own):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, on_epoch=True, on_step=False)
        self.log_dict({"train/size": float(len(batch[0]))})
        return loss


class Validates(Logs):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_what_a_step_logs_is_withheld(engine: str) -> None:
    with pytest.warns(UserWarning, match="not logged") as told:
        trainer = fit(TrainPrivately(statement(), engine=engine), Logs())
    assert not [name for name in trainer.callback_metrics if name.startswith("train")]
    assert sum("not logged" in str(one.message) for one in told) == 2, "once for each name"


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_a_named_metric_is_logged_as_the_mean_over_records(engine: str) -> None:
    spec = statement(sample_rate=1.0, steps=1)
    private = TrainPrivately(spec, engine=engine, microbatch=7, log_unnoised=("train/loss", "train/size"))
    module = Logs()
    before = float(module.loss(records().tensors).detach())
    trainer = fit(private, module)
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(before, rel=1e-5)
    assert float(trainer.callback_metrics["train/size"]) == 1, "records never meet"


def test_the_redacted_view_may_be_logged_and_validation_too() -> None:
    spec = statement(mechanism="residual", sample_rate=1.0, steps=2, relation="zero_out")
    private, module = TrainPrivately(spec, redact=redact), Validates()
    trainer = pl.Trainer(
        callbacks=[private],
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.warns(UserWarning, match="not logged"):
        trainer.fit(module, private.loader(records()), DataLoader(records(), 8))
    assert {"val/loss", "train/loss"} <= trainer.callback_metrics.keys()


def test_epsilon_is_logged_and_reported(tmp_path: Path) -> None:
    spec = statement(noise_multiplier=2.0, sample_rate=1.0, steps=2)
    private = TrainPrivately(spec)
    trainer = fit(private, Own(), logger=CSVLogger(tmp_path))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["privacy/epsilon_zero_out"] == pytest.approx(spec.epsilon("zero_out", steps=2))
    assert logged["privacy/epsilon_add_remove"] == pytest.approx(spec.epsilon("add_remove", steps=2))
    assert logged["privacy/steps"] == 2
    assert private.report() == spec.report(steps=2)
    assert "privacy/epsilon_replace" in Path(trainer.logger.log_dir, "metrics.csv").read_text()


class Data(pl.LightningDataModule):
    """Makes the loader when Lightning asks for it, after fit has begun."""

    def __init__(self, private: TrainPrivately) -> None:
        super().__init__()
        self.private, self.asked = [private], 0

    def train_dataloader(self) -> Any:
        self.asked += 1
        return self.private[0].loader(records())


@pytest.mark.parametrize("every", [0, 1])
def test_a_data_module_may_make_the_loader(every: int) -> None:
    private = TrainPrivately(statement(steps=5))
    data = Data(private)
    trainer = pl.Trainer(
        callbacks=[private],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=every,
        max_epochs=9,
    )
    module = Own()
    trainer.fit(module, datamodule=data)
    assert private.privacy_steps == 5 == len(module.gradients)
    assert data.asked == (3 if every else 1)


def test_a_budget_ends_training_too() -> None:
    spec = statement(sample_rate=1.0, steps=6, noise_multiplier=5.0)
    private = TrainPrivately(spec)
    budget = spec.epsilon("replace", steps=3)
    fit(private, Own(), callbacks=[PrivacyAccounting(budget=budget * 1.001)])
    assert private.privacy_steps == 3


def test_metrics_in_a_step_need_the_loop_and_are_withheld() -> None:
    class Measures(Own):
        def __init__(self) -> None:
            super().__init__()
            self.accuracy = MulticlassAccuracy(CLASSES)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.accuracy(self.network(batch[0].flatten(1)), batch[1])
            self.log("train/accuracy", self.accuracy)
            return self.loss(batch)

        def on_train_epoch_end(self) -> None:
            self.log("train/accuracy_epoch", self.accuracy.compute())

    with pytest.warns(UserWarning, match="not logged"):
        trainer = fit(TrainPrivately(statement(), engine="loop"), Measures())
    assert not [name for name in trainer.callback_metrics if name.startswith("train")]


def test_no_report_where_nothing_is_known() -> None:
    with pytest.raises(PrivacyError, match="ledger_report"):
        TrainPrivately(statement()).report()
