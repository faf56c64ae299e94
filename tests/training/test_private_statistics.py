"""Class statistics released with noise: bounded contributions, one charged release, and statistics that are true."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvision.continual.class_statistics import ClassStatistics
from pvision.errors import ConfigError, DataError, PrivacyError
from pvision.privacy import PrivacyLedger, PrivacySpec, read_ledger
from pvision.privacy.noise import SecretSource
from pvision.training.private_statistics import _Contributions, release_class_statistics

DIM, CLASSES, COUNT, BOUND = 3, [4, 9], 400, 6.0


def statement(noise=1.0, **changes):
    settings = {
        "mechanism": "dp_sgd",
        "unit": "clip",
        "mask": "private",
        "label": "private",
        "relation": "add_remove",
        "delta": 1e-5,
        "max_grad_norm": 1.0,
        "sample_rate": 1.0,
        "steps": 1,
        "noise_multiplier": noise,
    }
    return PrivacySpec(**{**settings, **changes})


def records(count=COUNT):
    made = torch.Generator().manual_seed(0)
    labels = torch.tensor(CLASSES)[torch.randint(2, (count,), generator=made)]
    features = torch.randn(count, DIM, generator=made) * torch.tensor([0.2, 0.6, 1.0]) + (labels[:, None] == 9).float()
    return features, labels


def release(features, labels, spec, **settings):
    return release_class_statistics(
        features, labels, **{"classes": CLASSES, "feature_norm": BOUND, "spec": spec, "ledger": None, **settings}
    )


@pytest.mark.parametrize("unit", ["clip", "subject"])
def test_with_little_noise_the_statistics_are_those_of_the_records(unit):
    features, labels = records()
    units = None if unit == "clip" else [f"person {position}" for position in range(COUNT)]
    found = release(features, labels, statement(1e-6, unit=unit), units=units).statistics
    exact = ClassStatistics(DIM)
    exact.add(features, labels)
    for label in CLASSES:
        assert found.count(label) == pytest.approx(exact.count(label), abs=1e-3)
        assert torch.allclose(found.mean(label), exact.mean(label), atol=1e-4)
        assert torch.allclose(found.covariance(label), exact.covariance(label), atol=2e-2)


def test_a_shared_covariance_is_the_one_within_the_classes():
    features, labels = records()
    found = release(features, labels, statement(1e-6), shared=True).statistics
    exact = ClassStatistics(DIM)
    exact.add(features, labels)
    weights = {label: exact.count(label) / COUNT for label in CLASSES}
    within = sum(weights[label] * exact.covariance(label) for label in CLASSES)
    for label in CLASSES:
        assert torch.allclose(found.covariance(label), within, atol=2e-2)
        assert torch.allclose(found.mean(label), exact.mean(label), atol=1e-4)


@given(
    scale=st.floats(1e-30, 1e30),
    weight=st.floats(1e-3, 1e3),
    shared=st.booleans(),
    column=st.integers(0, 1),
)
def test_no_record_contributes_more_than_the_bound(scale, weight, shared, column):
    features = torch.randn(5, DIM, dtype=torch.float64) * scale
    columns = torch.full((5,), column)
    pieces = _Contributions(features, columns, 2, weight=weight, shared=shared)
    dense = torch.cat([value.flatten(1) for value in pieces.rows().values()], dim=1).norm(dim=1)
    assert torch.allclose(pieces.norms(), dense, rtol=1e-9)
    assert float(dense.max()) <= math.sqrt(3) * weight * (1 + 1e-9)


@given(shared=st.booleans(), seed=st.integers(0, 99))
def test_the_fast_sum_is_that_of_the_rows(shared, seed):
    made = torch.Generator().manual_seed(seed)
    features, columns = torch.randn(7, DIM, generator=made) * 2, torch.randint(2, (7,), generator=made)
    weights = torch.rand(7, generator=made, dtype=torch.float64)
    pieces = _Contributions(features, columns, 2, weight=0.5, shared=shared)
    for name, total in pieces.weighted_sum(weights).items():
        rows = pieces.rows()[name]
        assert torch.allclose(total, (rows * weights.reshape(-1, *[1] * (rows.ndim - 1))).sum(0), atol=1e-12)


@pytest.mark.parametrize("relation", ["add_remove", "replace"])
def test_one_record_moves_the_release_by_no_more_than_the_relation_allows(relation, monkeypatch):
    """The noise is switched off, so that neighbouring data sets can be compared."""
    seen = []
    monkeypatch.setattr(SecretSource, "normal", lambda source, like: torch.zeros_like(like))
    monkeypatch.setattr(
        "pvision.training.private_statistics._statistics",
        lambda sums, classes, **settings: seen.append(torch.cat([one.flatten() for one in sums.values()])),
    )
    features, labels = records(50)
    other, other_labels = features.clone(), labels.clone()
    other_labels[3] = 13 - labels[3]
    other[3] = torch.nan if relation == "add_remove" else -1e9  # NaN contributes nothing
    for one, own in ((features, labels), (other, other_labels)):
        release(one, own, statement(delta=1e-3))
    moved = float((seen[0] - seen[1]).norm()) / math.sqrt(3)  # in units of max_grad_norm
    assert 0.1 < moved <= (1 if relation == "add_remove" else 2) * (1 + 1e-9)


def test_the_noise_is_that_of_the_statement():
    features, labels = torch.zeros(COUNT, DIM), torch.full((COUNT,), 9)
    found = [release(features, labels, statement(2.0)).statistics.count(9) - COUNT for _ in range(300)]
    spread = torch.tensor(found).std().item()
    assert spread == pytest.approx(2.0 * math.sqrt(3), rel=0.25)


def test_the_release_is_charged_before_it_happens_and_once(tmp_path: Path):
    spec, (features, labels) = statement(), records()
    with PrivacyLedger.create(tmp_path / "ledger.jsonl", spec, num_records=COUNT) as ledger:
        found = release(features, labels, spec, ledger=ledger)
        with pytest.raises(PrivacyError, match="charged its release already"):
            release(features, labels, spec, ledger=ledger)
    assert read_ledger(tmp_path / "ledger.jsonl").charged == 1
    assert found.report.steps == 1
    assert found.report.epsilon_add_remove == pytest.approx(spec.epsilon("add_remove", steps=1))
    assert 0 < found.report.epsilon_add_remove < 10


def test_a_release_that_fails_after_its_charge_stays_charged(tmp_path: Path, monkeypatch):
    """Noise is drawn when the ledger on the disk has the step already."""

    def interrupted(source, like):
        assert read_ledger(tmp_path / "ledger.jsonl").charged == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(SecretSource, "normal", interrupted)
    spec = statement()
    ledger = PrivacyLedger.create(tmp_path / "ledger.jsonl", spec, num_records=COUNT)
    with pytest.raises(KeyboardInterrupt):
        release(*records(), spec, ledger=ledger)
    ledger.close()
    assert read_ledger(tmp_path / "ledger.jsonl").charged == 1


@pytest.mark.parametrize("unit", ["clip", "subject"])
def test_a_record_in_several_rows_counts_in_each_unless_they_are_one_unit(monkeypatch, unit):
    """Two labels and a repeat of one record: three rows. Without a unit's name they move more than one record may."""
    monkeypatch.setattr(SecretSource, "normal", lambda source, like: torch.zeros_like(like))
    seen = captured(monkeypatch)
    features = torch.cat([BOUND * torch.eye(DIM)[:1].repeat(3, 1), torch.zeros(7, DIM)])
    labels, damaged = torch.tensor([4, 9, 9] + [4] * 7), features.clone()
    damaged[:3] = torch.nan
    units = None if unit == "clip" else ["one"] * 3 + [f"other {position}" for position in range(7)]
    for one in (features, damaged):
        release(one, labels, statement(unit=unit, delta=1e-3), units=units)
    moved = float((seen[0] - seen[1]).norm()) / math.sqrt(3)  # in units of max_grad_norm
    assert (moved > 1) == (unit == "clip")
    assert moved > 0.5


