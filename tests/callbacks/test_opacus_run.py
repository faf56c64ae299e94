"""PrivacyAccounting in somebody's own project that trains with Opacus under Lightning."""

import csv

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from opacus import GradSampleModule, PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pvision.callbacks import PrivacyAccounting
from pvision.errors import ConfigError, LedgerMismatch, LedgerTampered, PrivacyError
from pvision.privacy import epsilon, ledger_report, read_ledger

# Opacus's own advice.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off:UserWarning"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]

RECORDS, BATCH, DELTA = 40, 5, 1e-3  # eight steps an epoch
DATA = TensorDataset(torch.randn(RECORDS, 4, generator=torch.Generator().manual_seed(0)), torch.arange(RECORDS) % 2)


class Own(pl.LightningModule):
    """Calls make_private as Opacus's tutorial does, and knows nothing of pvision."""

    def __init__(self, *, accountant="rdp", **changes):
        super().__init__()
        # Wrapped here already: wrapped later, its names would not be those in a checkpoint.
        self.network = GradSampleModule(nn.Linear(4, 2))
        self.accountant, self.changes = accountant, {"noise_multiplier": 1.0, "max_grad_norm": 1.0, **changes}

    def configure_optimizers(self):
        self.engine = PrivacyEngine(accountant=self.accountant)
        self.network, self.optimizer, self.loader = self.engine.make_private(
            module=self.network,
            optimizer=torch.optim.SGD(self.network.parameters(), lr=0.1),
            data_loader=DataLoader(DATA, batch_size=BATCH),
            **self.changes,
        )
        return self.optimizer

    def train_dataloader(self):
        return self.loader

    def training_step(self, batch, batch_idx):
        video, label = batch
        return nn.functional.cross_entropy(self.network(video), label)


