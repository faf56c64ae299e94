"""What `TrainPrivately` refuses, each beside a sibling that it takes."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pvision.callbacks import TrainPrivately
from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import PrivacySpec

RECORDS, CLASSES = 12, 3


def statement(**changes: Any) -> PrivacySpec:
    values: dict[str, Any] = {
        "mechanism": "dp_sgd",
        "unit": "clip",
        "mask": "public",
        "polarity": "inside",
        "label": "public",
        "relation": "replace",
        "delta": 1e-4,
        "max_grad_norm": 0.5,
        "sample_rate": 1.0,
        "steps": 2,
        "noise_multiplier": 1.0,
    }
    return PrivacySpec(**{**values, **changes})


RESIDUAL = {"mechanism": "residual", "relation": "zero_out"}


class Own(pl.LightningModule):
    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network or nn.Linear(6, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def records() -> TensorDataset:
    torch.manual_seed(1)
    return TensorDataset(torch.randn(RECORDS, 6), torch.randint(CLASSES, (RECORDS,)))


def redact(batch: Any) -> Any:
    batch[0][:, 4:] = 0
    return batch


def trainer(private: TrainPrivately, **options: Any) -> pl.Trainer:
    callbacks = [private, *options.pop("callbacks", [])]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 3}
    return pl.Trainer(callbacks=callbacks, accelerator="cpu", enable_model_summary=False, **{**quiet, **options})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not compute ε after every epoch, which takes seconds."""
    monkeypatch.setattr("pvision.callbacks._private_hooks.released_metrics", lambda report: {})
    monkeypatch.setattr(PrivacySpec, "report", lambda spec, steps: None)


def run(module: pl.LightningModule, private: TrainPrivately | None = None, **options: Any) -> TrainPrivately:
    private = private or TrainPrivately(statement())
    trainer(private, **options).fit(module, private.loader(records()))
    return private


# Statements

STATEMENTS: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (ConfigError, "must be a PrivacySpec", lambda: TrainPrivately({"mechanism": "dp_sgd"})),  # type: ignore[arg-type]
    (ConfigError, "redact is missing", lambda: TrainPrivately(statement(**RESIDUAL))),
    (ConfigError, "redact came", lambda: TrainPrivately(statement(), redact=redact)),
    (PrivacyError, "label", lambda: TrainPrivately(statement(**RESIDUAL, label="private"), redact=redact)),
    (ConfigError, "engine", lambda: TrainPrivately(statement(), engine="ghost")),
    (ConfigError, "microbatch", lambda: TrainPrivately(statement(), microbatch=0)),
    (ConfigError, "public_batch_size", lambda: TrainPrivately(statement(), public_batch_size=0)),
    (ConfigError, "residual_weight", lambda: TrainPrivately(statement(), residual_weight=1.5)),
    (ConfigError, "batch_size came", lambda: TrainPrivately(statement()).loader(records(), batch_size=4)),
    (ConfigError, "shuffle came", lambda: TrainPrivately(statement()).loader(records(), shuffle=True)),
    (ConfigError, "drop_last came", lambda: TrainPrivately(statement()).loader(records(), drop_last=True)),
    (ConfigError, "__getitem__", lambda: TrainPrivately(statement()).loader(iter([1]))),
]


@pytest.mark.parametrize(("kind", "words", "make"), STATEMENTS)
def test_arguments_are_refused_at_once(kind: type[Exception], words: str, make: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=words):
        make()


def test_all_mechanisms_are_taken_with_what_they_need() -> None:
    for changes in (RESIDUAL, {**RESIDUAL, "mechanism": "residual_shared_batch"}):
        run(Own(), TrainPrivately(statement(**changes), redact=redact))
    run(Own(), TrainPrivately(statement(mechanism="redact_then_dp_sgd")))


# Loaders


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(records())


def test_another_loader_is_refused() -> None:
    private = TrainPrivately(statement())
    private.loader(records())
    with pytest.raises(PrivacyError, match="The loader shuffles"):
        trainer(private).fit(Own(), DataLoader(records(), 4, shuffle=True))
    with pytest.raises(ConfigError, match="__getitem__"):
        private.loader(Stream())


