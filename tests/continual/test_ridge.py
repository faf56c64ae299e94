"""Ridge regression from sums: they add up, shrink, and choose λ without the records."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pvision.continual.ridge import RIDGES, RidgeSums, choose_ridge, ridge_weights
from pvision.errors import ConfigError


def records(count: int, *, seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    columns = torch.arange(count) % classes
    centres = torch.randn(classes, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return centres[columns] + torch.randn(count, 6, generator=generator, dtype=torch.float64), columns


def summed(*parts: tuple[Tensor, Tensor], classes: int = 3) -> RidgeSums:
    sums = RidgeSums.zeros(6, classes, device=torch.device("cpu"))
    for rows, columns in parts:
        sums.add(rows, columns)
    return sums


@given(st.integers(0, 20))
def test_any_division_into_batches_gives_the_same(cut: int) -> None:
    rows, columns = records(20)
    whole, parts = summed((rows, columns)), summed((rows[:cut], columns[:cut]), (rows[cut:], columns[cut:]))
    for name in ("gram", "target", "count"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_sums_of_more_classes_are_added_and_taken_away() -> None:
    old, new = summed(records(8, classes=2), classes=2), summed(records(9, seed=1))
    both = old.plus(new)
    assert both.count.tolist() == [7.0, 7.0, 3.0]
    torch.testing.assert_close(both.gram, old.gram + new.gram)
    rest = both.plus(new, sign=-1)
    torch.testing.assert_close(rest.target[:, :2], old.target)
    assert rest.target[:, 2].abs().max() <= 1e-12


def test_weights_solve_the_normal_equations_and_too_small_a_ridge_has_none() -> None:
    sums = summed(records(3))  # fewer records than features
    weights = ridge_weights(sums, 0.5)
    assert weights is not None
    torch.testing.assert_close((sums.gram + 0.5 * torch.eye(6, dtype=torch.float64)) @ weights, sums.target)
    assert ridge_weights(sums, 1e-300) is None


def test_the_choice_is_that_of_the_squared_error_on_the_held_out_records() -> None:
    fitted, (rows, columns) = summed(records(8)), records(60, seed=2)
    targets = torch.eye(3, dtype=torch.float64)[columns]
    errors = {}
    for ridge in RIDGES:
        weights = ridge_weights(fitted, ridge)
        assert weights is not None
        errors[ridge] = float((rows @ weights - targets).square().sum())
    best = min(errors, key=errors.__getitem__)
    assert RIDGES[0] < best < RIDGES[-1]
    assert choose_ridge(fitted, summed((rows, columns))) == best


def test_without_held_out_records_nothing_is_chosen() -> None:
    with pytest.raises(ConfigError, match=r"No record is held out to choose λ by\. Set method\.ridge"):
        choose_ridge(summed(records(8)), summed())


def test_a_state_holds_everything_and_its_size_is_told() -> None:
    sums = summed(records(8))
    again = RidgeSums.from_state(sums.state_dict())
    assert torch.equal(again.target, sums.target)
    assert torch.equal(again.gram, sums.gram)
    assert sums.nbytes == 8 * (36 + 18 + 3)
