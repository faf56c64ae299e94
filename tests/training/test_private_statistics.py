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
        features, labels, **{"classes": CLASSES, "feature_norm": BOUND, "spec": spec, **settings}
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
        ({"feature_norm": 0.0}, ConfigError, "feature_norm"),
        ({"feature_norm": float("inf")}, ConfigError, "feature_norm"),
    ],
)
def test_wrong_arguments_are_refused(settings, error, told):
    with pytest.raises(error, match=told):
        release(*records(), statement(), **settings)


def test_shapes_that_do_not_fit_are_refused():
    features, labels = records()
    with pytest.raises(DataError, match=r"\(N, d\)"):
        release(features, labels[:-1], statement())


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
