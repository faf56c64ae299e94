"""Checkpoints are whole or not there, also on a full disk."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins.io import TorchCheckpointIO

from pvision.cli.checkpoint_io import SafeCheckpointIO, read_checkpoint
from pvision.errors import ConfigError, UserError

LARGE = {"state_dict": {"weight": torch.zeros(1_000_000)}}


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file may grow beyond ``free`` bytes, as on a disk with so much room."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_is_saved_is_loaded() -> None:
    SafeCheckpointIO().save_checkpoint(LARGE, Path("runs/a.ckpt"))
    loaded = SafeCheckpointIO().load_checkpoint("runs/a.ckpt")
    assert torch.equal(loaded["state_dict"]["weight"], LARGE["state_dict"]["weight"])
    assert [path.name for path in Path("runs").iterdir()] == ["a.ckpt"]


def test_a_full_disk_leaves_the_old_checkpoint_whole_and_says_how_much_is_free() -> None:
    SafeCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.ones(3)}}, "a.ckpt")
    with full_disk(100_000), pytest.raises(UserError, match=r"a\.ckpt.* bytes are free"):
        SafeCheckpointIO().save_checkpoint(LARGE, "a.ckpt")
    assert read_checkpoint("a.ckpt")["state_dict"]["weight"].tolist() == [1, 1, 1]
    assert [path.name for path in Path().iterdir()] == ["a.ckpt"]


def test_the_full_disk_of_these_tests_breaks_a_plain_save() -> None:
    with full_disk(100_000), pytest.raises((OSError, RuntimeError)):
        torch.save(LARGE, "a.ckpt")
    assert 0 < Path("a.ckpt").stat().st_size <= 100_000


def test_an_error_that_is_not_the_disks_is_not_called_that() -> None:
    with pytest.raises((AttributeError, TypeError, RuntimeError)) as caught:
        SafeCheckpointIO().save_checkpoint({"state_dict": lambda: None}, "a.ckpt")
    assert not isinstance(caught.value, UserError)
    assert not list(Path().iterdir())


def test_weights_only_cannot_be_switched_off() -> None:
    torch.save({"state_dict": {}, "object": Path("x")}, "a.ckpt")
    with pytest.raises(ConfigError, match="could run code"):
        SafeCheckpointIO().load_checkpoint("a.ckpt", weights_only=False)
    assert TorchCheckpointIO().load_checkpoint("a.ckpt", weights_only=False)["object"] == Path("x")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
def test_a_trainer_saves_and_resumes_through_it() -> None:
    def trainer(epochs: int) -> pl.Trainer:
        return pl.Trainer(
            max_epochs=epochs,
            plugins=[SafeCheckpointIO()],
            accelerator="cpu",
            limit_train_batches=2,
            limit_val_batches=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    first = trainer(1)
    first.fit(BoringModel())
    path = next(Path("checkpoints").glob("*.ckpt"))
    second = trainer(2)
    second.fit(BoringModel(), ckpt_path=path)
    assert (first.global_step, second.global_step) == (2, 4)
