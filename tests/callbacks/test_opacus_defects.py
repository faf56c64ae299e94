"""Defects of Opacus 1.6 under Lightning: each is shown with Opacus alone, then with PrivacyAccounting beside it.

Those of sampling stand in test_opacus_loader.py, of resuming in test_opacus_run.py, of DDP in test_opacus_ranks.py.
"""

import lightning.pytorch as pl
import pytest
import torch
from opacus import GradSampleModule, PrivacyEngine
from opacus.accountants import GaussianAccountant
from opacus.optimizers import AdaClipDPOptimizer, DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from pvision.callbacks import PrivacyAccounting
from pvision.callbacks._opacus import check_optimizer
from pvision.errors import PrivacyError
from pvision.privacy import PublicView, TwoViews, epsilon, record_gradients, residual_loss

# Opacus's own advice.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off:UserWarning"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
    pytest.mark.filterwarnings("ignore:GDP accounting is experimental:UserWarning"),
]

RECORDS = 48
DATA = TensorDataset(torch.eye(RECORDS))


# V5: what an interrupted logical batch leaves behind


class Counting(pl.LightningModule):
    """Every record moves its own weight by exactly the bound, so that a release shows how often it was summed."""

    def __init__(self, *, physical=4, stop_at=()):
        super().__init__()
        self.network = GradSampleModule(nn.Linear(RECORDS, 1, bias=False), loss_reduction="sum")
        self.physical, self.stop_at, self.seen, self.released = physical, set(stop_at), 0, []

    def configure_optimizers(self):
        _, self.optimizer, self.loader = PrivacyEngine(accountant="rdp").make_private(
            module=self.network,
            optimizer=torch.optim.SGD(self.network.parameters(), lr=1e-9),
            data_loader=DataLoader(DATA, batch_size=RECORDS // 4),
            noise_multiplier=1e-7,
            max_grad_norm=1.0,
            loss_reduction="sum",
        )
        self.optimizer.attach_step_hook(self.note)
        return self.optimizer

    def note(self, optimizer):
        (weight,) = optimizer.params
        self.released.append(weight.grad.flatten().round())

    def train_dataloader(self):
        manager = BatchMemoryManager(
            data_loader=self.loader, max_physical_batch_size=self.physical, optimizer=self.optimizer
        )
        return manager.__enter__()

    def training_step(self, batch, batch_idx):
        self.seen += 1
        if self.seen in self.stop_at:
            raise RuntimeError("out of memory")
        return 100 * self.network(batch[0]).sum()

    def most_often(self):
        return max(int(release.max()) for release in self.released)


@pytest.fixture
def fit(tmp_path):
    def run(module, callback, **changes):
        values = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "accelerator": "cpu",
            "default_root_dir": tmp_path / "run",
            "max_epochs": 6,
        }
        trainer = pl.Trainer(callbacks=[] if callback is None else [callback], **{**values, **changes})
        trainer.fit(module)
        return trainer

    return run


def accounting(**changes):
    return PrivacyAccounting(**{"delta": 1e-3, "unit": "clip", "every_n_steps": 1000, "steps": 500, **changes})


def test_a_record_enters_a_release_once_after_epochs_cut_short(fit):
    fit(peer := Counting(), None, limit_train_batches=5)
    assert peer.most_often() > 1  # Opacus: the bound is exceeded in the epochs after the first
    with pytest.warns(UserWarning, match=r"The Trainer ended after \d+ of 500 noisy steps"):
        fit(ours := Counting(), callback := accounting(), limit_train_batches=5)
    assert ours.most_often() == 1
    assert callback.privacy_report().steps == len(ours.released)