def test_a_run_without_a_private_loader_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"private\.loader"):
        trainer(TrainPrivately(statement())).fit(Own(), DataLoader(records(), 4))


def test_a_collate_function_that_mixes_records_is_refused() -> None:
    def mixing(items: list[Any]) -> Any:
        batch = torch.utils.data.default_collate(items)
        return [batch[0] - batch[0].mean(0), batch[1]]

    private = TrainPrivately(statement())
    with pytest.raises(PrivacyError, match="collate"):
        trainer(private).fit(Own(), private.loader(records(), collate_fn=mixing))


def test_the_loader_is_not_iterated_outside_of_fit() -> None:
    loader = TrainPrivately(statement()).loader(records())
    assert len(loader) == 1
    with pytest.raises(PrivacyError, match="DataLoader of your own"):
        next(iter(loader))


def test_the_loader_is_not_iterated_beside_training() -> None:
    private = TrainPrivately(statement(sample_rate=0.25, steps=8))
    loader = private.loader(records())

    class Looks(Own):
        def on_train_batch_end(self, *_: Any) -> None:
            next(iter(loader))

    with pytest.raises(PrivacyError, match="second time"):
        trainer(private).fit(Looks(), loader)


def test_a_tensor_without_a_row_for_each_record_is_refused() -> None:
    class Weighs(Own):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [*batch, batch[0].mean()]

    with pytest.raises(PrivacyError, match="one row for each record"):
        run(Weighs())


# Networks and steps


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, CLASSES)
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, video: Tensor) -> Tensor:
        self.remember(video)
        return self.layer(video)

    def remember(self, video: Tensor) -> None:
        self.seen += video[0].detach()


class Reassigns(Counts):
    def remember(self, video: Tensor) -> None:
        self.seen = self.seen + video[0].detach()


class Draws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, CLASSES)

    def forward(self, video: Tensor) -> Tensor:
        return self.layer(F.dropout(video, 0.5))


def test_layers_that_mix_records_are_refused() -> None:
    with pytest.raises(PrivacyError, match="BatchNorm1d"):
        run(Own(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))))
    run(Own(nn.Sequential(nn.Linear(6, 3), nn.LayerNorm(3))))


@pytest.mark.parametrize("network", [Counts, Reassigns])
def test_a_step_that_changes_a_buffer_is_refused(network: Callable[[], nn.Module]) -> None:
    with pytest.raises(PrivacyError, match=r"buffer network\.seen"):
        run(Own(network()), TrainPrivately(statement(), engine="loop"))
    with pytest.raises((PrivacyError, ConfigError), match=r"buffer network\.seen|vectorised"):
        run(Own(network()), TrainPrivately(statement()))


@pytest.mark.parametrize(("engine", "kind"), [("loop", PrivacyError), ("vmap", ConfigError)])
def test_chance_that_differs_between_views_is_refused(engine: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="random"):
        run(Own(Draws()), TrainPrivately(statement(**RESIDUAL), redact=redact, engine=engine))
    run(Own(Draws()), TrainPrivately(statement(), engine=engine))  # one view: nothing to agree on


class ReadsValues(Own):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        return loss if loss.item() < 1e9 else 2 * loss


def test_what_cannot_be_vectorised_asks_for_the_other_engine() -> None:
    with pytest.raises(ConfigError, match="engine='loop'"):
        run(ReadsValues())
    assert run(ReadsValues(), TrainPrivately(statement(), engine="loop")).privacy_steps == 2


@pytest.mark.parametrize("result", [None, {"no": 1}, "vector"])
def test_a_step_without_a_loss_is_refused(result: Any) -> None:
    class Skips(Own):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch).repeat(2) if result == "vector" else result

    with pytest.raises(ConfigError, match="loss of a batch"):
        run(Skips())


