"""Runs that stop, crash and go on: ε is never below what was released."""

import copy
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from pvision.callbacks import TrainPrivately
from pvision.errors import LedgerMismatch, PrivacyError
from pvision.privacy import PrivacySpec, read_ledger

STEPS = 12

# What Lightning tells of its own ModelCheckpoint when a run goes on in another folder, or without it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
]


def statement(**changes: Any) -> PrivacySpec:
    values: dict[str, Any] = {
        "mechanism": "dp_sgd",
        "unit": "clip",
        "mask": "private",
        "label": "private",
        "relation": "replace",
        "delta": 1e-4,
        "max_grad_norm": 0.5,
        "sample_rate": 0.25,
        "steps": STEPS,
        "noise_multiplier": 1.0,
    }
    return PrivacySpec(**{**values, **changes})


class Own(pl.LightningModule):
    """Breaks down after so many steps of this fit."""

    def __init__(self, breaks_after: int | None = None, *, killed: bool = False) -> None:
        super().__init__()
        self.network = nn.Linear(6, 3)
        self.killed = killed
        self.breaks_after, self.steps_here = breaks_after, 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps_here += 1
        if self.steps_here == self.breaks_after:
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("power cut")

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def records() -> TensorDataset:
    torch.manual_seed(1)
    return TensorDataset(torch.randn(24, 6), torch.randint(3, (24,)))


def fit(module: Own, folder: Path, *, ckpt_path: Path | None = None, **options: Any) -> TrainPrivately:
    private = TrainPrivately(options.pop("spec", statement()))
    trainer = pl.Trainer(
        callbacks=[private, ModelCheckpoint(every_n_train_steps=2, save_top_k=-1, filename="{step}")],
        logger=CSVLogger(folder),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 100, **options},
    )
    trainer.fit(module, private.loader(records()), ckpt_path=ckpt_path)
    return private


def ledger(folder: Path, version: int = 0) -> Path:
    return folder / "lightning_logs" / f"version_{version}" / "ledger.jsonl"


def checkpoint(folder: Path, step: int, version: int = 0) -> Path:
    return folder / "lightning_logs" / f"version_{version}" / "checkpoints" / f"step={step}.ckpt"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not compute ε after every epoch, which takes seconds."""
    monkeypatch.setattr("pvision.callbacks._private_hooks.released_metrics", lambda report: {})


def interrupted(folder: Path, after: int) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Own(after), folder)


def test_a_finished_run_charges_each_step_once(tmp_path: Path) -> None:
    fit(Own(), tmp_path)
    assert read_ledger(ledger(tmp_path)).charged == STEPS


def test_a_run_that_ends_sooner_gives_back_what_it_reserved(tmp_path: Path) -> None:
    fit(Own(), tmp_path, max_epochs=2)
    assert read_ledger(ledger(tmp_path)).charged == 8


@pytest.mark.parametrize("after", [3, 5, 7])
def test_resumed_in_the_middle_of_an_epoch_no_step_is_forgotten(tmp_path: Path, after: int) -> None:
    interrupted(tmp_path, after)
    assert read_ledger(ledger(tmp_path)).charged == after
    saved = after - after % 2
    module = Own()
    private = fit(module, tmp_path / "resumed", ckpt_path=checkpoint(tmp_path, saved))
    lost = after - saved
    assert private.privacy_steps == STEPS == read_ledger(ledger(tmp_path)).charged
    assert module.steps_here == STEPS - saved - lost, "lost steps stay charged, and training ends sooner"
    assert not ledger(tmp_path / "resumed").exists(), "it went on in the ledger of its checkpoint"


def test_the_report_after_a_crash_covers_what_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(PrivacySpec, "report", lambda spec, steps: asked.append(steps))
    interrupted(tmp_path, 7)
    private = fit(Own(), tmp_path, ckpt_path=checkpoint(tmp_path, 4), max_epochs=2)
    private.report()
    assert private.privacy_steps == 7 + 4
    assert asked[-1] == 11


@pytest.mark.slow
def test_killed_in_the_middle_the_ledger_knows_more_than_the_checkpoint(tmp_path: Path) -> None:
    code = f"""if True:
        import runpy, pathlib, warnings
        warnings.simplefilter("ignore")
        here = runpy.run_path({str(Path(__file__))!r})
        here["fit"](here["Own"](5, killed=True), pathlib.Path({str(tmp_path)!r}), limit_val_batches=0)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    module = Own()
    private = fit(module, tmp_path / "resumed", ckpt_path=checkpoint(tmp_path, 4))
    record = read_ledger(ledger(tmp_path))
    assert record.charged == private.privacy_steps == STEPS
    assert module.steps_here == STEPS - 5, "one step was lost with the process, and stays charged"