def test_a_record_enters_a_release_once_after_an_exception(fit):
    def interrupted(callback):
        module = Counting(stop_at=(2, 4))
        # The optimizer outlives the fits, as one does that was made private before them.
        made = module.configure_optimizers()
        module.configure_optimizers = lambda: made
        for _ in range(2):
            with pytest.raises(RuntimeError, match="out of memory"):
                fit(module, callback)
        fit(module, callback, max_epochs=50)
        return module

    assert interrupted(None).most_often() > 1
    assert interrupted(accounting(steps=12)).most_often() == 1


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_that_draw_ahead_are_followed(fit, persistent):
    class Ahead(Counting):
        def train_dataloader(self):
            loader = super().train_dataloader()
            workers = {"num_workers": 2, "persistent_workers": persistent, "multiprocessing_context": "fork"}
            return DataLoader(DATA, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn, **workers)

    fit(ours := Ahead(), callback := accounting(steps=9), limit_train_batches=5, max_epochs=50)
    assert ours.most_often() == 1
    assert callback.privacy_report().steps == len(ours.released) == 9


def test_the_number_of_steps_has_to_be_stated_under_batch_memory_manager(fit):
    with pytest.raises(PrivacyError, match=r"privacy_accounting\.steps is missing"):
        fit(Counting(), accounting(steps=None))
    fit(ours := Counting(), accounting(steps=3), max_epochs=50)
    assert len(ours.released) == 3


def test_a_manager_that_tells_another_optimizer_is_refused(fit):
    class Mixed(Counting):
        def train_dataloader(self):
            loader = super().train_dataloader()
            loader.batch_sampler.optimizer = Counting().configure_optimizers()
            return loader

    with pytest.raises(PrivacyError, match="tells another optimizer"):
        fit(Mixed(), accounting())


# V7: a loader that is not Poisson


class Elsewhere(Counting):
    """Takes its batches from a loader of its own."""

    def __init__(self, loader):
        super().__init__()
        self.own = loader

    def train_dataloader(self):
        return self.own


def plain(**changes):
    return DataLoader(DATA, **changes)


NOT_POISSON = {
    "in order": lambda: plain(batch_size=12),
    "shuffled": lambda: plain(batch_size=12, shuffle=True),
    "dropping the last": lambda: plain(batch_size=10, shuffle=True, drop_last=True),
    "weighted": lambda: plain(batch_size=12, sampler=WeightedRandomSampler(torch.ones(RECORDS), RECORDS)),
    "own batches": lambda: plain(batch_sampler=BatchSampler(RandomSampler(DATA), 12, drop_last=False)),
    "one by one": lambda: plain(batch_size=None),
    "several": lambda: [plain(batch_size=12), plain(batch_size=12)],
    "a list": lambda: [(torch.eye(RECORDS),)],
}


@pytest.mark.parametrize("name", NOT_POISSON)
def test_a_loader_that_is_not_poisson_is_refused(fit, name):
    with pytest.raises(PrivacyError, match=r"assumes Poisson sampling|no sample_rate is known"):
        fit(Elsewhere(NOT_POISSON[name]()), accounting())


def test_opacus_accounts_for_it_as_if_it_were(fit):
    class Accounted(Elsewhere):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            self.engine = PrivacyEngine(accountant="rdp")
            optimizer.attach_step_hook(self.engine.accountant.get_optimizer_hook_fn(sample_rate=0.25))
            return optimizer

    fit(peer := Accounted(plain(batch_size=12)), None, max_epochs=1)
    assert peer.engine.accountant.history == [(1e-7, 0.25, 4)]


# The optimizer


def optimizer_of(make=DPOptimizer, **changes):
    network = nn.Linear(2, 1).to(changes.pop("dtype", torch.float32))
    values = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": 4}
    return make(torch.optim.SGD(network.parameters(), lr=1.0), **{**values, **changes})


ADAPTIVE = {
    "target_unclipped_quantile": 0.5,
    "clipbound_learning_rate": 0.2,
    "max_clipbound": 10.0,
    "min_clipbound": 0.1,
    "unclipped_num_std": 2.0,
}


