"""InterferenceCertificate along a stream of pvision, and on two processes."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pvision.callbacks.interference_certificate import InterferenceCertificate
from pvision.continual.feature_recorder import record_features
from pvision.continual.scenarios import ClassIncremental, ForgetRequest
from pvision.continual.subspace import SubspaceMemory
from pvision.datamodules.streams import DigitsStream
from pvision.errors import ConfigError
from pvision.modules import ContinualClassifier
from pvision.training.streams import fit_stream


class Encoder(nn.Module):
    feature_dim = 12

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class Closing(ContinualClassifier):
    """Changes its weights once an experience is learned, as closed-form and merging methods do."""

    def after_experience(self, experience: Any, stream: Any) -> None:
        with torch.no_grad():
            self.backbone.layers[1].weight += 1.0


def run_stream(folder: Path, kind: type[ContinualClassifier], *, start: Path | None = None) -> InterferenceCertificate:
    pl.seed_everything(4, verbose=False)
    callback = InterferenceCertificate(layers=["*backbone.*"])
    run = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    stream = DigitsStream(scenario=ClassIncremental(experiences=3, base_classes=4), batch_size=64, seed=11)
    fit_stream(run, kind(Encoder()), stream, ckpt_path=start)
    return callback


def test_along_a_stream_each_experience_has_its_rows_and_a_resumed_run_the_same(tmp_path: Path) -> None:
    whole = run_stream(tmp_path / "whole", ContinualClassifier)
    assert [(row.experience, row.layer) for row in whole.rows] == [(t, "method.backbone.layers.1") for t in (1, 2)]
    assert whole.rows[1].inputs > whole.rows[0].inputs > 100
    assert (tmp_path / "whole" / "interference.csv").is_file()
    ends = sorted((tmp_path / "whole").rglob("end.ckpt"))
    resumed = run_stream(tmp_path / "resumed", ContinualClassifier, start=ends[1])
    assert resumed.rows == whole.rows


def test_what_a_method_does_after_learning_belongs_to_its_update(tmp_path: Path) -> None:
    whole = run_stream(tmp_path, Closing)
    assert min(row.update for row in whole.rows) > 0.45


class Remembering(ContinualClassifier):
    """Its method keeps a memory of the first layer, which nothing trains, and fills it once experiences are learned."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        self.backbone.requires_grad_(False)
        self.method.subspace_memory = SubspaceMemory({"backbone.layers.1": 64})

    def after_experience(self, experience: Any, stream: Any) -> None:
        super().after_experience(experience, stream)
        images = next(iter(stream.in_order_loader(experience.train))).image
        found = record_features(self, ["*backbone.layers.1"], [images], forward=self.features)
        self.method.subspace_memory.update({"backbone.layers.1": next(iter(found.values()))}, energy=1.0)

    def forget_experience(self, experience: Any, stream: Any) -> None:
        with torch.no_grad():
            self.backbone.layers[1].weight += 1.0


def test_the_memory_of_a_method_is_the_one_before_the_event_also_where_no_fit_begins_it(tmp_path: Path) -> None:
    """Learning keeps the promise. A request to forget breaks it, and is measured on the memory of all before it."""
    pl.seed_everything(4, verbose=False)
    callback = InterferenceCertificate(layers=["*backbone.*"], tolerance=1e-5)
    run = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    forget, module = [ForgetRequest(after=1, classes=[0])], Remembering(Encoder())
    stream = DigitsStream(scenario=ClassIncremental(experiences=2), forget=forget, batch_size=64, seed=11)
    with pytest.raises(ConfigError, match="experience 2 broke its promise"):
        fit_stream(run, module, stream)
    learned, asked = callback.rows
    assert (learned.change, learned.leak, asked.experience) == (0.0, 0.0, 2)
    assert 0 < learned.rank < asked.rank == module.method.subspace_memory["backbone.layers.1"].rank


# Two processes


class Own(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(6, 4, dtype=torch.float64)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.3)


class Rank(LightningEnvironment):
    """A process that somebody else has started, in a group that exists."""

    creates_processes_externally = True

    def local_rank(self) -> int:
        return self.global_rank()


def two_fits(rank: int | None, folder: str) -> list[dict[str, Any]]:
    module, callback = Own(), InterferenceCertificate(energy=0.9)
    environments = []
    if rank is not None:
        environments.append(Rank())
        environments[0].set_world_size(2)
        environments[0].set_global_rank(rank)
    for experience in range(2):
        made = torch.Generator().manual_seed(experience)
        images = torch.randn(80, 6, generator=made, dtype=torch.float64) * torch.arange(1, 7)
        run = pl.Trainer(
            default_root_dir=folder,
            logger=False,
            callbacks=[callback],
            accelerator="cpu",
            devices=1 if rank is None else 2,
            strategy="auto" if rank is None else DDPStrategy(process_group_backend="gloo"),
            plugins=environments,
            max_epochs=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        run.fit(module, DataLoader(TensorDataset(images), batch_size=80 if rank is None else 40))
    return [vars(row) for row in callback.rows]


@pytest.mark.slow
def test_two_processes_certify_what_one_does(ranks: Any, tmp_path: Path) -> None:
    one = two_fits(None, str(tmp_path / "one"))
    both = ranks(two_fits, 2, timeout=240, folder=str(tmp_path / "two"))
    assert [status for status, _ in both] == ["returned", "returned"], both
    (_, first), (_, second) = both
    assert first == second, "the same numbers on both"
    for alone, together in zip(one, first, strict=True):
        assert together["inputs"] == alone["inputs"] == 80
        for name in ("change", "bound", "leak", "update"):
            assert together[name] == pytest.approx(alone[name], rel=1e-10, abs=1e-12)
    assert len(list(tmp_path.rglob("interference.csv"))) == 2
