"""What a wrong mechanism could do unseen by tests of its parts: each of these fails for one such fault."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import (
    DenseGradients,
    GaussianMechanism,
    PoissonBatches,
    PrivacyLedger,
    PrivacySpec,
    PublicView,
    TwoViews,
    record_gradients,
    residual_loss,
    sampling,
)
from pvision.privacy.record_batches import BatchRedaction
from pvision.privacy.step_gradients import StepGradients

RECORDS = 12


def statement(**changes: Any) -> PrivacySpec:
    values: dict[str, Any] = {
        "mechanism": "residual",
        "unit": "clip",
        "mask": "public",
        "polarity": "inside",
        "label": "public",
        "relation": "zero_out",
        "delta": 1e-5,
        "max_grad_norm": 1.0,
        "sample_rate": 0.5,
        "steps": 20,
        "noise_multiplier": 1.0,
    }
    return PrivacySpec(**{**values, **changes})


def release(mechanism: GaussianMechanism, batches: Any) -> Tensor:
    index = next(batches)
    like = {"weight": torch.zeros(3)}
    return mechanism.release([DenseGradients({"weight": torch.zeros(len(index), 3)})], like, index=index)["weight"]


# A residual that should be zero


class Recurrent(nn.Module):
    """One layer used again and again, with a large gradient: autograd adds up its uses, and rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, video: Tensor) -> Tensor:
        state = 100 * video.mean((1, 3, 4))
        for _ in range(6):
            state = state + torch.tanh(self.again(state))
        return 100 * self.head(state)


@pytest.fixture
def equal_views() -> TwoViews:
    torch.manual_seed(0)
    video = torch.rand(RECORDS, 3, 8, 4, 4)
    mask = torch.zeros(RECORDS, 8, 4, 4, dtype=torch.bool)
    return TwoViews(video, PublicView(video.clone(), mask, torch.arange(RECORDS) % 4, torch.arange(RECORDS)))


def largest(pieces: Any) -> float:
    return max(float(piece.norms().max()) for piece in pieces)