@pytest.mark.parametrize(
    ("optimizer", "world_size", "message"),
    [
        (optimizer_of(), 2, "DPOptimizer came in a run of 2 processes"),
        (optimizer_of(AdaClipDPOptimizer, **ADAPTIVE), 1, "AdaClipDPOptimizer is refused: it divides by the un-noised"),
        (optimizer_of(DPOptimizerFastGradientClipping), 1, "DPOptimizerFastGradientClipping is refused: a record with"),
        (optimizer_of(type("Mine", (DPOptimizer,), {})), 1, "Mine is refused: what it releases is not known here"),
        (optimizer_of(generator=torch.Generator()), 1, "was given a noise generator"),
        (optimizer_of(noise_multiplier=0.0), 1, "NOT PRIVATE"),
        (optimizer_of(noise_multiplier=float("nan")), 1, "NOT PRIVATE"),
        (optimizer_of(secure_mode=True), 1, "secure_mode"),
        (optimizer_of(dtype=torch.bfloat16), 1, r"Parameters in torch\.bfloat16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_optimizer_whose_releases_are_not_covered_is_refused(optimizer, world_size, message):
    with pytest.raises(PrivacyError, match=message):
        check_optimizer(optimizer, nn.Identity(), world_size=world_size)


def test_network_and_optimizer_have_to_agree_on_the_reduction():
    network = GradSampleModule(nn.Linear(2, 1), loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(network.parameters(), lr=1.0), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=4
    )
    with pytest.raises(PrivacyError, match="takes the loss for a sum, its optimizer for a mean"):
        check_optimizer(optimizer, network, world_size=1)
    network.loss_reduction = "mean"
    check_optimizer(optimizer, network, world_size=1)


def test_a_divisor_that_is_off_is_told(fit):
    class Off(Counting):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            optimizer.loss_reduction = self.network.loss_reduction = "mean"
            optimizer.expected_batch_size = 3
            return optimizer

    with pytest.warns(UserWarning, match=r"divides by expected_batch_size 3, but 12 records are drawn"):
        fit(Off(), accounting(steps=1), max_epochs=50)


# V8, V9


@pytest.mark.filterwarnings("ignore:GDP accounting:UserWarning")
def test_epsilon_does_not_come_from_the_optimistic_accountant():
    accountant = GaussianAccountant()
    accountant.history = [(1.0, 0.01, 1000)]
    ours = epsilon(noise_multiplier=1.0, sample_rate=0.01, steps=1000, delta=1e-5, relation="add_remove")
    assert accountant.get_epsilon(delta=1e-5) < 0.9 * ours


def test_two_views_of_one_network_are_taken():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, video):
            return self.layer(video.flatten(1))

    torch.manual_seed(0)
    network, video, label = Flat(), torch.rand(4, 3, 1, 1, 1), torch.tensor([0, 1, 0, 1])
    mask = torch.ones(4, 1, 1, 1, dtype=torch.bool)
    public = PublicView(video=video * 0.5, mask=mask, label=label, position=torch.arange(4))
    views = TwoViews(full=video, public=public)

    peer = Flat()
    module, _, criterion, _ = PrivacyEngine(accountant="rdp").make_private(
        module=peer,
        optimizer=torch.optim.SGD(peer.parameters(), lr=1.0),
        criterion=nn.CrossEntropyLoss(),
        data_loader=DataLoader(TensorDataset(video, label), batch_size=2),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        grad_sample_mode="ghost",
    )
    with pytest.raises(NotImplementedError, match="Parameter tying is not supported"):
        criterion(torch.stack([module(video), module(video * 0.5)]).mean(0), label).backward()

    (rows,) = record_gradients(residual_loss(network, {}), dict(network.named_parameters()), views, microbatch=4)
    for record in range(4):
        network.zero_grad()
        full, redacted = (network(one[record : record + 1]) for one in (video, public.video))
        target = label[record : record + 1]
        (nn.functional.cross_entropy(full, target) - nn.functional.cross_entropy(redacted, target)).backward()
        torch.testing.assert_close(rows.rows()["layer.weight"][record], network.layer.weight.grad)
