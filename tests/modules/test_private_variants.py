"""Units, populations, samplings and private labels, as the modules use them."""

import math

import pytest
import torch

from pvision.errors import DataError, PrivacyError
from pvision.models import RotationPretext
from pvision.modules import MaskDP, PrivateTraining
from pvision.modules.private_training import PairedBatch
from pvision.privacy import GaussianMechanism

C = 0.05
PEOPLE = 6


@pytest.fixture
def people(clips):
    """Clips of six people, eight each; every fourth clip has an empty mask if ``empty``."""

    class People(clips):
        def __init__(self, *, empty=False, **arguments):
            super().__init__(**arguments)
            self.empty = empty

        def make(self, records, *, seed, outside=False):
            whole = super().make(records, seed=seed, outside=outside)
            region = whole._region.clone()
            if self.empty:
                region[::4] = False
            subjects = [f"person {record % PEOPLE}" for record in range(records)]
            return type(whole)(whole._video, region, whole._label, whole._redaction, subjects=subjects)

    return People


def sums_of(module, data, exchange=None):
    """Return the clipped sum of one batch of everybody, without noise, as one vector.

    Args:
        exchange: what to do with both views before the step.
    """
    data.setup()
    captured = []

    class Silent(GaussianMechanism):
        def release(self, gradients, like, *, index):
            total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in like.items()}
            self._add_clipped(total, gradients, torch.as_tensor(index))
            captured.append(torch.cat([value.flatten() for value in total.values()]))
            raise StopIteration

    module.mechanism = Silent(module.privacy, num_records=len(data.train_set), **module._who(data))
    (batch,) = list(module.mechanism.batches)
    views = data.train_set[batch]
    with pytest.raises(StopIteration):
        module._release(views if exchange is None else exchange(views))
    return captured[0]


def of_person(views, person, full):
    mine = views.public.position % PEOPLE == person
    return views._replace(full=torch.where(mine.view(-1, 1, 1, 1, 1), full, views.full))


@pytest.mark.parametrize("mechanism", ["residual", "dp_sgd"])
def test_replacing_all_clips_of_a_subject_moves_a_release_by_at_most_the_bound(net, statement, people, mechanism):
    def build(unit):
        spec = statement(mechanism, unit=unit, steps=1, max_grad_norm=C, delta=1e-3)
        return PrivateTraining(net(), spec, public_epochs=0, microbatch=5)

    def moved(unit, bound):
        before = sums_of(build(unit), people())
        zeroed = sums_of(build(unit), people(), lambda views: of_person(views, 2, views.public.video))
        other = sums_of(build(unit), people(), lambda views: of_person(views, 2, 255 - views.full))
        assert (before - other).norm() <= 2 * bound * (1 + 1e-6)
        assert (before - zeroed).norm() <= (1 if mechanism == "residual" else 2) * bound * (1 + 1e-6)
        return max((before - other).norm(), (before - zeroed).norm())

    assert moved("subject", C) > 0
    with pytest.raises(AssertionError):  # the control: as clips, the eight of one person add up
        moved("clip", C)


def test_unit_means_do_not_depend_on_the_microbatch(net, statement, people):
    spec = statement(unit="subject", steps=1, delta=1e-3)
    vectors = [
        sums_of(PrivateTraining(net(), spec, public_epochs=0, microbatch=size), people()) for size in (1, 3, 8, 48)
    ]
    for vector in vectors[1:]:
        torch.testing.assert_close(vector, vectors[0], rtol=1e-5, atol=1e-7)


def test_a_whole_run_with_units_of_several_clips(net, statement, people, fit):
    for module in (
        MaskDP(net(), net(50), statement(unit="subject", delta=1e-3), public_epochs=1, projection_dim=6),
        PrivateTraining(net(), statement("dp_sgd", unit="subject", sample_rate=0.5, delta=1e-3)),
    ):
        fit(module, people())
        assert module.mechanism.units.count == PEOPLE
        assert module.privacy_report().unit == "subject"
        assert module.privacy_steps == 6


def test_a_delta_is_compared_with_the_number_of_units(net, statement, people, fit):
    with pytest.raises(PrivacyError, match=r"1/N = 0\.17 for 6 subjects"):
        fit(PrivateTraining(net(), statement("dp_sgd", unit="subject", delta=0.2)), people())


def test_data_that_does_not_know_its_units_is_refused(net, statement, clips, fit):
    module = PrivateTraining(net(), statement("dp_sgd", unit="subject", delta=1e-3))
    with pytest.raises((DataError, PrivacyError), match="subject"):
        fit(module, clips())
    assert module.trainer.global_step == 0


# Population


@pytest.mark.parametrize("mechanism", ["residual", "dp_sgd"])
def test_only_clips_with_something_masked_are_drawn(net, statement, people, fit, mechanism):
    module = PrivateTraining(net(), statement(mechanism, population="masked"), public_epochs=0)
    batches = []
    original = module.private_step
    module.private_step = lambda batch: (batches.append(batch), original(batch))
    fit(module, people(empty=True))
    assert module.mechanism.units.count == 36
    for batch in batches:
        assert isinstance(batch, PairedBatch)
        assert (batch.private.public.position % 4 != 0).all()
        assert len(batch.private.label) == 36
        if mechanism == "dp_sgd":
            assert (batch.public.position % 4 == 0).all()


