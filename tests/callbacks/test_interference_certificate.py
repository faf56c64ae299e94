"""InterferenceCertificate in somebody's project: what it measures, what it refuses, and what it leaves alone."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from pvision.callbacks import InterferenceCertificate
from pvision.continual.feature_recorder import FeatureRecorder, find_linears
from pvision.continual.subspace import SubspaceMemory
from pvision.errors import ConfigError, DataError

DIM, CLASSES = 12, 3


class Own(pl.LightningModule):
    """Somebody's classifier, trained in float64 by AdamW with dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(DIM, 10, dtype=torch.float64)
        self.last = nn.Linear(10, CLASSES, dtype=torch.float64)
        self.dropout = nn.Dropout(0.2)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.dropout(torch.tanh(self.first(image))))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([one for one in self.parameters() if one.requires_grad], lr=0.02, weight_decay=0.01)


class Careful(Own):
    """Trains its first layer in the complement of a memory, ΔW = B Nᵀ, as a forward hook."""

    def __init__(self, *, energy: float = 1.0) -> None:
        super().__init__()
        self.subspace_memory = SubspaceMemory({"first": DIM})
        self.energy = energy
        self.requires_grad_(False)
        self.up = nn.Parameter(torch.zeros(10, DIM, dtype=torch.float64), requires_grad=False)
        self.register_buffer("free", torch.eye(DIM, dtype=torch.float64))
        self.first.register_forward_hook(lambda layer, args, output: output + args[0] @ self.update().T)

    def update(self) -> Tensor:
        return self.up @ self.free @ self.free.T

    def configure_optimizers(self) -> Any:
        """Fold the last update in, and train the next one in what is free now."""
        with torch.no_grad():
            self.first.weight += self.update()
            self.up.zero_()
        complement = self.subspace_memory["first"].complement()
        self.free = torch.cat([complement, torch.zeros(DIM, DIM - complement.shape[1], dtype=torch.float64)], dim=1)
        self.up.requires_grad_(True)
        return super().configure_optimizers()

    def remember(self, images: Tensor) -> None:
        with FeatureRecorder(find_linears(self, ["first"])) as recorder, torch.no_grad():
            self(images)
        self.subspace_memory.update(recorder.together(), energy=self.energy)


def images(experience: int, count: int = 40) -> Tensor:
    """Each experience uses four directions of its own, and a little of all."""
    made = torch.Generator().manual_seed(experience)
    strength = torch.full((DIM,), 0.01, dtype=torch.float64)
    strength[4 * experience : 4 * experience + 4] = 1.0
    return torch.randn(count, DIM, generator=made, dtype=torch.float64) * strength


def exact_images(experience: int) -> Tensor:
    """Four directions and nothing else."""
    return images(experience) * (images(experience).abs().mean(0) > 0.1)


def loader(batch: Tensor) -> DataLoader:
    labels = (batch[:, :CLASSES].argmax(1) + batch.argmax(1)) % CLASSES
    return DataLoader(TensorDataset(batch, labels), batch_size=8, shuffle=True)


def trainer(folder: Path, *callbacks: Any, logger: Any = False, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        logger=logger,
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{"max_epochs": 3, "enable_checkpointing": False, **settings},
    )


def learn(folder: Path, module: Own, callback: Any, *batches: Tensor, **settings: Any) -> pl.Trainer:
    for batch in batches:
        run = trainer(folder, *([callback] if callback else []), **settings)
        run.fit(module, loader(batch))
        if isinstance(module, Careful):
            module.remember(batch)
    return run


def test_the_change_is_that_of_the_layers_outputs_for_all_old_inputs(tmp_path: Path) -> None:
    module, callback = Own(), InterferenceCertificate(energy=0.9)
    learn(tmp_path, module, callback, images(0), images(1))
    old = torch.cat([images(0), images(1)])
    before = module.first(old), module.first.weight @ old.T
    learn(tmp_path, module, callback, images(2))
    change = (module.first(old) - before[0]).norm() / before[1].norm()
    row = next(row for row in callback.rows if row.experience == 2 and row.layer == "first")
    assert row.change == pytest.approx(change.item(), rel=1e-10)
    assert row.inputs == 80
    assert [(one.experience, one.layer) for one in callback.rows] == [(t, n) for t in (1, 2) for n in ("first", "last")]