def test_a_dict_with_a_loss_and_a_step_without_an_index_are_taken() -> None:
    class Plain(Own):
        def training_step(self, batch: Any) -> Any:
            return {"loss": self.loss(batch), "note": "kept out"}

    assert run(Plain()).privacy_steps == 2


# Gradients that no mechanism released


class Adds(Own):
    def on_after_backward(self) -> None:
        self.network.weight.grad += 1e-3


def test_a_changed_gradient_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"network\.weight that the mechanism did not release"):
        run(Adds())


class ByHand(Own):
    def __init__(self, private: TrainPrivately, way: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.private, self.way = [private], way

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        private = self.private[0]
        if self.way == "manual_backward":
            self.manual_backward(self.loss(batch))
        elif self.way == "plain":
            self.loss(batch).backward()
            self.optimizers(use_pl_optimizer=False).step()
        elif self.way == "added":
            private.backward(self, batch, self.loss)
            self.loss(batch).backward()
        elif self.way == "twice":
            private.backward(self, batch, self.loss)
            private.backward(self, batch, self.loss)
        elif self.way == "right":
            private.backward(self, batch, self.loss)
        if self.way != "nothing":
            optimizer.step()


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("manual_backward", r"private\.backward\(self, batch, loss\)"),
        ("plain", "did not release"),
        ("added", "did not release"),
        ("twice", "second release"),
        ("nothing", "released nothing"),
    ],
)
def test_by_hand_no_way_leads_past_the_mechanism(way: str, words: str) -> None:
    private = TrainPrivately(statement())
    with pytest.raises(PrivacyError, match=words):
        run(ByHand(private, way), private)


def test_by_hand_the_right_way_trains() -> None:
    private = TrainPrivately(statement())
    assert run(ByHand(private, "right"), private).privacy_steps == 2


def test_backward_belongs_into_a_step() -> None:
    private = TrainPrivately(statement())
    with pytest.raises(PrivacyError, match="while Trainer"):
        private.backward(Own(), None, lambda batch: batch)


class Foreign(Own):
    def __init__(self) -> None:
        super().__init__()
        self.outside = [torch.zeros(3, requires_grad=True)]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.parameters(), *self.outside], lr=0.1)


def test_parameters_that_the_engine_does_not_see_are_refused() -> None:
    with pytest.raises(PrivacyError, match=r"not the network's|not registered"):
        run(Foreign())


# Redactions


def blurs(batch: Any) -> Any:
    return [batch[0] * 0.5, batch[1]]


def mixes(batch: Any) -> Any:
    batch[0][:, 4:] = batch[0][:, :1].mean()
    return batch


def cuts(batch: Any) -> Any:
    return [batch[0][:, :4], batch[1]]


@pytest.mark.parametrize(("wrong", "words"), [(blurs, "idempotent"), (mixes, "alone"), (cuts, "other shapes")])
@pytest.mark.parametrize("mechanism", ["residual", "residual_shared_batch"])
def test_a_redaction_that_breaks_the_proof_is_refused(mechanism: str, wrong: Any, words: str) -> None:
    private = TrainPrivately(statement(**{**RESIDUAL, "mechanism": mechanism}), redact=wrong)
    with pytest.raises(PrivacyError, match=words):
        run(Own(), private)
    assert private.privacy_steps == 0


# Trainers


UNSAFE: dict[str, dict[str, Any]] = {
    "gradient_clip_val": {"gradient_clip_val": 1.0},
    "accumulate_grad_batches": {"accumulate_grad_batches": 2},
    "overfit_batches": {"overfit_batches": 2},
    "train/loss": {"callbacks": [EarlyStopping("train/loss")]},
}


@pytest.mark.parametrize("words", UNSAFE)
def test_unsafe_settings_of_the_trainer_are_refused(words: str) -> None:
    with pytest.raises(PrivacyError, match=words):
        run(Own(), **UNSAFE[words])


def test_a_callback_that_logs_the_private_loss_is_refused() -> None:
    class Tells(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.log("loss", outputs["loss"])

    with pytest.raises(PrivacyError, match="'loss' is logged"):
        run(Own(), callbacks=[Tells()])