def test_the_residual_of_equal_views_is_exactly_zero_where_layers_are_used_again(equal_views: TwoViews) -> None:
    torch.manual_seed(0)
    network = Recurrent()
    trained = {name: one.detach() for name, one in network.named_parameters()}

    def uncorrected(parameters: Any, full: Tensor, public: Tensor, label: Tensor) -> Tensor:
        one, other = (
            nn.functional.cross_entropy(torch.func.functional_call(network, parameters, (view[None],)), label[None])
            for view in (full, public)
        )
        return one - other

    assert largest(record_gradients(uncorrected, trained, equal_views, microbatch=5)) > 0  # or this tests nothing
    assert largest(record_gradients(residual_loss(network, {}), trained, equal_views, microbatch=5)) == 0


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_somebody_elses_residual_of_equal_views_is_exactly_zero_too(equal_views: TwoViews, engine: str) -> None:
    torch.manual_seed(0)
    network = Recurrent()

    def loss(batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return nn.functional.cross_entropy(network(batch[0]), batch[1]), {}

    batch = (equal_views.full, equal_views.label)
    redact = BatchRedaction(lambda batch: (batch[0].clone(), batch[1]))
    assert largest(StepGradients(network, loss, batch, records=RECORDS, redact=redact, engine=engine)) == 0


def test_a_residual_stays_where_one_pixel_differs(equal_views: TwoViews) -> None:
    network = Recurrent()
    trained = {name: one.detach() for name, one in network.named_parameters()}
    equal_views.full[0, 0, 0, 0, 0] += 0.5
    (piece,) = record_gradients(residual_loss(network, {}), trained, equal_views, microbatch=RECORDS)
    assert (piece.norms() > 0).tolist() == [True] + [False] * (RECORDS - 1)


# One ledger, one mechanism, one statement


def test_a_ledger_of_another_statement_is_refused() -> None:
    loud = statement()
    quiet = dataclasses.replace(loud, noise_multiplier=0.1)
    with pytest.raises(PrivacyError, match="another privacy statement"):
        GaussianMechanism(quiet, num_records=RECORDS, ledger=PrivacyLedger.create(None, loud, num_records=RECORDS))


def test_two_mechanisms_do_not_share_a_ledger() -> None:
    spec = statement(sampling="deterministic")
    ledger = PrivacyLedger.create(None, spec, num_records=RECORDS)
    first, second = (GaussianMechanism(spec, num_records=RECORDS, ledger=ledger) for _ in range(2))
    release(first, iter(first.batches))
    with pytest.raises(PrivacyError, match="another one, or a copy"):
        release(second, iter(second.batches))
    assert ledger.spent == first.steps == 1


def test_a_copied_mechanism_does_not_release_beside_its_original() -> None:
    mechanism = GaussianMechanism(statement(), num_records=RECORDS)
    other = copy.deepcopy(mechanism)
    release(mechanism, iter(mechanism.batches))
    with pytest.raises(PrivacyError, match="another one, or a copy"):
        release(other, iter(other.batches))


def test_a_mechanism_may_take_over_where_another_stopped() -> None:
    spec = statement()
    ledger = PrivacyLedger.create(None, spec, num_records=RECORDS)
    first = GaussianMechanism(spec, num_records=RECORDS, ledger=ledger)
    release(first, iter(first.batches))
    second = GaussianMechanism(spec, num_records=RECORDS, ledger=ledger)
    release(second, iter(second.batches))
    assert second.steps == ledger.spent == 2


# Secret draws


def test_the_global_seed_says_nothing_about_who_is_drawn() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        drawn.append(list(PoissonBatches(num_records=200, sample_rate=0.5, steps=3)))
    assert drawn[0] != drawn[1]


def test_drawing_and_noise_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    mechanism = GaussianMechanism(statement(), num_records=RECORDS)
    release(mechanism, iter(mechanism.batches))
    after = torch.rand(())
    torch.manual_seed(0)
    assert after == torch.rand(())


def test_the_noise_of_a_run_is_not_repeated_by_the_next() -> None:
    spec = statement()
    ledger = PrivacyLedger.create(None, spec, num_records=RECORDS)
    releases = []
    for _ in range(2):  # the second goes on where the first was interrupted
        mechanism = GaussianMechanism(spec, num_records=RECORDS, ledger=ledger)
        releases.append(release(mechanism, iter(mechanism.batches)))
    assert not (releases[0] == releases[1]).any()


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_chance_in_the_loss_itself_is_refused_where_a_record_has_two_views(equal_views: TwoViews, engine: str) -> None:
    """No layer tells of this dropout: only running it does."""
    network = Recurrent()

    def loss(batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return nn.functional.cross_entropy(network(nn.functional.dropout(batch[0])), batch[1]), {}

    batch = (equal_views.full, equal_views.label)
    redact = BatchRedaction(lambda batch: (torch.zeros_like(batch[0]), batch[1]))
    with pytest.raises((ConfigError, PrivacyError), match="random"):
        list(StepGradients(network, loss, batch, records=RECORDS, redact=redact, engine=engine))


def test_chance_inside_a_network_is_refused_too(equal_views: TwoViews) -> None:
    class Careless(Recurrent):
        def forward(self, video: Tensor) -> Tensor:
            return nn.functional.dropout(super().forward(video))

    network = Careless()
    trained = {name: one.detach() for name, one in network.named_parameters()}
    with pytest.raises(RuntimeError, match="random"):
        list(record_gradients(residual_loss(network, {}), trained, equal_views, microbatch=RECORDS))


# Who takes part, and what it costs


def test_an_empty_batch_is_charged() -> None:
    mechanism = GaussianMechanism(statement(sample_rate=1e-9), num_records=RECORDS)
    batches = iter(mechanism.batches)
    released = [release(mechanism, batches) for _ in range(5)]
    assert mechanism.steps == mechanism._ledger.spent == 5
    assert all(one.abs().min() > 0 for one in released)


def test_deterministic_turns_go_on_where_a_lost_run_stopped() -> None:
    """Each unit takes part once in a round, though half of the round was lost with the first mechanism."""
    spec = statement(sampling="deterministic", sample_rate=0.25, steps=8)
    ledger = PrivacyLedger.create(None, spec, num_records=RECORDS)
    drawn: list[int] = []
    for steps in (3, 5):
        mechanism = GaussianMechanism(spec, num_records=RECORDS, ledger=ledger)
        batches = iter(mechanism.batches)
        for _ in range(steps):
            index = next(batches)
            drawn += index
            like = {"weight": torch.zeros(3)}
            mechanism.release([DenseGradients({"weight": torch.zeros(len(index), 3)})], like, index=index)
    assert all(drawn.count(record) == 2 for record in range(RECORDS))


def test_of_a_batch_that_is_too_large_everybody_has_the_same_chance_to_stay() -> None:
    records, most, steps = 10, 3, 4000
    batches = PoissonBatches(num_records=records, sample_rate=0.9, steps=steps, max_batch_size=most, seed=0)
    counts = torch.bincount(torch.tensor([one for batch in batches for one in batch]), minlength=records)
    expected = counts.sum() / records
    assert (counts - expected).abs().max() < 5 * expected.sqrt()


@pytest.mark.parametrize("pieces", [1, 2, 3, 6])
def test_a_subjects_clips_enter_as_one_vector_however_they_are_cut_into_pieces(pieces: int) -> None:
    names = ["ann"] * 4 + ["bob"] * 2
    spec = statement(unit="subject", sample_rate=1.0, noise_multiplier=1e-9, delta=1e-5)
    mechanism = GaussianMechanism(spec, num_records=6, units=names)
    index = next(iter(mechanism.batches))
    rows = torch.zeros(6, 2, dtype=torch.float64)
    rows[:4, 0], rows[4:, 1] = 100.0, torch.tensor([0.2, 0.6])
    cut = [DenseGradients({"weight": piece}) for piece in rows.chunk(pieces)]
    like = {"weight": torch.zeros(2, dtype=torch.float64)}
    released = mechanism.release(cut, like, index=index)["weight"]
    torch.testing.assert_close(released, torch.tensor([1.0, 0.4], dtype=torch.float64) / 2, atol=1e-6, rtol=0)


def test_noisy_steps_draw_from_the_masked_population_only_and_its_whole_units() -> None:
    names = ["ann", "bob", "ann", "cem", "bob", "dan"]
    spec = statement(unit="subject", population="masked", sample_rate=1.0)
    mechanism = GaussianMechanism(spec, num_records=6, units=names, population=[2, 3])
    assert sorted(next(iter(mechanism.batches))) == [0, 2, 3]
    assert mechanism.units.count == 2


@pytest.mark.parametrize("secure", [False, True])
def test_secure_noise_draws_the_batches_too(secure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    original = sampling.SecretSource

    def source(**arguments: Any) -> Any:
        asked.append(arguments["secure"])
        return original(**arguments)

    monkeypatch.setattr(sampling, "SecretSource", source)
    next(iter(GaussianMechanism(statement(secure_noise=secure), num_records=RECORDS).batches))
    assert asked == [secure]


def test_a_redaction_that_leaves_traces_is_refused() -> None:
    """Halving is the example: halved again, a record without its content still has a residual."""
    batch = torch.rand(RECORDS, 3)
    with pytest.raises(PrivacyError, match="idempotent"):
        BatchRedaction(lambda batch: batch / 2)(batch, records=RECORDS)