def test_the_unit_counts_once_however_many_records_it_has(monkeypatch):
    monkeypatch.setattr(SecretSource, "normal", lambda source, like: torch.zeros_like(like))
    features, labels = records(40)
    units = ["one"] * 30 + [f"other {position}" for position in range(10)]
    found = release(features, labels, statement(unit="subject", delta=1e-3), units=units).statistics
    assert found.count(4) + found.count(9) == pytest.approx(11, abs=1e-9)


def test_a_class_without_records_is_noise_and_a_damaged_record_is_left_out(monkeypatch):
    monkeypatch.setattr(SecretSource, "normal", lambda source, like: torch.zeros_like(like))
    features, labels = torch.ones(30, DIM), torch.full((30,), 9)
    features[0] = torch.inf
    found = release(features, labels, statement(delta=1e-3)).statistics
    assert found.count(9) == pytest.approx(29)
    assert found.count(4) == 1
    assert found.mean(9).tolist() == pytest.approx([1.0] * DIM)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 2},
        {"mechanism": "redact_then_dp_sgd", "polarity": "inside", "mask": "public", "label": "public"},
        {"population": "masked", "polarity": "inside", "mask": "public", "label": "public"},
    ],
)
def test_another_statement_is_refused(changes):
    with pytest.raises(PrivacyError, match="one release over all records"):
        release(*records(), statement(**{"relation": "replace", **changes}))


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"classes": [4]}, DataError, "none of the classes"),
        ({"classes": [4, 9, 9]}, ConfigError, "once"),
        ({"classes": []}, ConfigError, "once"),
        ({"classes": [4, 9, 9.0]}, ConfigError, "once"),
        ({"classes": [4, 9, True]}, ConfigError, "whole number"),
        ({"feature_norm": 0.0}, ConfigError, "feature_norm"),
        ({"feature_norm": float("inf")}, ConfigError, "feature_norm"),
    ],
)
def test_wrong_arguments_are_refused(settings, error, told):
    with pytest.raises(error, match=told):
        release(*records(), statement(), **settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_features_of_any_precision_count_in_full(dtype):
    features, labels = records()
    found = release((features * 100).to(dtype), labels, statement(1e-6), feature_norm=1e-3).statistics
    for label in CLASSES:
        assert found.count(label) == pytest.approx(int((labels == label).sum()), abs=1e-3)
        assert 0 < found.mean(label).norm() <= 1e-3 * (1 + 1e-9)


def test_counts_are_those_of_all_records_though_few_are_drawn():
    features, labels = records(4000)
    found = release(features, labels, statement(1e-6, sample_rate=0.25)).statistics
    for label in CLASSES:
        assert found.count(label) == pytest.approx(int((labels == label).sum()), rel=0.15)
        assert torch.allclose(found.mean(label), features[labels == label].double().mean(0), atol=0.2)


def test_labels_and_classes_are_compared_as_numbers_whatever_they_are_held_in():
    features, labels = records(50)
    found = release(features, labels.to(torch.uint8), statement(1e-6, delta=1e-3), classes=[4, 9, 300, -247])
    assert found.statistics.count(9) == pytest.approx(int((labels == 9).sum()), abs=1e-3)
    assert found.statistics.count(-247) == 1, "no byte is the one of another class"
    for damaged, told in ((labels.float(), "whole numbers"), (labels == 9, "whole numbers"), (labels[1:], r"\(N, d\)")):
        with pytest.raises(DataError, match=told):
            release(features, damaged, statement(delta=1e-3))


def test_however_strong_the_noise_no_mean_is_longer_than_a_feature_can_be():
    features, labels = records(20)
    for _ in range(5):
        found = release(features, labels, statement(50.0, delta=1e-3)).statistics
        assert all(found.mean(label).norm() <= BOUND * (1 + 1e-9) for label in CLASSES)


def test_all_units_are_taken_piece_by_piece(monkeypatch):
    features, labels = records(40)
    units = [f"person {position // 3}" for position in range(40)]
    monkeypatch.setattr(SecretSource, "normal", lambda source, like: torch.zeros_like(like))
    found = []
    for piece in (1, 2**24):  # one record at a time, all at once
        monkeypatch.setattr("pvision.training.private_statistics._PIECE", piece)
        found.append(release(features, labels, statement(unit="subject", delta=1e-3), units=units).statistics)
    for label in CLASSES:
        assert torch.allclose(found[0].mean(label), found[1].mean(label), atol=1e-12)


# An attacker who knows everything but one record


def captured(monkeypatch):
    """Collect the noisy sums of each release, in units of a record's weight."""
    seen = []

    def keep(sums, classes, **settings):
        seen.append(torch.cat([one.flatten() for one in sums.values()]))
        return ClassStatistics(DIM)

    monkeypatch.setattr("pvision.training.private_statistics._statistics", keep)
    return seen


def distance(monkeypatch, relation, *, sigma, times):
    """How far the attacker's best test tells two neighbours apart, in standard deviations; Neyman and Pearson's."""
    seen = captured(monkeypatch)
    features, labels = records(30)
    features[0] = BOUND * torch.tensor([1.0, 0.0, 0.0])  # as strong as a record can be
    other, other_labels = features.clone(), labels.clone()
    other[0], other_labels[0] = (torch.nan, labels[0]) if relation == "add_remove" else (-features[0], 13 - labels[0])
    spec = statement(sigma, delta=1e-3)
    for one, own in ((features, labels), (other, other_labels)):
        for _ in range(times):
            release(one, own, spec)
    first, second = torch.stack(seen[:times]), torch.stack(seen[times:])
    monkeypatch.setattr(SecretSource, "normal", lambda source, like: torch.zeros_like(like))
    release(features, labels, spec)
    release(other, other_labels, spec)
    direction = seen[-2] - seen[-1]
    tests = [rows @ (direction / direction.norm()) for rows in (first, second)]
    spread = torch.cat([one - one.mean() for one in tests]).std()
    return float((tests[0].mean() - tests[1].mean()) / spread), first


def epsilon_of(distance, delta):
    """ε of the Gaussian mechanism in closed form (Balle and Wang 2018, Theorem 8), found by bisection."""

    def phi(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        excess = phi(distance / 2 - middle / distance) - math.exp(middle) * phi(-distance / 2 - middle / distance)
        low, high = (middle, high) if excess > delta else (low, middle)
    return high


@pytest.mark.parametrize(("relation", "most"), [("add_remove", 1.0), ("replace", 2.0)])
def test_the_attackers_best_test_finds_no_more_than_epsilon_says(monkeypatch, relation, most):
    sigma, times = 1.0, 250
    found, released = distance(monkeypatch, relation, sigma=sigma, times=times)
    # A changed label moves a record to other entries: its two contributions are √2 bounds apart, of 2 accounted.
    reached = most / sigma if relation == "add_remove" else math.sqrt(2) / sigma
    assert found == pytest.approx(reached, abs=4 * math.sqrt(2 / times))
    assert statement(sigma, delta=1e-3).epsilon(relation) == pytest.approx(epsilon_of(most / sigma, 1e-3), rel=2e-3)
    parts = released.split([2, 2 * DIM, 2 * DIM * DIM], dim=1)
    for part in parts:  # counts, sums and squares have the noise of the statement, each entry by itself
        assert float((part - part.mean(0)).square().mean().sqrt()) == pytest.approx(sigma * math.sqrt(3), rel=0.12)
    together = torch.corrcoef((released - released.mean(0)).T)
    assert float((together - torch.eye(len(together))).abs().max()) < 0.35


def test_with_half_the_noise_the_attacker_would_find_more(monkeypatch):
    whole = SecretSource.normal
    monkeypatch.setattr(SecretSource, "normal", lambda source, like: whole(source, like) / 2)
    found, _ = distance(monkeypatch, "add_remove", sigma=1.0, times=120)
    assert epsilon_of(found, 1e-3) > statement(1.0, delta=1e-3).epsilon("add_remove") + 1


def test_two_releases_have_noise_of_their_own(monkeypatch):
    seen = captured(monkeypatch)
    torch.manual_seed(0)
    release(*records(30), statement(delta=1e-3))
    torch.manual_seed(0)
    release(*records(30), statement(delta=1e-3))
    assert float((seen[0] - seen[1]).abs().min()) > 0


# Several processes


def release_of_rank(rank, noise):
    found = release(*records(), statement(noise)).statistics
    return [(found.count(label), found.mean(label).numpy(), found.covariance(label).numpy()) for label in CLASSES]


@pytest.mark.parametrize("noise", [1e-6, 1.0])
def test_two_processes_make_one_release(ranks, noise):
    both = ranks(release_of_rank, 2, noise=noise)
    assert [status for status, _ in both] == ["returned", "returned"], both
    exact = ClassStatistics(DIM)
    exact.add(*records())
    for label, first, second in zip(CLASSES, both[0][1], both[1][1], strict=True):
        assert all(
            (one == other).all() if hasattr(one, "all") else one == other
            for one, other in zip(first, second, strict=True)
        )
        assert (abs(first[0] - exact.count(label)) < 1e-3) == (noise < 1)


def release_of_different_ranks(rank, what, folder):
    features, labels = records(40)
    spec, settings = statement(delta=1e-3), {}
    if what == "order" and rank == 1:
        order = torch.arange(40).roll(1)  # position 1 is what rank 0 has at position 0: that record would count twice
        features, labels = features[order], labels[order]
    elif what == "labels" and rank == 1:
        labels = labels.flip(0)
    elif what == "shares":
        features, labels = features[rank * 20 : rank * 20 + 20 - rank], labels[rank * 20 : rank * 20 + 20 - rank]
    elif what == "bound":
        settings = {"feature_norm": 1.0 + rank}
    path = Path(folder) / f"{what}.jsonl"
    ledger = PrivacyLedger.create(path, spec, num_records=40) if rank == 0 else None
    try:
        release(features, labels, spec, ledger=ledger, **settings)
    finally:
        if ledger is not None:
            ledger.close()


@pytest.mark.parametrize("what", ["order", "labels", "shares", "bound"])
def test_processes_that_come_with_different_records_are_refused_uncharged(ranks, tmp_path, what):
    for status, told in ranks(release_of_different_ranks, 2, what=what, folder=str(tmp_path)):
        assert status == "raised"
        assert told.startswith("DataError: The processes came with different features")
    assert read_ledger(tmp_path / f"{what}.jsonl").charged == 0


def test_of_two_processes_one_release_is_charged_once(ranks, tmp_path):
    both = ranks(release_of_different_ranks, 2, what="same", folder=str(tmp_path))
    assert [status for status, _ in both] == ["returned", "returned"], both
    assert read_ledger(tmp_path / "same.jsonl").charged == 1