class Manual(Own):
    """The same with manual optimisation."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def accounting(**changes):
    return PrivacyAccounting(**{"delta": DELTA, "unit": "clip", "every_n_steps": 100, **changes})


@pytest.fixture
def fit(tmp_path):
    """Train for some epochs of eight steps each."""

    def run(module, callback, *, epochs=1, ckpt_path=None, **changes):
        values = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "accelerator": "cpu",
            "default_root_dir": tmp_path / "run",
        }
        callbacks = callback if isinstance(callback, list) else [callback] if callback else []
        trainer = pl.Trainer(max_epochs=epochs, callbacks=callbacks, **{**values, **changes})
        trainer.fit(module, ckpt_path=ckpt_path)
        return trainer

    return run


def cost(steps, *, noise=1.0, relation="add_remove"):
    return epsilon(noise_multiplier=noise, sample_rate=BATCH / RECORDS, steps=steps, delta=DELTA, relation=relation)


@pytest.mark.parametrize("kind", [Own, Manual])
def test_the_statement_is_read_from_the_run(fit, tmp_path, kind):
    callback = accounting()
    module = kind(noise_multiplier=1.3, max_grad_norm=0.7)
    trainer = fit(module, callback)
    report = callback.privacy_report()
    assert (report.mechanism, report.unit, report.delta, report.sampling) == ("dp_sgd", "clip", DELTA, "poisson")
    assert (report.noise_multiplier, report.max_grad_norm) == (1.3, 0.7)
    assert (report.sample_rate, report.steps) == (BATCH / RECORDS, 8)
    assert report.epsilon_add_remove == pytest.approx(cost(8, noise=1.3), rel=1e-9)
    assert trainer.callback_metrics["privacy/epsilon_add_remove"].item() == pytest.approx(cost(8, noise=1.3), rel=1e-6)
    assert "privacy/epsilon_replace" not in trainer.callback_metrics
    assert ledger_report(tmp_path / "run" / "ledger.jsonl") == report


def test_the_other_relation_is_logged_where_it_is_stated(fit, tmp_path):
    fit(Own(), accounting(relation="replace", every_n_steps=3), logger=CSVLogger(tmp_path))
    (path,) = tmp_path.rglob("metrics.csv")
    with path.open() as file:
        rows = {int(float(row["privacy/steps"])): row for row in csv.DictReader(file)}
    assert rows.keys() == {3, 6, 8}
    for steps, row in rows.items():
        for relation in ("add_remove", "replace"):
            found = float(row[f"privacy/epsilon_{relation}"])
            assert found == pytest.approx(cost(steps, relation=relation), rel=1e-6)


def test_every_step_is_charged_before_it_happens(fit, tmp_path):
    charged = []

    class Watching(Own):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            original = optimizer.original_optimizer.step
            ledger = tmp_path / "run" / "ledger.jsonl"
            optimizer.original_optimizer.step = lambda *a: (charged.append(read_ledger(ledger).charged), original(*a))
            return optimizer

    fit(Watching(), accounting())
    assert charged == list(range(1, 9))


def test_training_ends_at_the_budget(fit):
    callback = accounting(budget=(cost(5) + cost(6)) / 2)
    fit(module := Own(), callback, epochs=2)
    assert callback.privacy_report().steps == 5
    assert len(module.engine.accountant.history) == 1
    assert module.engine.accountant.history[0][2] == 5


def test_training_ends_after_the_planned_steps(fit):
    callback = accounting(steps=11)
    fit(Own(), callback, epochs=9)
    assert callback.privacy_report().steps == 11


def test_a_trainer_that_may_not_stop_is_stopped_by_an_error(fit):
    with pytest.raises(PrivacyError, match=r"All planned noisy steps are spent, but the Trainer goes on"):
        fit(Own(), accounting(steps=3), epochs=2, min_epochs=2)


def test_a_budget_below_one_step_leaves_no_ledger(fit, tmp_path):
    with pytest.raises(PrivacyError, match="does not allow a single noisy step"):
        fit(Own(), accounting(budget=cost(1) * 0.9))
    assert not list(tmp_path.rglob("ledger*"))


def test_a_trial_leaves_no_ledger(fit, tmp_path):
    callback = accounting()
    fit(Own(), callback, fast_dev_run=2)
    assert callback.privacy_report().steps == 2
    assert not list(tmp_path.rglob("ledger*"))


# Resuming


@pytest.fixture
def interrupted(fit, tmp_path):
    """Train two epochs of a plan of 24 steps; return the checkpoint."""
    trainer = fit(Own(), accounting(steps=24), epochs=2)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_a_resumed_run_goes_on_where_the_ledger_stands(fit, interrupted, tmp_path):
    callback = accounting(steps=24)
    fit(module := Own(), callback, epochs=3, ckpt_path=interrupted, default_root_dir=tmp_path / "other")
    assert callback.privacy_report().steps == 24
    assert callback.privacy_report().epsilon_add_remove == pytest.approx(cost(24), rel=1e-9)
    assert not (tmp_path / "other" / "ledger.jsonl").exists()
    # Opacus's own accountant knows of the resumed epoch only.
    ((noise, rate, steps),) = module.engine.accountant.history
    assert steps == 8
    forgetful = module.engine.get_epsilon(DELTA)
    module.engine.accountant.history = [(noise, rate, 24)]
    assert forgetful < 0.8 * module.engine.get_epsilon(DELTA)


def test_a_resumed_run_has_spent_as_much_as_an_uninterrupted_one(fit, interrupted, tmp_path):
    whole, resumed = accounting(steps=24), accounting(steps=24)
    fit(Own(), whole, epochs=3, default_root_dir=tmp_path / "whole")
    fit(Own(), resumed, epochs=3, ckpt_path=interrupted)
    ledgers = [ledger_report(tmp_path / folder / "ledger.jsonl") for folder in ("whole", "run")]
    reports = [whole.privacy_report(), resumed.privacy_report(), *ledgers]
    assert [report.epsilon_add_remove for report in reports] == pytest.approx([cost(24)] * 4, abs=1e-9)


def test_steps_lost_in_a_crash_stay_charged(fit, tmp_path):
    class Crashing(Own):
        def training_step(self, batch, batch_idx):
            if self.trainer.current_epoch == 1 and batch_idx == 3:
                raise RuntimeError("out of memory")
            return super().training_step(batch, batch_idx)

    saving = ModelCheckpoint(dirpath=tmp_path / "run" / "checkpoints")  # after the eight steps of each epoch
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(Crashing(), [accounting(), saving], epochs=3, enable_checkpointing=True)
    assert read_ledger(tmp_path / "run" / "ledger.jsonl").charged == 11
    module, callback = Own(), accounting()
    callbacks = [callback, ModelCheckpoint()]
    trainer = fit(module, callbacks, epochs=3, ckpt_path=saving.best_model_path, enable_checkpointing=True)
    assert callback.privacy_report().steps == 24
    assert trainer.global_step == 8 + 24 - 11  # training ends earlier, ε is what was planned


def test_the_plan_is_kept_without_being_repeated(fit, interrupted):
    callback = accounting()
    fit(Own(), callback, epochs=3, ckpt_path=interrupted)
    assert callback.privacy_report().steps == 24


def test_a_plan_cannot_grow(fit, interrupted):
    with pytest.raises(PrivacyError, match=r"planned with 24 noisy steps, and this Trainer would take 32 in all"):
        fit(Own(), accounting(), epochs=4, ckpt_path=interrupted)


def test_a_checkpoint_elsewhere_still_finds_its_ledger(fit, interrupted, tmp_path):
    elsewhere = tmp_path / "far" / "away" / "from" / "it.ckpt"
    elsewhere.parent.mkdir(parents=True)
    interrupted.rename(elsewhere)
    callback = accounting()
    fit(Own(), callback, epochs=3, ckpt_path=elsewhere)
    assert callback.privacy_report().steps == 24


def test_a_lost_ledger_is_refused(fit, interrupted, tmp_path):
    (tmp_path / "run" / "ledger.jsonl").unlink()
    with pytest.raises(LedgerMismatch, match="There is no privacy ledger at"):
        fit(Own(), accounting(), epochs=3, ckpt_path=interrupted)


def test_a_shortened_ledger_is_refused(fit, interrupted, tmp_path):
    path = tmp_path / "run" / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-4]))
    with pytest.raises(LedgerTampered, match="steps were cut off"):
        fit(Own(), accounting(), epochs=3, ckpt_path=interrupted)


def test_other_noise_on_resuming_is_refused(fit, interrupted):
    with pytest.raises(LedgerMismatch, match=r"privacy\.noise_multiplier was 1\.0 and is 2\.0"):
        fit(Own(noise_multiplier=2.0), accounting(), epochs=3, ckpt_path=interrupted)


def test_a_checkpoint_without_a_ledger_is_refused(fit, tmp_path):
    trainer = fit(Own(), None)
    trainer.save_checkpoint(tmp_path / "bare.ckpt")
    with pytest.raises(LedgerMismatch, match="names no privacy ledger"):
        fit(Own(), accounting(), epochs=2, ckpt_path=tmp_path / "bare.ckpt")


def test_a_network_that_is_trained_on_goes_on_in_its_ledger(fit, tmp_path):
    module = Own()
    for epochs in (1, 2):
        fit(module, callback := accounting(steps=20), epochs=epochs, default_root_dir=tmp_path / str(epochs))
    assert callback.privacy_report().steps == 20
    assert [path.parent.name for path in tmp_path.rglob("ledger.jsonl")] == ["1"]


def test_a_fresh_network_begins_a_ledger_of_its_own(fit, tmp_path):
    callback = accounting()
    for _ in range(2):
        fit(Own(), callback)
        assert callback.privacy_report().steps == 8
    assert len(list(tmp_path.rglob("ledger*.jsonl"))) == 2


@pytest.mark.parametrize("trial", [False, 2])
def test_a_trained_network_in_another_module_is_not_trained_again(fit, tmp_path, trial):
    """Its steps, also those of a trial, would be in no ledger that the second run knows of."""
    first, second = Own(), Own()
    fit(first, accounting(), fast_dev_run=trial)
    second.network = first.network
    with pytest.raises(PrivacyError, match="trained privately already"):
        fit(second, accounting(), default_root_dir=tmp_path / "second")
    assert not (tmp_path / "second").exists()


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": None}, r"privacy_accounting\.delta is missing"),
        ({"unit": None}, r"privacy_accounting\.unit is missing"),
    ],
)
def test_what_only_the_user_knows_is_asked_for(fit, changes, message):
    with pytest.raises(ConfigError, match=message):
        fit(Own(), accounting(**changes))


def test_a_delta_that_publishes_a_record_is_refused(fit):
    with pytest.raises(PrivacyError, match=r"privacy_accounting\.delta 0\.025 is not below 1/N"):
        fit(Own(), accounting(delta=1 / RECORDS))


def test_a_run_without_noise_is_not_mistaken_for_a_private_one(fit):
    class Forgetful(Own):
        def configure_optimizers(self):
            return super().configure_optimizers().original_optimizer

    with pytest.raises(PrivacyError, match="trains without noise"):
        fit(Forgetful(), accounting())


def test_a_second_optimizer_is_refused(fit):
    class Two(Manual):
        def configure_optimizers(self):
            return [super().configure_optimizers(), torch.optim.SGD(self.network.parameters(), lr=1.0)]

    with pytest.raises(PrivacyError, match=r"gave 2 optimizers \(DPOptimizer, SGD\)"):
        fit(Two(), accounting())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"gradient_clip_val": 1.0}, "gradient_clip_val"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches"),
        ({"overfit_batches": 2}, "overfit_batches"),
    ],
    ids=str,
)
def test_unsafe_settings_of_the_trainer_are_refused(fit, setting, message):
    with pytest.raises(PrivacyError, match=message):
        fit(Own(), accounting(), **setting)


def test_an_unnoised_metric_is_refused_unless_it_is_named(fit, tmp_path):
    class Logging(Own):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("train/loss", loss, on_epoch=True)
            return loss

    with pytest.raises(PrivacyError, match="'train/loss' is logged"):
        fit(Logging(), accounting())
    fit(Logging(), callback := accounting(log_unnoised=["train/loss"]))
    assert callback.privacy_report().steps == 8