def test_free_updates_are_reported_and_a_promise_is_enforced(tmp_path: Path) -> None:
    module, callback = Own(), InterferenceCertificate(energy=1.0)
    learn(tmp_path, module, callback, exact_images(0), exact_images(1))
    assert callback.summary_metrics()["certificate/excess"] > 0.1
    with pytest.raises(ConfigError, match=r"experience 1 broke its promise.*(first|last).*complement"):
        learn(tmp_path, Own(), InterferenceCertificate(energy=1.0, tolerance=1e-9), exact_images(0), exact_images(1))


@pytest.mark.parametrize("energy", [0.9, 1.0])
def test_updates_in_the_complement_never_exceed_the_bound(tmp_path: Path, energy: float) -> None:
    batches = [exact_images(t) + (energy < 1) * 0.3 * images((t + 1) % 3) for t in range(3)]
    module = Careful(energy=energy)
    callback = InterferenceCertificate(layers=["first"], tolerance=1e-9, images=batches[0])
    learn(tmp_path, module, callback, *batches)
    assert len(callback.rows) == 2
    for row in callback.rows:
        assert row.change <= row.bound + 1e-12
        assert row.token_margin <= 1e-12
        assert row.leak <= 1e-12
        assert row.update > 0.01
        assert row.rank == 4 * row.experience
        assert (row.change > 1e-3) == (energy < 1)


def test_the_projected_gradient_breaks_the_promise(tmp_path: Path) -> None:
    class Projected(Own):
        subspace_memory = SubspaceMemory({"first": DIM})

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.first.weight.grad = self.subspace_memory["first"].outside(self.first.weight.grad)

    module, callback = Projected(), InterferenceCertificate(layers=["first"], tolerance=1e-9)
    learn(tmp_path, module, callback, exact_images(0))
    module.subspace_memory.update({"first": exact_images(0)}, energy=1.0)
    with pytest.raises(ConfigError, match="broke its promise"):
        learn(tmp_path, module, callback, exact_images(1))


def test_one_of_the_users_images_is_enough_to_break_a_promise(tmp_path: Path) -> None:
    odd = torch.cat([exact_images(0), 5 * exact_images(1)[:1]])
    callback = InterferenceCertificate(layers=["first"], tolerance=1e-9, images=odd)
    module = Careful()
    module.subspace_memory.update({"first": exact_images(0)}, energy=1.0)
    learn(tmp_path, module, callback, exact_images(0), exact_images(1))
    assert callback.rows[0].token_margin <= 0, "the bound allows for what lies outside the memory"


def test_a_biass_change_counts(tmp_path: Path) -> None:
    module, callback = Own(), InterferenceCertificate(layers=["first"])
    learn(tmp_path, module, callback, images(0))
    module.requires_grad_(False)
    module.first.bias.requires_grad_(True)
    learn(tmp_path, module, callback, images(1))
    (row,) = callback.rows
    assert row.update == 0.0
    assert row.bound == 0.0
    assert row.change > 0.01


def test_files_loggers_and_metrics_hold_the_same_numbers(tmp_path: Path) -> None:
    callback, module = InterferenceCertificate(), Own()
    logger = CSVLogger(tmp_path, name="n", version="v")
    run = learn(tmp_path, module, callback, images(0), images(1), images(2), logger=logger)
    folder = tmp_path / "n" / "v"
    with (folder / "interference.csv").open() as file:
        table = list(csv.DictReader(file))
    report = json.loads((folder / "interference.json").read_text())
    assert [float(row["change"]) for row in table] == [row.change for row in callback.rows]
    assert report["rows"][3]["bound"] == callback.rows[3].bound
    assert report["rows"][3]["token_margin"] is None
    assert report["certificate/change"] == callback.summary_metrics()["certificate/change"]
    assert run.callback_metrics["certificate/change"].item() == pytest.approx(max(r.change for r in callback.rows[2:]))
    with (folder / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["certificate/first/change"]]
    assert [int(row["step"]) for row in logged] == [1, 2]
    assert float(logged[1]["certificate/first/change"]) == pytest.approx(callback.rows[2].change)


