"""Several processes release together: the same bits on each, and nothing that tells how many there are.

Functions named ``on_rank_…`` run in each process of a gloo group.
"""

import math
import random

import pytest
import torch

from pvision.errors import PrivacyError
from pvision.privacy import (
    DenseGradients,
    GaussianMechanism,
    PoissonBatches,
    PrivacyLedger,
    PrivacySpec,
    Ranks,
    ledger_report,
)
from pvision.privacy import agreed_sum as agreed_sum_module
from pvision.privacy.agreed_sum import agreed_sum

WORLDS = (1, 2, 4)
RECORDS = 120


def spec_of(**changes):
    values = {
        "mechanism": "dp_sgd",
        "unit": "clip",
        "mask": "public",
        "label": "public",
        "relation": "add_remove",
        "delta": 1e-5,
        "max_grad_norm": 1.0,
        "sample_rate": 0.2,
        "steps": 6,
        "noise_multiplier": 1.5,
    }
    return PrivacySpec(**{**values, **changes})


def returned(outcomes):
    assert [kind for kind, _ in outcomes] == ["returned"] * len(outcomes), outcomes
    return [value for _, value in outcomes]


# Training


def on_rank_train(rank, spec, units=None, ledger=None):
    """Fit a linear regression by noisy steps; return the weights after each, and what this rank computed on."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(RECORDS, 8, generator=generator)
    targets = inputs @ torch.randn(8, 3, generator=generator)
    weight, seen = torch.zeros(8, 3), []
    kept = None if ledger is None or rank else PrivacyLedger.create(ledger, spec, num_records=RECORDS)
    mechanism = GaussianMechanism(spec, num_records=RECORDS, units=units, ledger=kept)
    history = []
    for batch in mechanism.batches:
        index = torch.tensor(batch, dtype=torch.int64)
        error = inputs[index] @ weight - targets[index]
        rows = DenseGradients({"weight": inputs[index].unsqueeze(2) * error.unsqueeze(1)})
        noisy = mechanism.release([rows], {"weight": weight}, index=index)["weight"]
        weight = weight - 0.3 * noisy
        history.append(weight)
        seen.append(batch)
    if kept is not None:
        kept.close()
    epsilon = None if spec.sampling == "truncated_poisson" else mechanism.report().epsilon_add_remove
    return torch.stack(history), seen, epsilon


@pytest.fixture(scope="module")
def trained(ranks):
    """The same run, seeded, on each number of ranks."""
    return {world: returned(ranks(on_rank_train, world, spec=spec_of(noise_seed=5))) for world in WORLDS}


@pytest.mark.parametrize("world", WORLDS)
def test_weights_are_the_same_bits_on_every_rank(ranks, world):
    outcomes = returned(ranks(on_rank_train, world, spec=spec_of()))
    for weights, _, epsilon in outcomes[1:]:
        assert torch.equal(weights, outcomes[0][0])
        assert epsilon == outcomes[0][2]


@pytest.mark.parametrize("world", WORLDS[1:])
def test_more_ranks_release_what_one_releases(trained, world):
    torch.testing.assert_close(trained[world][0][0], trained[1][0][0], rtol=1e-6, atol=1e-6)
    assert trained[world][0][2] == trained[1][0][2]


@pytest.mark.parametrize("world", WORLDS[1:])
def test_the_ranks_share_out_the_batch_of_one(trained, world):
    whole = trained[1][0][1]
    for step, batch in enumerate(whole):
        parts = [outcome[1][step] for outcome in trained[world]]
        assert sorted(position for part in parts for position in part) == batch
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_two_unseeded_runs_differ(ranks):
    first, second = (returned(ranks(on_rank_train, 2, spec=spec_of()))[0][0] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("world", WORLDS)
def test_the_ledger_is_that_of_one_rank(ranks, tmp_path, world):
    returned(ranks(on_rank_train, world, spec=spec_of(), ledger=tmp_path / "ledger.jsonl"))
    report = ledger_report(tmp_path / "ledger.jsonl")
    assert (report.steps, report.epsilon_add_remove) == (6, spec_of().epsilon("add_remove"))


@pytest.mark.parametrize("world", WORLDS)
def test_empty_parts_and_empty_batches_are_released_and_charged(ranks, world):
    spec = spec_of(sample_rate=0.01, steps=40)
    outcomes = returned(ranks(on_rank_train, world, spec=spec, timeout=20))
    sizes = torch.tensor([[len(batch) for batch in seen] for _, seen, _ in outcomes])
    assert (sizes.sum(0) == 0).sum() > 2  # 0.99^120 = 30 % of 40
    for weights, _, epsilon in outcomes:
        assert len(weights) == 40
        assert epsilon == spec.epsilon("add_remove")


@pytest.mark.parametrize("world", WORLDS)
def test_a_units_records_stay_on_one_rank(ranks, world):
    units = [str(record // 4) for record in range(RECORDS)]
    outcomes = returned(ranks(on_rank_train, world, spec=spec_of(unit="subject", noise_seed=1), units=units))
    for step in range(6):
        owners = [{units[position] for position in seen[step]} for _, seen, _ in outcomes]
        assert sum(map(len, owners)) == len(set().union(*owners))
        for (_, seen, _), own in zip(outcomes, owners, strict=True):
            assert len(seen[step]) == 4 * len(own)


@pytest.mark.parametrize("world", WORLDS)
def test_a_truncated_batch_is_truncated_as_a_whole(ranks, world):
    spec = spec_of(sampling="truncated_poisson", max_batch_size=22, num_records=RECORDS, noise_seed=3, steps=12)
    outcomes = returned(ranks(on_rank_train, world, spec=spec))
    sizes = [sum(len(seen[step]) for _, seen, _ in outcomes) for step in range(12)]
    assert max(sizes) == 22
    assert max(len(batch) for _, seen, _ in outcomes for batch in seen) <= math.ceil(22 / world)


# Secrets


def on_rank_draw(rank, steps, records, world):
    """Return which of this rank's share of the records is in each batch, after everybody set the same seed."""
    random.seed(1)
    torch.manual_seed(1)
    ours = torch.zeros(steps, records, dtype=torch.bool)
    for step, batch in enumerate(PoissonBatches(num_records=records, sample_rate=0.3, steps=steps)):
        ours[step, torch.tensor(batch, dtype=torch.int64)] = True
    theirs = torch.rand(steps, records // world) < 0.3  # what a peer's sampler does on each rank
    return ours, theirs


def correlation(first, second):
    """Return the correlation of two masks in standard errors."""
    both = torch.stack([first.flatten().double(), second.flatten().double()])
    return abs(torch.corrcoef(both)[0, 1].item()) * math.sqrt(first.numel())


@pytest.mark.parametrize("world", WORLDS[1:])
def test_inclusions_are_independent_under_one_global_seed(ranks, world):
    steps, records = 300, 400
    outcomes = returned(ranks(on_rank_draw, world, steps=steps, records=records, world=world))
    included = torch.stack([ours for ours, _ in outcomes]).any(0)
    halves = included[:, 0::2], included[:, 1::2]  # neighbours, whichever ranks they went to
    assert correlation(*halves) < 3
    assert correlation(included[:-1], included[1:]) < 3
    assert abs(included.double().mean() - 0.3) < 3 * math.sqrt(0.21 / included.numel())
    # The control: generators that follow the global seed draw the same positions on every rank.
    assert correlation(outcomes[0][1], outcomes[1][1]) > 100


def on_rank_noise(rank, parameters, everywhere=False):
    """Release one empty batch; ``everywhere`` is the mutation in which each rank adds noise."""
    spec = spec_of(sample_rate=1e-9, steps=1)
    mechanism = GaussianMechanism(spec, num_records=RECORDS)
    if everywhere:
        mechanism.ranks = EveryRankIsFirst()
    (batch,) = mechanism.batches
    like = {"weight": torch.zeros(parameters)}
    nothing = [DenseGradients({"weight": torch.zeros(0, parameters)})]
    return mechanism.release(nothing, like, index=batch)["weight"] * spec.sample_rate * RECORDS


class EveryRankIsFirst(Ranks):
    first = True


@pytest.mark.parametrize("world", WORLDS)
def test_noise_enters_once_whatever_the_number_of_ranks(ranks, world):
    parameters = 200_000
    noises = returned(ranks(on_rank_noise, world, parameters=parameters))
    assert all(torch.equal(noise, noises[0]) for noise in noises)
    variance = noises[0].double().var().item()
    assert variance == pytest.approx(1.5**2, rel=0.02)
    if world > 1:
        mutated = returned(ranks(on_rank_noise, world, parameters=parameters, everywhere=True))[0]
        assert mutated.double().var().item() == pytest.approx(world * 1.5**2, rel=0.02)


# When a rank refuses


def on_rank_refuse(rank, culprit, how, folder):
    spec = spec_of()
    kept = PrivacyLedger.create(folder / "ledger.jsonl", spec, num_records=RECORDS) if rank == 0 else None
    mechanism = GaussianMechanism(spec, num_records=RECORDS, ledger=kept)
    batches = iter(mechanism.batches)
    batch = next(batches)
    if rank == culprit:
        if how == "another batch":
            batch = [1, 2, 3]
        elif how == "skips one":
            batch = next(batches)
            mechanism.batches._drawn.popleft()
        elif how == "ledger":
            kept.close()
    records = len(batch) + (how == "too many gradients" and rank == culprit)
    try:
        mechanism.release([DenseGradients({"weight": torch.ones(records, 2)})], {"weight": torch.zeros(2)}, index=batch)
    finally:
        if kept is not None:
            kept.close()


@pytest.mark.parametrize(
    ("culprit", "how"),
    [(0, "ledger"), (0, "another batch"), (1, "another batch"), (1, "too many gradients"), (1, "skips one")],
)
def test_when_one_rank_refuses_no_rank_releases_and_none_hangs(ranks, tmp_path, culprit, how):
    outcomes = ranks(on_rank_refuse, 2, culprit=culprit, how=how, folder=tmp_path, timeout=20)
    assert [kind for kind, _ in outcomes] == ["raised", "raised"]
    other = outcomes[1 - culprit][1]
    assert "Another rank refused" in other or "not at the same release" in other


def test_agreement_is_one_collective(monkeypatch):
    """Two ranks played by one: what is added up is one buffer, whatever the number of parameters."""
    calls = []

    class Two(Ranks):
        def __init__(self):
            self.rank, self.world_size = 0, 2

        def add_up(self, values):
            calls.append(values.shape)
            return values * 2

    own = {f"p{number}": torch.ones(number) for number in range(5)}
    total = agreed_sum(own, refusal=None, state=(3, 4), ranks=Two())
    assert len(calls) == 1
    assert {name: value.tolist() for name, value in total.items()} == {
        name: [2.0] * len(value) for name, value in own.items()
    }
    with pytest.raises(PrivacyError, match="boom"):
        agreed_sum(own, refusal=PrivacyError("boom"), state=(3, 4), ranks=Two())
    monkeypatch.setattr(agreed_sum_module, "_MODULUS", 1)  # the safeguard off: any state passes
    agreed_sum(own, refusal=None, state=(3, 4), ranks=Two())


# Rows of unequal length


def on_rank_gather(rank):
    return Ranks().gathered(torch.full((rank + 1, 2), float(rank)))


@pytest.mark.parametrize("world", WORLDS)
def test_rows_are_gathered_though_ranks_have_unequally_many(ranks, world):
    expected = torch.cat([torch.full((rank + 1, 2), float(rank)) for rank in range(world)])
    for rows in returned(ranks(on_rank_gather, world)):
        assert torch.equal(rows, expected)
