"""Nonsense for any number that ε depends on is refused by name, before anything is computed."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from pvision.errors import ConfigError, UserError
from pvision.privacy import affordable_steps, epsilon, noise_multiplier_for
from pvision.privacy.accounting import epsilons as accounting

NO_NUMBER = [
    *(math.nan, math.inf, -math.inf, np.float64("nan"), np.float32("inf")),
    *("1", "", "nan", b"1", None, True, False, np.True_, 1j, Decimal("0.5"), [0.5], (), {}, {0.5}, object()),
    *(torch.tensor(0.5), torch.tensor([0.5, 0.5]), np.array(0.5), np.array([0.5])),
    *(10**400, -(10**400), 10**5000, Fraction(10**400), Fraction(1, 10**400)),
    *(0, 0.0, -0.0, -1, -1e-300, -5e-324, -(2**63), np.float64(-1), Fraction(-1, 2)),
    *(Decimal("nan"), complex(math.nan), torch.tensor(math.nan), np.datetime64("2020"), range(3), int, ..., "∞"),
]
ABOVE_ONE = [1.5, 2, 1 + 1e-12, 1e300, np.float64(7)]
NO_COUNT = [*NO_NUMBER, 1.5, 0.5, 10.0, 1e300, 5e-324, Fraction(1, 2), np.float64(3), 2**63]
NONSENSE = {
    "noise_multiplier": NO_NUMBER,
    "target_epsilon": NO_NUMBER,
    "budget": NO_NUMBER,
    "max_grad_norm": NO_NUMBER,
    "sample_rate": [*NO_NUMBER, *ABOVE_ONE],
    "delta": [*NO_NUMBER, *ABOVE_ONE, 1, 1.0],
    "steps": NO_COUNT,
    "max_batch_size": NO_COUNT,
    "num_records": NO_COUNT,
    "relation": ["", "replace_one", "ZERO_OUT", b"replace", None, True, 1, math.nan, ["replace"]],
    "sampling": ["", "shuffle", "POISSON", b"poisson", None, True, 1, math.nan, ["poisson"]],
}
POINT = {
    "noise_multiplier": 5.0,
    "target_epsilon": 1.0,
    "budget": 1.0,
    "sample_rate": 0.1,
    "steps": 10,
    "delta": 1e-5,
    "relation": "zero_out",
    "sampling": "truncated_poisson",
    "num_records": 100,
    "max_batch_size": 20,
}
FUNCTIONS = {
    "epsilon": (epsilon, {"target_epsilon", "budget"}),
    "noise_multiplier_for": (noise_multiplier_for, {"noise_multiplier", "budget"}),
    "affordable_steps": (affordable_steps, {"target_epsilon"}),
}
CALLS = [
    (function, name)
    for function, (_, without) in FUNCTIONS.items()
    for name in NONSENSE
    if name in POINT and name not in without
]


@pytest.fixture
def no_accountant(monkeypatch):
    """Fail where a computation of ε begins."""

    def entered(*arguments):
        raise AssertionError(f"an accountant was entered with {arguments}")

    monkeypatch.setattr(accounting, "_epsilon", entered)


def call(function, **changes):
    compute, without = FUNCTIONS[function]
    return compute(**{name: value for name, value in (POINT | changes).items() if name not in without})


@pytest.mark.parametrize(("function", "name"), CALLS)
@pytest.mark.usefixtures("no_accountant")
def test_functions_refuse_nonsense_by_name_before_they_compute(function, name):
    for value in NONSENSE[name]:
        if name == "steps" and function == "epsilon" and value is not False and type(value) is int and value == 0:
            continue  # no steps cost nothing
        with pytest.raises(ConfigError, match=rf"^{name} must be "):
            call(function, **{name: value})


@pytest.mark.parametrize("name", [name for name in NONSENSE if name != "budget"])
@pytest.mark.usefixtures("no_accountant")
def test_statements_refuse_nonsense_by_name_before_they_compute(statement, name):
    sizes = {"sampling": "truncated_poisson", "num_records": 100, "max_batch_size": 20}
    for value in NONSENSE[name]:
        if value is None and name in ("noise_multiplier", "target_epsilon"):
            continue  # None says that the other one is given
        with pytest.raises(UserError, match=rf"privacy\.{name} "):
            statement(**{**sizes, name: value})


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.usefixtures("no_accountant")
def test_what_makes_sense_does_enter_the_accountant(function):
    with pytest.raises(AssertionError, match="an accountant was entered"):
        call(function)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_numbers_of_other_kinds_are_taken(function):
    same = {"delta": Fraction(1, 100_000), "steps": np.int64(10), "sample_rate": np.float64(0.1)}
    assert call(function, **same) == call(function)


def test_there_is_nonsense_enough():
    assert all(len(values) >= 40 for name, values in NONSENSE.items() if name not in ("relation", "sampling"))
