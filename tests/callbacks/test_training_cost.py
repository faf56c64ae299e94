"""TrainingCost in projects of others: known counts, known bytes, times that add up."""

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from pvision.callbacks.training_cost import TrainingCost
from pvision.continual.cost import forward_cost, tensor_bytes, tensors_in
from pvision.continual.experience import Experience
from pvision.errors import ConfigError


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


# tokens 50, width 32: q, k, v and output 4·50·32², scores and their product with the values 2·50²·32
ATTENTION = 4 * 50 * 32**2 + 2 * 50**2 * 32
KNOWN: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "convolution": (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 12), 8 * 10 * 12 * 3 * 9),
    "grouped convolution": (nn.Conv2d(4, 8, 3, groups=4), (4, 6, 6), 8 * 4 * 4 * 9),
    "linear": (nn.Linear(20, 30), (20,), 600),
    "attention by SDPA": (Attention(), (50, 32), ATTENTION),
    "fused encoder layer": (
        nn.TransformerEncoderLayer(32, 4, 64, batch_first=True),
        (50, 32),
        ATTENTION + 2 * 50 * 32 * 64,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("batch", [1, 3])
def test_multiplications_are_those_of_the_formula(name: str, batch: int) -> None:
    module, shape, expected = KNOWN[name]
    cost = forward_cost(module.eval(), torch.randn(batch, *shape))
    assert cost.gmacs * 1e9 == pytest.approx(expected)
    assert math.isnan(cost.forwards)


def test_a_vit_b16_has_the_published_count() -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        vit, image = models.vit_b_16().eval(), torch.randn(1, 3, 224, 224)
    assert forward_cost(vit, image).gmacs == pytest.approx(17.5638, abs=1e-4)


def test_passes_are_counted_in_images() -> None:
    backbone = nn.Linear(4, 4)

    def predict(image: Tensor) -> Tensor:
        return backbone(input=backbone(image.repeat(5, 1))[:1])

    assert forward_cost(predict, torch.ones(1, 4), backbone=backbone).forwards == 6


def test_measuring_changes_nothing() -> None:
    dropout, backbone = nn.Dropout(), nn.Linear(4, 4)
    before = torch.random.get_rng_state()
    forward_cost(lambda image: dropout(backbone(image)), torch.ones(1, 4), backbone=backbone)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.backends.mha.get_fastpath_enabled()
    assert not backbone._forward_pre_hooks
    with pytest.raises(RuntimeError):
        forward_cost(backbone, torch.ones(1, 5), backbone=backbone)
    assert torch.backends.mha.get_fastpath_enabled()
    assert not backbone._forward_pre_hooks


def test_tied_tensors_count_once() -> None:
    weight = torch.ones(3, 4)
    assert tensor_bytes(tensors_in({"a": [weight, (weight,)], "b": {"c": weight.T}, "d": 3})) == 48


class Batch(NamedTuple):
    label: Tensor
    image: Tensor


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.backbone.bias.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        return self.head((self.backbone(image) + self.backbone(image.flip(3))).mean((2, 3)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0]).square().mean()

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("score", 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([one for one in self.parameters() if one.requires_grad], 0.01)


class Validates(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("score", 1.0)


GMACS = 2 * 4 * 6 * 6 * 27 + 8  # two passes of the convolution, and the head


def loader(count: int = 12) -> DataLoader:
    return DataLoader(TensorDataset(torch.ones(count, 3, 8, 8), torch.zeros(count)), batch_size=4)


def trainer(*callbacks: Callback, **changes: Any) -> pl.Trainer:
    settings = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": CSVLogger("logs", version="one"),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(callbacks=list(callbacks), **{**settings, **changes})


def folder() -> Path:
    return next(Path("logs").rglob("cost.json")).parent


def rows() -> list[dict[str, Any]]:
    return json.loads((folder() / "cost.json").read_text())["experiences"]


def table_of(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder() / name).read_text().splitlines()))


def test_a_fit_and_its_test_give_one_row() -> None:
    callback, module = TrainingCost(), Net()
    one = trainer(callback)
    one.fit(module, loader())
    one.test(module, [loader(), loader(8)], verbose=False)
    (row,) = rows()
    assert row["experience"] == 0
    assert row["parameters_total"] == row["parameters_stored"] == 3 * 4 * 9 + 4 + 8 + 2
    assert row["parameters_trainable"] == row["parameters_total"] - 4
    assert row["module_bytes"] == 4 * row["parameters_total"]
    assert row["optimizer_bytes"] == 2 * 4 * row["parameters_trainable"] + 3 * 4  # two moments; a step for each tensor
    assert row["replay_bytes"] == 0
    assert row["gmacs_per_image"] * 1e9 == pytest.approx(GMACS)
    assert row["forwards_per_image"] == 2
    assert row["train_images_per_second"] * row["fit_seconds"] == pytest.approx(12)
    assert row["evaluation_images_per_second"] * row["evaluation_seconds"] == pytest.approx(20)
    assert row["peak_memory_mib"] > 50
    table = table_of("cost.csv")
    assert float(table[0]["gmacs_per_image"]) == row["gmacs_per_image"]
    summary = callback.summary_metrics()
    assert summary["cost/forwards_per_image"] == 2
    assert summary["cost/total_fit_seconds"] == row["fit_seconds"]


def test_values_reach_the_loggers_with_the_experience_as_step() -> None:
    one, module = trainer(TrainingCost()), Validates()
    for epochs in (1, 2):
        one.fit_loop.max_epochs = epochs
        one.fit(module, loader(), loader())
        one.validate(module, loader(), verbose=False)
    one.logger.save()
    logged = [row for row in table_of("metrics.csv") if row.get("cost/gmacs_per_image")]
    assert [int(row["step"]) for row in logged] == [0, 1]
    assert [row["experience"] for row in rows()] == [0, 1]


def test_validation_within_a_fit_is_not_an_evaluation() -> None:
    trainer(TrainingCost()).fit(Validates(), loader(), loader())
    assert "evaluation_seconds" not in rows()[0]


class Stream(pl.LightningDataModule):
    experiences = tuple(Experience(k, "learn", str(k), (k,)) for k in range(6))
    current = 4

    class Replay:
        nbytes = 321

    replay = Replay()

    def train_dataloader(self) -> DataLoader:
        return loader()

    def test_dataloader(self) -> DataLoader:
        return loader()


def test_a_stream_says_which_experience_it_is_and_how_much_it_replays() -> None:
    one, module, stream = trainer(TrainingCost()), Net(), Stream()
    one.fit(module, datamodule=stream)
    stream.replay.nbytes = 654  # the memory takes the experience in after the fit
    one.test(module, datamodule=stream, verbose=False)
    assert [(row["experience"], row["replay_bytes"]) for row in rows()] == [(4, 654)]


class Waits(Callback):
    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def on_train_batch_end(self, *args: Any) -> None:
        self.clock[0] += 10


class Stops(Callback):
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("pulled the plug")


def test_the_times_of_a_resumed_run_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("pvision.callbacks.training_cost.time.monotonic", lambda: clock[0])
    saving = ModelCheckpoint(dirpath="kept", save_last=True)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        trainer(Waits(clock), TrainingCost(), saving, Stops(), max_epochs=2).fit(Net(), loader())
    clock[0] += 1000
    callback = TrainingCost()
    one = trainer(Waits(clock), callback, ModelCheckpoint(dirpath="kept"), max_epochs=2)
    one.fit(Net(), loader(), ckpt_path="kept/last.ckpt", weights_only=True)
    (row,) = rows()
    assert row["fit_seconds"] == 60
    assert row["train_images_per_second"] == pytest.approx(24 / 60)
    assert callback.summary_metrics()["cost/total_fit_seconds"] == 60
    # A test with an older checkpoint does not undo what was measured since.
    one.test(Net(), loader(), ckpt_path="kept/last.ckpt", verbose=False, weights_only=True)
    assert rows()[0]["fit_seconds"] == 60


class NoForward(Net):
    def forward(self, image: Tensor, more: Tensor) -> Tensor:
        return image

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.head.weight.square().mean()


def test_a_module_that_cannot_predict_from_an_image_gets_nan_and_a_warning() -> None:
    one, module = trainer(callback := TrainingCost()), NoForward()
    with pytest.warns(UserWarning, match=r"could not call NoForward with one image \(TypeError"):
        one.test(module, loader(), verbose=False)
    assert rows()[0]["gmacs_per_image"] is None
    assert math.isnan(callback.summary_metrics()["cost/gmacs_per_image"])


def test_predict_goes_before_forward_and_a_named_backbone_before_backbone() -> None:
    class Predicts(NoForward):
        def predict(self, image: Tensor) -> Tensor:
            return self.head(image[:, 0, :2, :2].flatten(1))

    trainer(TrainingCost(backbone="head")).test(Predicts(), loader(), verbose=False)
    assert (rows()[0]["forwards_per_image"], rows()[0]["gmacs_per_image"]) == (1, 8e-9)


def test_an_unknown_backbone_is_refused_with_the_names_there_are() -> None:
    for run in ("fit", "test"):
        with pytest.raises(
            ConfigError, match=r"backbone='encoder'\): Net has no such submodule. It has backbone, head"
        ):
            getattr(trainer(TrainingCost(backbone="encoder")), run)(Net(), loader())


@pytest.mark.parametrize("kind", [dict, Batch, list])
def test_images_are_found_in_every_kind_of_batch(kind: type) -> None:
    def collate(items: list[tuple[Tensor, Tensor]]) -> Any:
        image, label = (torch.stack(part) for part in zip(*items, strict=True))
        if kind is list:
            return [image, label]
        return kind(label=label, image=image)

    batches = DataLoader(loader().dataset, batch_size=4, collate_fn=collate)
    trainer(TrainingCost()).test(Net(), batches, verbose=False)
    assert rows()[0]["gmacs_per_image"] * 1e9 == pytest.approx(GMACS)


def test_a_batch_without_images_gets_nan_and_a_warning() -> None:
    batches = DataLoader(TensorDataset(torch.zeros(4)))
    with pytest.warns(UserWarning, match="found no tensor of images"):
        trainer(TrainingCost()).test(Net(), batches, verbose=False)


def test_a_trial_run_leaves_nothing() -> None:
    one, module = trainer(callback := TrainingCost(), fast_dev_run=True), Net()
    one.fit(module, loader())
    one.test(module, loader(), verbose=False)
    assert not list(Path().rglob("cost.*"))
    assert callback.summary_metrics() == {}
    trainer(callback).fit(module, loader())
    assert [row["experience"] for row in rows()] == [0], "a trial is no experience"


def test_images_of_a_fit_that_failed_do_not_count_in_the_next() -> None:
    callback, module = TrainingCost(), Net()
    with pytest.raises(RuntimeError, match="pulled the plug"):
        trainer(callback, Stops(), logger=False, max_epochs=2).fit(module, loader())
    trainer(callback, logger=False).fit(module, loader())
    found = callback.summary_metrics()
    assert found["cost/train_images_per_second"] * found["cost/fit_seconds"] == pytest.approx(12)
