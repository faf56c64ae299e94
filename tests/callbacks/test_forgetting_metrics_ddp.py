"""ForgettingMetrics on two processes: every record counts once, whoever evaluates it, and no process waits for ever."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from pvision.callbacks._forgetting_batches import EvenBatches
from pvision.callbacks.forgetting_metrics import ForgettingMetrics

SIZES = (1000, 797)
CLASSES = 5


class Own(pl.LightningModule):
    """Somebody's classifier, with a buffer: under DDP its processes meet in every step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, CLASSES))
        self.exact = nn.ModuleList(torchmetrics.Accuracy("multiclass", num_classes=CLASSES) for _ in SIZES)
        self.seen: list[list[int]] = [[], []]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        image, target, position = batch
        preds = self.network(image).argmax(1)
        right = (preds == target).float().mean()
        self.log("alone", right)
        self.log("synced", right, sync_dist=True)
        self.exact[dataloader_idx](preds, target)
        self.log(f"exact{dataloader_idx}", self.exact[dataloader_idx], add_dataloader_idx=False)
        self.seen[dataloader_idx] += position.tolist()
        return {"preds": preds, "target": target, "preds_task_aware": target}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Rank(LightningEnvironment):
    """A process that somebody else has started, in a group that exists."""

    creates_processes_externally = True

    def local_rank(self) -> int:
        return self.global_rank()


def data(size: int) -> TensorDataset:
    made = torch.Generator().manual_seed(size)
    image = torch.randn(size, 4, generator=made)
    # The last record is right or wrong alone: counted twice, it shows.
    target = (image[:, 0] * 2).round().long().clamp(0, CLASSES - 1)
    return TensorDataset(image, target, torch.arange(size))


def trainer(folder: str, rank: int | None, *callbacks: pl.Callback) -> pl.Trainer:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    environments = []
    if rank is not None:
        environments.append(Rank())
        environments[0].set_world_size(2)
        environments[0].set_global_rank(rank)
    return pl.Trainer(
        default_root_dir=folder,
        logger=False,
        callbacks=list(callbacks),
        accelerator="cpu",
        devices=1 if rank is None else 2,
        strategy="auto" if rank is None else DDPStrategy(process_group_backend="gloo"),
        plugins=environments,
        max_epochs=1,
        limit_train_batches=1,
        **quiet,
    )


def stream(folder: str, *, rank: int | None = None, batch_size: int = 199) -> dict[str, Any]:
    """Learn two experiences, evaluate both after each, and return what three callbacks measured on this process."""
    callbacks = [ForgettingMetrics(metric, plots=False) for metric in (None, "alone", "synced")]
    module = Own()
    pl.seed_everything(1, verbose=False)
    for _ in SIZES:
        run = trainer(folder, rank, *callbacks)
        module.seen = [[], []]
        run.test(module, [DataLoader(data(size), batch_size=batch_size) for size in SIZES], verbose=False)
        # Weights that do not depend on how many processes train: training itself is not what is tested here.
        run = trainer(folder, rank, *callbacks)
        run.fit(module, DataLoader(data(64), batch_size=64 if rank is None else 32))
        torch.manual_seed(int(callbacks[0].counted.rows))
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        for batch_norm in (one for one in module.modules() if isinstance(one, nn.BatchNorm1d)):
            batch_norm.reset_running_stats()
    run = trainer(folder, rank, *callbacks)
    module.seen = [[], []]
    run.test(module, [DataLoader(data(size), batch_size=batch_size) for size in SIZES], verbose=False)
    counted = callbacks[0].counted
    return {
        "counts": counted.state_dict(),
        "baseline": callbacks[0].counted.baseline().tolist(),
        "R": [callback.matrix.tolist() for callback in callbacks],
        "values": {name: value for name, value in callbacks[0].values().items() if not np.isnan(value)},
        "lightning": float(run.callback_metrics["synced/dataloader_idx_1"]),
        "seen": module.seen,
        "files": sorted(path.name for path in Path(folder).glob("accuracy*")),
    }


def alone_in_group(rank: int, **arguments: Any) -> Any:
    arguments["folder"] = f"{arguments['folder']}/rank{rank}"
    return stream(rank=rank, **arguments)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(ranks: Any, tmp_path: Path) -> None:
    one = stream(str(tmp_path / "one"))
    both = ranks(alone_in_group, 2, timeout=240, folder=str(tmp_path / "two"))
    assert [status for status, _ in both] == ["returned", "returned"], both
    first, second = (found for _, found in both)
    assert first["counts"] == second["counts"] == one["counts"], "integer counts, so equal to the last bit"
    assert first["values"] == second["values"] == one["values"]
    for found in (first, second):
        np.testing.assert_allclose(found["R"], one["R"], atol=1e-6)
        np.testing.assert_allclose(found["R"][1], found["R"][0], atol=1e-6)
    # Lightning's own mean divides by the mean number of records rounded down, 398 for 399 and 398. When this fails,
    # that is mended, and the callback need not make means anew.
    assert abs(first["lightning"] - first["R"][2][1][1]) > 1e-5
    for loader, size in enumerate(SIZES):
        assert sorted(first["seen"][loader] + second["seen"][loader]) == list(range(size)), "each record once"
    assert "accuracy_matrix.json" in first["files"]
    assert second["files"] == [], "only rank 0 writes"


