"""What stands between an Opacus optimizer and its noise, on one parameter and without a Trainer."""

import pytest
import torch
from opacus.optimizers import DPOptimizer, DPPerLayerOptimizer
from torch import nn

from pvision.callbacks._opacus_releases import NoisyReleases
from pvision.errors import PrivacyError

NOISE, BOUND = 1e-6, 2.0  # so little noise that a release shows what was summed


class Bench:
    """An optimizer over one parameter, and steps on gradients that the test writes."""

    def __init__(self, *, noise=NOISE, size=3, first=True, make=DPOptimizer, bound=BOUND):
        self.parameter = nn.Parameter(torch.zeros(size))
        self.optimizer = make(
            torch.optim.SGD([self.parameter], lr=1.0),
            noise_multiplier=noise,
            max_grad_norm=bound,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self.charges = 0
        self.releases = NoisyReleases(self.optimizer, charge=self.charge, first=first)
        self.releases.new_stream()

    def charge(self):
        self.charges += 1

    def gradients(self, rows):
        self.optimizer.zero_grad()
        self.parameter.grad_sample = torch.as_tensor(rows, dtype=torch.float32).reshape(-1, len(self.parameter))

    def step(self, rows, *, drawn=None):
        """Step on a batch of these gradients, and return what was released."""
        self.gradients(rows)
        self.releases.drawn(len(rows) if drawn is None else drawn)
        self.releases.expect_batch()
        self.optimizer.step()
        return self.parameter.grad


def test_a_release_is_the_clipped_sum_and_is_charged_once():
    bench = Bench()
    released = bench.step([[3.0, 0, 0], [0, 0.5, 0], [0, 0, -40.0]])
    torch.testing.assert_close(released, torch.tensor([2.0, 0.5, -2.0]), atol=1e-4, rtol=0)
    assert bench.charges == 1


def test_per_layer_clipping_keeps_its_own_bounds():
    bench = Bench(make=DPPerLayerOptimizer, bound=[0.5])
    torch.testing.assert_close(bench.step([[3.0, 0, 0]]), torch.tensor([0.5, 0, 0]), atol=1e-4, rtol=0)


def test_an_empty_batch_is_noise_and_is_charged():
    bench = Bench(noise=1.0)
    assert bench.step([]).ne(0).all()
    assert bench.charges == 1


def test_physical_batches_are_charged_once_together():
    bench = Bench()
    bench.releases.drawn(3)
    for row, skip in (([1.0, 0, 0], True), ([0, 1.0, 0], True), ([0, 0, 1.0], False)):
        bench.gradients([row])
        bench.optimizer.signal_skip_step(skip)
        bench.releases.expect_batch()
        bench.optimizer.step()
        assert bench.charges == int(not skip)
    torch.testing.assert_close(bench.parameter.grad, torch.ones(3), atol=1e-4, rtol=0)


def test_nothing_is_released_that_could_not_be_charged():
    bench = Bench()

    def refuse():
        raise PrivacyError("the disk is full")

    bench.releases._charge = refuse
    with pytest.raises(PrivacyError, match="disk is full"):
        bench.step([[1.0, 0, 0]])
    assert bench.parameter.grad is None or not bench.parameter.grad.any()
    assert not bench.parameter.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_record_that_is_not_finite_contributes_nothing(bad):
    good = [[1.0, 0, 0], [0, 1.0, 0]]
    bench = Bench()
    released = bench.step([good[0], [bad, 5.0, 5.0], good[1]])
    torch.testing.assert_close(released, torch.tensor([1.0, 1.0, 0]), atol=1e-4, rtol=0)
    assert bench.releases.non_finite == 1


def test_without_the_correction_it_reaches_every_weight():
    bench = Bench()
    del bench.optimizer.clip_and_accumulate, bench.optimizer.add_noise
    assert bench.step([[1.0, 0, 0], [float("nan"), 5.0, 5.0]]).isnan().all()


@pytest.mark.parametrize("rows", [[[0.0] * 10_000], []], ids=["one record", "nobody"])
def test_the_noise_has_the_stated_scale(rows):
    released = Bench(noise=1.5, size=10_000, bound=2.0).step(rows)
    assert released.std().item() == pytest.approx(3.0, rel=0.05)
    assert abs(released.mean().item()) < 4 * 3.0 / 100


def test_only_rank_0_adds_noise():
    torch.testing.assert_close(Bench(noise=1.0, first=False).step([[1.0, 0, 0]]), torch.tensor([1.0, 0, 0]))


def test_the_noise_does_not_repeat_under_a_seed():
    def noise(corrected):
        torch.manual_seed(7)
        bench = Bench(noise=1.0)
        if not corrected:
            del bench.optimizer.clip_and_accumulate, bench.optimizer.add_noise
        return bench.step([[0.0, 0, 0]])

    assert torch.equal(noise(False), noise(False))
    assert not torch.equal(noise(True), noise(True))


def test_a_second_step_on_one_batch_is_refused():
    bench = Bench()
    bench.step([[1.0, 0, 0]])
    bench.gradients([[1.0, 0, 0]])
    with pytest.raises(PrivacyError, match="a second time on one batch"):
        bench.optimizer.step()
    assert bench.charges == 1


def test_a_step_outside_of_the_run_is_refused():
    bench = Bench()
    bench.releases.expect_batch()
    bench.releases.expect_nothing()
    bench.gradients([[1.0, 0, 0]])
    with pytest.raises(PrivacyError, match="or outside of training"):
        bench.optimizer.step()


def test_accumulated_batches_are_refused():
    bench = Bench()
    bench.gradients([[1.0, 0, 0]])
    bench.parameter.grad_sample = [bench.parameter.grad_sample, bench.parameter.grad_sample.clone()]
    bench.releases.expect_batch()
    with pytest.raises(PrivacyError, match="Gradients of several batches were accumulated"):
        bench.optimizer.step()


def test_batches_merged_by_a_skipped_step_are_refused():
    bench = Bench()
    bench.optimizer.signal_skip_step(True)
    bench.step([[1.0, 0, 0]])
    with pytest.raises(PrivacyError, match="holds 3 clipped gradients for a batch of 1 records"):
        bench.step([[1.0, 0, 0], [0, 1.0, 0]])
    assert bench.charges == 0


@pytest.mark.parametrize("drawn", [1, 3, 0])
def test_other_gradients_than_records_drawn_are_refused(drawn):
    bench = Bench()
    with pytest.raises(PrivacyError, match=f"holds 2 clipped gradients for a batch of {drawn} records"):
        bench.step([[1.0, 0, 0], [0, 1.0, 0]], drawn=drawn)
    assert bench.charges == 0


@pytest.mark.parametrize("name", ["noise_multiplier", "max_grad_norm"])
def test_noise_or_bound_that_changes_is_refused(name):
    bench = Bench()
    bench.step([[1.0, 0, 0]])
    setattr(bench.optimizer, name, 0.5)
    with pytest.raises(PrivacyError, match="leave out schedulers of noise and clipping"):
        bench.step([[1.0, 0, 0]])
    assert bench.charges == 1


def test_a_new_stream_drops_what_was_left_behind():
    bench = Bench()
    bench.optimizer.signal_skip_step(True)
    bench.optimizer.signal_skip_step(True)
    bench.step([[5.0, 0, 0]])
    bench.releases.new_stream()
    torch.testing.assert_close(bench.step([[0, 1.0, 0]]), torch.tensor([0, 1.0, 0]), atol=1e-4, rtol=0)
    assert bench.charges == 1