def test_a_finished_run_resumed_takes_no_step(tmp_path: Path) -> None:
    fit(Own(), tmp_path)
    module = Own()
    private = fit(module, tmp_path, ckpt_path=checkpoint(tmp_path, STEPS))
    assert (module.steps_here, private.privacy_steps) == (0, STEPS)


def test_a_missing_ledger_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path, 5)
    ledger(tmp_path).unlink()
    with pytest.raises(LedgerMismatch, match=r"ledger\.jsonl"):
        fit(Own(), tmp_path, ckpt_path=checkpoint(tmp_path, 4))


def test_a_shortened_ledger_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path, 5)
    lines = ledger(tmp_path).read_text().splitlines(keepends=True)
    ledger(tmp_path).write_text("".join(lines[:3]))
    with pytest.raises(PrivacyError):
        fit(Own(), tmp_path, ckpt_path=checkpoint(tmp_path, 4))


def test_another_statement_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path, 5)
    with pytest.raises(LedgerMismatch, match="noise_multiplier"):
        fit(Own(), tmp_path, ckpt_path=checkpoint(tmp_path, 4), spec=statement(noise_multiplier=2.0))


def test_a_run_that_was_moved_goes_on(tmp_path: Path) -> None:
    interrupted(tmp_path, 4)
    shutil.move(tmp_path / "lightning_logs", tmp_path / "moved")
    path = tmp_path / "moved" / "version_0" / "checkpoints" / "step=4.ckpt"
    assert fit(Own(), tmp_path, ckpt_path=path).privacy_steps == STEPS


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    module = Own()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(module, torch.utils.data.DataLoader(records(), 8))
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(PrivacyError, match="was not made with TrainPrivately"):
        fit(Own(), tmp_path, ckpt_path=tmp_path / "plain.ckpt")


def test_a_second_fit_is_refused(tmp_path: Path) -> None:
    module = Own()
    fit(module, tmp_path, max_epochs=1)
    with pytest.raises(PrivacyError, match="trained privately already"):
        fit(module, tmp_path, max_epochs=1)


def test_testing_from_a_checkpoint_leaves_the_ledger_alone(tmp_path: Path) -> None:
    class Tests(Own):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test/loss", self.training_step(batch, batch_idx))

    fit(Own(), tmp_path, max_epochs=1)
    before = ledger(tmp_path).read_bytes()
    private = TrainPrivately(statement())
    trainer = pl.Trainer(callbacks=[private], accelerator="cpu", logger=False, enable_progress_bar=False)
    loader = torch.utils.data.DataLoader(records(), 8)
    trainer.test(Tests(), loader, ckpt_path=checkpoint(tmp_path, 4), verbose=False)
    assert private.privacy_steps == 4
    assert ledger(tmp_path).read_bytes() == before


def test_a_trial_run_leaves_no_ledger(tmp_path: Path) -> None:
    private = fit(Own(), tmp_path, fast_dev_run=True)
    assert private.privacy_steps == 1
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_copy_of_a_trained_module_and_its_network_in_another_one_are_not_trained_again(tmp_path: Path) -> None:
    module = Own()
    fit(module, tmp_path / "first")
    other = Own()
    other.network = module.network
    for again in (copy.deepcopy(module), other):
        with pytest.raises(PrivacyError, match="trained privately already"):
            fit(again, tmp_path / "second")


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_units_that_take_turns_may_not_change_places_before_a_resumption(tmp_path: Path) -> None:
    turns = statement(sampling="deterministic", unit="subject")
    names = [str(position % 8) for position in range(24)]

    def train(order: list[str], folder: Path, **options: Any) -> None:
        private = TrainPrivately(turns)
        trainer = pl.Trainer(
            callbacks=[private, ModelCheckpoint(every_n_train_steps=2, save_top_k=-1, filename="{step}")],
            logger=CSVLogger(folder),
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            max_epochs=100,
        )
        trainer.fit(Own(), private.loader(records(), units=order), **options)

    train(names, tmp_path / "first")
    (checkpoint,) = (tmp_path / "first").rglob("step=4.ckpt")
    with pytest.raises(LedgerMismatch, match="data was"):
        train(names[::-1], tmp_path / "second", ckpt_path=checkpoint)