def test_un_noised_epochs_of_a_partition_see_nothing_masked(net, statement, people, fit):
    def trained(hidden):
        spec = statement(
            "dp_sgd", population="masked", noise_seed=0, noise_multiplier=1e-3, max_grad_norm=1e-9, steps=1
        )
        module = PrivateTraining(net(), spec, public_epochs=2)
        fit(module, people(empty=True, hidden=hidden), limit_train_batches=1)
        return torch.cat([value.flatten() for value in module.network.parameters()])

    # With a bound of nothing all that trains is un-noised; unmasked clips are the same in both only outside the square.
    assert not torch.equal(trained(0), trained(1))  # their own square is not masked, so it is seen
    assert torch.equal(trained(0), trained(0))


# Sampling


def test_turns_are_taken_without_secrecy(net, statement, clips, fit):
    module = PrivateTraining(net(), statement("residual", sampling="deterministic", sample_rate=0.25))
    seen = []
    original = module.private_step
    module.private_step = lambda batch: (seen.extend(batch.private.public.position.tolist()), original(batch))
    fit(module, clips())
    assert {seen.count(record) for record in range(48)} == {1, 2}
    assert max(seen.count(record) for record in range(48)) == math.ceil(6 * 0.25)
    assert module.privacy_report().accountant == "exact"


def test_turns_go_on_after_lost_steps(statement):
    """A batch that a crash repeats would take part more often than ε says."""
    spec = statement("residual", sampling="deterministic", sample_rate=0.25, steps=12)
    mechanism = GaussianMechanism(spec, num_records=8)
    assert list(mechanism.batches)[:4] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    mechanism.batches.resume(spent=6, taken=2)
    assert len(mechanism.batches) == 12 - 6 + 2
    assert list(mechanism.batches)[:2] == [[2, 6], [3, 7]]


def test_truncated_batches_have_one_shape(net, statement, clips, fit):
    spec = statement(
        "residual", sampling="truncated_poisson", sample_rate=0.3, max_batch_size=20, num_records=48, steps=8
    )
    network = net()
    shapes = set()
    module = PrivateTraining(network, spec, microbatch=10)
    original = module._release

    def watched(views):
        handle = network.body.register_forward_pre_hook(lambda layer, inputs: shapes.add(tuple(inputs[0].shape)))
        try:
            return original(views)
        finally:
            handle.remove()

    module._release = watched
    sizes = []
    step = module.private_step
    module.private_step = lambda batch: (sizes.append(len(batch.private.label)), step(batch))
    fit(module, clips())
    assert len(shapes) == 1
    assert max(sizes) <= 20
    assert len(set(sizes)) > 1


def test_a_wrong_number_of_records_is_refused_where_epsilon_depends_on_it(net, statement, clips, fit):
    spec = statement("dp_sgd", sampling="truncated_poisson", max_batch_size=20, num_records=50)
    with pytest.raises(
        PrivacyError, match=r"privacy\.num_records is 50, but noisy steps draw from 48 clips.* Set it to 48"
    ):
        fit(PrivateTraining(net(), spec), clips())


# Polarity and labels


def test_the_wrong_side_of_the_mask_is_refused(net, statement, clips, fit):
    class Outside(clips):
        def prepare_sets(self):
            super().prepare_sets()
            self.redaction = self.train_set._redaction

    with pytest.raises(
        PrivacyError, match=r"privacy\.polarity is 'outside', but data\.redaction\.sensitive is 'inside'"
    ):
        fit(PrivateTraining(net(), statement(polarity="outside")), Outside())


@pytest.fixture
def relabelled(clips):
    class Relabelled(clips):
        def make(self, records, *, seed, outside=False):
            whole = super().make(records, seed=seed, outside=outside)
            return type(whole)(whole._video, whole._region, whole._label.roll(1), whole._redaction)

    return Relabelled


@pytest.mark.parametrize("mechanism", ["residual", "redact_then_dp_sgd"])
def test_private_labels_do_not_enter_un_noised_training(net, statement, clips, relabelled, fit, mechanism):
    def trained(data, **changes):
        spec = statement(
            mechanism, label="private", noise_seed=0, noise_multiplier=1e-3, max_grad_norm=1e-12, **changes
        )
        module = PrivateTraining(
            net(),
            spec,
            public_epochs=2,
            public_loss=RotationPretext,
            private_optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        )
        start = [value.detach().clone() for value in module.network.parameters()]
        fit(module, data, num_sanity_val_steps=0, limit_val_batches=0)
        end = list(module.network.parameters())
        assert not torch.equal(torch.cat([v.flatten() for v in start]), torch.cat([v.flatten() for v in end]))
        return torch.cat([value.detach().flatten() for value in end])

    # A bound of nothing leaves only what is not noised.
    torch.testing.assert_close(trained(clips()), trained(relabelled()), rtol=0, atol=1e-10)


@pytest.mark.parametrize("mechanism", ["residual", "redact_then_dp_sgd"])
def test_private_labels_need_a_loss_without_labels(net, statement, mechanism):
    with pytest.raises(
        PrivacyError, match=r"label-free model\.public_loss, for example pvision\.models\.RotationPretext"
    ):
        PrivateTraining(net(), statement(mechanism, label="private"), public_epochs=1)


def test_the_head_refuses_private_labels(net, statement):
    with pytest.raises(PrivacyError, match=r"privacy\.label 'private' has no proof under MaskDP"):
        MaskDP(net(), net(50), statement(label="private"), projection_dim=6)