@pytest.mark.parametrize("whose", ["global", "loader", "sampler"])
def test_training_is_the_same_to_the_last_bit_with_and_without_it(tmp_path: Path, whose: str) -> None:
    """Its pass over the records must not draw from generators that the next fit shuffles with."""
    weights = []
    for callback in (None, InterferenceCertificate(images=images(0))):
        pl.seed_everything(5, verbose=False)
        module, records = Own(), loader(images(0)).dataset
        own = torch.Generator().manual_seed(1)
        shuffled = {
            "global": DataLoader(records, batch_size=8, shuffle=True),
            "loader": DataLoader(records, batch_size=8, shuffle=True, generator=own),
            "sampler": DataLoader(records, batch_size=8, sampler=RandomSampler(records, generator=own)),
        }[whose]
        for _ in range(2):
            run = trainer(tmp_path, *([callback] if callback else []))
            run.fit(module, shuffled)
        weights.append(torch.cat([one.flatten() for one in module.parameters()]))
        assert module.dropout.training
    assert torch.equal(*weights)


def test_a_resumed_fit_gives_the_same_certificate(tmp_path: Path) -> None:
    in_order = DataLoader(loader(images(1)).dataset, batch_size=8)
    saves = ModelCheckpoint(tmp_path / "saved", every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    module, whole = Own(), InterferenceCertificate(energy=0.95, images=images(0))
    module.dropout.p = 0
    learn(tmp_path, module, whole, images(0))
    trainer(tmp_path, whole, saves, enable_checkpointing=True).fit(module, in_order)
    found = []
    for epoch in (1, 2):
        module, resumed = Own(), InterferenceCertificate(energy=0.95, images=images(0))
        module.dropout.p = 0
        run = trainer(tmp_path, resumed, saves, enable_checkpointing=True)
        run.fit(module, in_order, ckpt_path=tmp_path / "saved" / f"epoch={epoch}.ckpt", weights_only=True)
        found.append(resumed.rows)
    assert found[0] == whole.rows
    assert all(row.token_margin is not None for row in found[0])
    assert len(whole.rows) == 2
    assert found[1] == [], "nothing was left to train, and Lightning calls no hook at the end of such a fit"


def test_the_state_comes_back_through_a_weights_only_file(tmp_path: Path) -> None:
    module, callback, copied = Own(), InterferenceCertificate(), InterferenceCertificate()
    learn(tmp_path, module, callback, images(0), images(1))
    torch.save(callback.state_dict(), tmp_path / "state.pt")
    copied.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert copied.rows == callback.rows
    later = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = []
    for one in (callback, copied):
        module.load_state_dict(later)
        pl.seed_everything(1, verbose=False)
        learn(tmp_path, module, one, images(2))
        found.append(one.rows)
    assert found[0] == found[1]


def test_a_layer_that_changes_its_shape_is_left_out(tmp_path: Path) -> None:
    module, callback = Own(), InterferenceCertificate()
    learn(tmp_path, module, callback, images(0))
    module.last = nn.Linear(10, CLASSES + 1, dtype=torch.float64)
    with pytest.warns(UserWarning, match="last is gone or has another shape"):
        learn(tmp_path, module, callback, images(1))
    learn(tmp_path, module, callback, images(2))
    assert [(row.experience, row.layer) for row in callback.rows] == [(1, "first"), (2, "first"), (2, "last")]
    assert [row.inputs for row in callback.rows] == [40, 80, 40]


def test_a_layer_that_is_never_called_is_left_out(tmp_path: Path) -> None:
    module, callback = Own(), InterferenceCertificate()
    module.unused = nn.Linear(2, 2, dtype=torch.float64)
    with pytest.warns(UserWarning, match="unused is never called"):
        learn(tmp_path, module, callback, images(0), images(1))
    assert {row.layer for row in callback.rows} == {"first", "last"}


def test_nothing_happens_in_a_trial(tmp_path: Path) -> None:
    callback = InterferenceCertificate()
    learn(tmp_path, Own(), callback, images(0), images(1), fast_dev_run=True)
    assert (callback.rows, list(tmp_path.glob("*.csv"))) == ([], [])


def test_a_layer_that_is_not_linear_is_refused_before_training(tmp_path: Path) -> None:
    module = Own()
    module.first.register_forward_hook(lambda layer, args, output: output * args[0].sum(-1, keepdim=True))
    with pytest.raises(ConfigError, match="no linear function of its inputs"):
        learn(tmp_path, module, InterferenceCertificate(), images(0))
    assert module.global_step == 0


class Gated(Own):
    """Adds to its first layer what depends on the input in a gate's way, unless its linear part is asked for."""

    shut = False

    def __init__(self) -> None:
        super().__init__()
        self.first.register_forward_hook(lambda layer, args, output: output + (not self.shut) * output.square())

    @contextmanager
    def linear_part(self) -> Iterator[None]:
        self.shut = True
        try:
            yield
        finally:
            self.shut = False


def test_of_a_module_with_gates_the_linear_part_is_certified(tmp_path: Path) -> None:
    module, callback = Gated(), InterferenceCertificate(layers=["first"])
    learn(tmp_path, module, callback, images(0))
    before = module.first.weight.detach().clone(), module.first.bias.detach().clone()
    learn(tmp_path, module, callback, images(1))
    (row,) = callback.rows
    moved = images(0) @ (module.first.weight - before[0]).T + module.first.bias - before[1]
    assert row.change == pytest.approx((moved.norm() / (images(0) @ before[0].T).norm()).item(), rel=1e-9)
    assert not module.shut


def test_a_module_that_does_not_say_what_of_it_is_linear_is_told_to(tmp_path: Path) -> None:
    module = Own()
    module.first.register_forward_hook(lambda layer, args, output: output + output.square())
    with pytest.raises(ConfigError, match="shut its gates"):
        learn(tmp_path, module, InterferenceCertificate(layers=["first"]), images(0))


def test_training_that_diverged_is_called_so_also_where_a_layer_has_hooks(tmp_path: Path) -> None:
    module, callback = Careful(), InterferenceCertificate(layers=["first"])
    learn(tmp_path, module, callback, exact_images(0))
    with torch.no_grad():
        module.first.weight.fill_(torch.nan)
    with pytest.raises(DataError, match="diverged"):
        learn(tmp_path, module, callback, exact_images(1))


def test_a_memory_of_inputs_of_another_size_is_refused_before_training(tmp_path: Path) -> None:
    module = Own()
    module.subspace_memory = SubspaceMemory({"first": DIM + 1})
    with pytest.raises(ConfigError, match=r"'first' is of inputs with 13 entries, but first takes 12"):
        learn(tmp_path, module, InterferenceCertificate(), images(0))
    assert module.global_step == 0


@pytest.mark.parametrize("name", ["fist", "rst", "first.q"])
def test_a_memory_of_a_layer_that_is_not_there_is_refused_before_training(tmp_path: Path, name: str) -> None:
    module = Own()
    module.subspace_memory = SubspaceMemory({name: DIM})
    with pytest.raises(ConfigError, match=rf"{name!r} of subspace_memory.*none.*first, last"):
        learn(tmp_path, module, InterferenceCertificate(), images(0))


def test_a_pattern_without_a_layer_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'block\*'.*first, last"):
        learn(tmp_path, Own(), InterferenceCertificate(layers=["block*"]), images(0))


def test_a_module_that_cannot_be_called_says_what_to_do(tmp_path: Path) -> None:
    class Odd(Own):
        forward = pl.LightningModule.forward

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.last(self.first(batch[0])), batch[1])

    with pytest.raises(ConfigError, match=r"has no forward.*forward=lambda"):
        learn(tmp_path, Odd(), InterferenceCertificate(), images(0))
    callback = InterferenceCertificate(forward=lambda module, batch: module.last(module.first(batch[0])))
    learn(tmp_path, Odd(), callback, images(0), images(1))
    assert len(callback.rows) == 2
