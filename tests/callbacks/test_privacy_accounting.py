"""The callback in a project with a LightningModule of its own and manual optimisation."""

import csv
import json
import math
import subprocess
import sys

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pvision.callbacks import PrivacyAccounting
from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import DenseGradients, GaussianMechanism, PrivacyReport, PrivacySpec, epsilon

RECORDS = 20


def spec_of(**changes):
    values = {
        "mechanism": "residual",
        "unit": "clip",
        "mask": "public",
        "polarity": "inside",
        "label": "public",
        "relation": "zero_out",
        "delta": 1e-4,
        "max_grad_norm": 1.0,
        "sample_rate": 1.0,
        "steps": 8,
        "noise_multiplier": 10.0,
    }
    return PrivacySpec(**{**values, **changes})


class Own(pl.LightningModule):
    """Some un-noised epochs of three batches, then the noisy steps in batches of three as well."""

    def __init__(self, privacy, *, public_epochs=1):
        super().__init__()
        self.automatic_optimization = False
        self.privacy, self.public_epochs = privacy, public_epochs
        self.mechanism = GaussianMechanism(privacy, num_records=RECORDS)
        self.batches = iter(self.mechanism.batches)
        self.weight = nn.Parameter(torch.zeros(4))
        self.public_steps = 0

    @property
    def in_private_phase(self):
        return self.current_epoch >= self.public_epochs

    @property
    def privacy_steps(self):
        return self.mechanism.steps

    def privacy_report(self):
        return self.mechanism.report()

    def training_step(self, batch, batch_idx):
        if not self.in_private_phase:
            self.public_steps += 1
        elif (drawn := next(self.batches, None)) is not None:
            rows = DenseGradients({"weight": torch.ones(len(drawn), 4)})
            gradient = self.mechanism.release([rows], {"weight": self.weight}, index=torch.tensor(drawn))
            self.weight.grad = gradient["weight"]
            self.optimizers().step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Plain(pl.LightningModule):
    """Knows nothing of privacy."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def fit(tmp_path):
    """Train for some epochs of three batches each."""

    def run(module, callback, *, epochs=9, **changes):
        values = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
        }
        callbacks = callback if isinstance(callback, list) else [callback]
        trainer = pl.Trainer(max_epochs=epochs, callbacks=callbacks, **{**values, **changes})
        trainer.fit(module, DataLoader(TensorDataset(torch.zeros(3, 1)), batch_size=1))
        return trainer

    return run


def cost(steps, **changes):
    point = {"noise_multiplier": 10.0, "sample_rate": 1.0, "delta": 1e-4, "relation": "zero_out"}
    return epsilon(steps=steps, **{**point, **changes})


@pytest.mark.parametrize("affordable", [1, 2, 3, 5, 7])
def test_training_stops_at_the_last_step_that_the_budget_allows(fit, affordable):
    budget = (cost(affordable) + cost(affordable + 1)) / 2
    module = Own(spec_of())
    trainer = fit(module, PrivacyAccounting(budget=budget))
    assert module.privacy_steps == affordable
    assert module.privacy_report().epsilon_zero_out <= budget
    assert module.public_steps == 3
    assert trainer.global_step == affordable


def test_a_budget_that_is_met_exactly_is_not_exceeded(fit):
    module = Own(spec_of())
    fit(module, PrivacyAccounting(budget=cost(4)))
    assert module.privacy_steps == 4


def test_the_budget_is_meant_in_the_relation_of_the_statement(fit):
    budget = cost(5)
    module = Own(spec_of(relation="replace"))
    fit(module, PrivacyAccounting(budget=budget))
    assert cost(module.privacy_steps, relation="replace") <= budget < cost(module.privacy_steps + 1, relation="replace")
    assert module.privacy_steps < 5


@pytest.mark.parametrize("budget", [None, 1000.0])
def test_without_a_limit_all_steps_are_taken(fit, budget):
    module = Own(spec_of())
    trainer = fit(module, PrivacyAccounting(budget=budget), epochs=4)
    assert module.privacy_steps == 8
    assert trainer.current_epoch == 4


@pytest.mark.parametrize("trap", [{"min_epochs": 6}, {"min_steps": 7}], ids=str)
def test_a_trainer_that_may_not_stop_is_stopped_by_an_error(fit, trap):
    module = Own(spec_of())
    with pytest.raises(PrivacyError, match=r"is spent, but the Trainer goes on\. Leave out trainer\.min_epochs"):
        fit(module, PrivacyAccounting(budget=cost(2)), **trap)
    assert module.privacy_steps == 2


def test_a_budget_below_one_step_is_refused_before_training(fit):
    module = Own(spec_of())
    with pytest.raises(PrivacyError, match=rf"does not allow a single noisy step: one costs ε = {cost(1):.3g}"):
        fit(module, PrivacyAccounting(budget=cost(1) * 0.9))
    assert module.privacy_steps == module.public_steps == 0


def rows_of(folder):
    (path,) = folder.rglob("metrics.csv")
    with path.open() as file:
        return [row for row in csv.DictReader(file) if row["privacy/steps"]]


@pytest.mark.parametrize("every", [1, 3])
def test_epsilon_is_logged_every_few_steps_and_after_every_epoch(fit, tmp_path, every):
    fit(Own(spec_of()), PrivacyAccounting(every_n_steps=every), epochs=4, logger=CSVLogger(tmp_path))
    rows = rows_of(tmp_path)
    logged = {int(float(row["privacy/steps"])) for row in rows}
    assert logged == {0, 3, 6, 8} | set(range(every, 9, every))
    for row in rows:
        steps = int(float(row["privacy/steps"]))
        assert float(row["privacy/epsilon_zero_out"]) == pytest.approx(cost(steps), rel=1e-6)
        assert float(row["privacy/epsilon_replace"]) == pytest.approx(cost(steps, relation="replace"), rel=1e-6)


def test_by_default_epsilon_is_logged_every_ten_steps_of_a_short_run(fit, tmp_path):
    fit(Own(spec_of(steps=12), public_epochs=0), PrivacyAccounting(), epochs=4, logger=CSVLogger(tmp_path))
    assert {int(float(row["privacy/steps"])) for row in rows_of(tmp_path)} == {3, 6, 9, 10, 12}


def test_an_epsilon_without_a_proof_is_logged_as_infinite(fit, tmp_path):
    module = Own(spec_of())
    module.privacy_report = PrivacyReport.no_privacy
    trainer = fit(module, PrivacyAccounting(), epochs=2)
    assert trainer.callback_metrics["privacy/epsilon_zero_out"] == math.inf


def test_the_final_values_are_there_for_other_callbacks(fit):
    module = Own(spec_of())
    trainer = fit(module, PrivacyAccounting(), epochs=3)
    assert trainer.callback_metrics["privacy/steps"] == 6
    assert trainer.callback_metrics["privacy/epsilon_zero_out"].item() == pytest.approx(cost(6), rel=1e-6)


def test_a_module_that_does_not_train_privately_is_left_alone(fit, tmp_path):
    trainer = fit(Plain(), PrivacyAccounting(budget=1e-6, every_n_steps=1), epochs=2, logger=CSVLogger(tmp_path))
    assert trainer.current_epoch == 2
    assert not any(name.startswith("privacy/") for name in trainer.callback_metrics)


class Elsewhere(pl.Callback):
    """A callback that takes a noisy step with every batch of a module that knows nothing of it."""

    in_private_phase = True

    def __init__(self, privacy):
        self.privacy = privacy
        self.mechanism = GaussianMechanism(privacy, num_records=RECORDS)
        self.batches = iter(self.mechanism.batches)

    @property
    def privacy_steps(self):
        return self.mechanism.steps

    def privacy_report(self):
        return self.mechanism.report()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        drawn = next(self.batches)
        rows = DenseGradients({"weight": torch.ones(len(drawn), 1)})
        self.mechanism.release([rows], {"weight": torch.zeros(1)}, index=torch.tensor(drawn))


def test_a_callback_that_trains_privately_is_served_too(fit):
    private = Elsewhere(spec_of())
    trainer = fit(Plain(), [private, PrivacyAccounting(budget=cost(4))])
    assert private.privacy_steps == 4
    assert trainer.callback_metrics["privacy/steps"] == 4


def test_one_callback_serves_one_run_after_the_other(fit):
    callback = PrivacyAccounting(budget=cost(2))
    for _ in range(2):
        fit(module := Own(spec_of()), callback)
        assert module.privacy_steps == 2
    fit(Plain(), callback, epochs=1)


def test_known_noise_is_announced_as_not_private(fit):
    with pytest.warns(UserWarning, match=r"NOT PRIVATE: privacy\.noise_seed is set"):
        fit(Own(spec_of(noise_seed=1)), PrivacyAccounting(), epochs=2)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "1", True, 10**400])
def test_a_nonsensical_budget_is_refused(value):
    with pytest.raises(ConfigError, match=r"^privacy_accounting\.budget must be a finite number above 0"):
        PrivacyAccounting(budget=value)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_a_nonsensical_interval_is_refused(value):
    with pytest.raises(ConfigError, match=r"^privacy_accounting\.every_n_steps must be a whole number"):
        PrivacyAccounting(every_n_steps=value)


@pytest.mark.parametrize("name", ["delta", "unit", "relation", "steps"])
def test_a_module_that_states_its_privacy_is_not_told_again(fit, name):
    given = {"delta": 1e-4, "unit": "clip", "relation": "replace", "steps": 3}[name]
    with pytest.raises(ConfigError, match=rf"privacy_accounting\.{name} was given, but Own states its own privacy"):
        fit(Own(spec_of()), PrivacyAccounting(**{name: given}))


@pytest.mark.parametrize(
    "argument", [{"delta": 0}, {"delta": 1}, {"unit": "frame"}, {"relation": "zero_out"}, {"steps": 0}], ids=str
)
def test_nonsense_is_refused_at_once(argument):
    with pytest.raises(ConfigError, match=rf"^privacy_accounting\.{next(iter(argument))} must be"):
        PrivacyAccounting(**argument)


@pytest.mark.slow
def test_the_callbacks_need_neither_opacus_nor_the_packages_that_its_example_needs():
    program = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("opacus", "pl_bolts", "pytorch_lightning"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import pvision.callbacks, pvision.callbacks._opacus_run, pvision.privacy
print(json.dumps([name for name in ("opacus", "pl_bolts", "pytorch_lightning") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