def padded(rank: int, folder: str) -> Any:
    """The same evaluation where Lightning's own sampler is left in place."""
    callback = ForgettingMetrics()
    callback._sharing.enter_context = lambda context: None  # type: ignore[assignment, method-assign]
    trainer(folder, rank, callback).test(
        Own(), [DataLoader(data(size), batch_size=32) for size in SIZES], verbose=False
    )
    return callback.counted.baseline().tolist(), callback.counted.counts().tolist()


def test_the_sampler_of_lightning_would_count_a_record_twice(ranks: Any, tmp_path: Path) -> None:
    (status, found), _ = ranks(padded, 2, timeout=240, folder=str(tmp_path / "two"))
    assert status == "returned", found
    _, counts = found
    assert counts == [1000, 798], "797 records on two processes"


def refused(rank: int, folder: str, loader: str) -> Any:
    records = data(797)
    made = {
        "padding": lambda: DataLoader(records, 32, sampler=DistributedSampler(records, 2, rank, shuffle=False)),
        "dropping": lambda: DataLoader(records, 32, sampler=DistributedSampler(records, 2, rank, drop_last=True)),
        "replacement": lambda: DataLoader(records, 32, sampler=RandomSampler(records, replacement=True)),
        "batches": lambda: DataLoader(records, batch_sampler=Paired(RandomSampler(records), 32, False)),
        "no batch size": lambda: DataLoader(records, batch_size=None),
        "one record": lambda: DataLoader(data(1), 32),
    }
    trainer(folder, rank, ForgettingMetrics()).test(Own(), made[loader](), verbose=False)


class Paired(BatchSampler):
    """Somebody's batches."""


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("padding", "repeats records: 797 on 2 processes count as 798"),
        ("dropping", "leaves out records: 797 on 2 processes count as 796"),
        ("replacement", "The sampler RandomSampler of a loader of evaluation repeats records"),
        ("batches", "the batch sampler Paired"),
        ("no batch size", "has no batch_size"),
        ("one record", "2 processes cannot share a loader of evaluation with 1 records"),
    ],
)
def test_a_loader_that_would_not_count_each_record_once_is_refused(
    ranks: Any, tmp_path: Path, loader: str, message: str
) -> None:
    for status, found in ranks(refused, 2, timeout=240, folder=str(tmp_path), loader=loader):
        assert status == "raised"
        assert found.startswith("ConfigError"), found
        assert message in found


def subset(rank: int, folder: str) -> Any:
    """Samplers that draw from the global generator, whose state differs between the processes; and drop_last."""
    torch.manual_seed(rank)
    module = Own()
    records = data(61)
    loaders = [
        DataLoader(records, 8, sampler=SubsetRandomSampler(range(41))),
        DataLoader(records, batch_size=8, shuffle=True, drop_last=True),
    ]
    trainer(folder, rank, ForgettingMetrics(plots=False)).test(module, loaders, verbose=False)
    return module.seen


@pytest.mark.filterwarnings("ignore:Your `test_dataloader`'s sampler has shuffling")
def test_samplers_that_shuffle_are_shared_too(ranks: Any, tmp_path: Path) -> None:
    (_, first), (_, second) = ranks(subset, 2, timeout=240, folder=str(tmp_path))
    assert sorted(first[0] + second[0]) == list(range(41))
    assert sorted(first[1] + second[1]) == list(range(56)), "drop_last leaves out as many as on one process"


@pytest.mark.parametrize("size", [2, 3, 17, 64, 65, 66, 797])
@pytest.mark.parametrize("batch_size", [1, 2, 8, 32])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_shares_cover_the_records_in_equally_many_batches(size: int, batch_size: int, world_size: int) -> None:
    if size < world_size:
        return
    shares = [
        list(EvenBatches(range(size), batch_size, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert sorted(place for share in shares for batch in share for place in batch) == list(range(size))
    assert len({len(share) for share in shares}) == 1
    assert all(1 <= len(batch) <= batch_size + 1 for share in shares for batch in share)
    if world_size == 1:
        assert max(len(batch) for batch in shares[0]) <= batch_size
