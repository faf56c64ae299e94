import math
from fractions import Fraction

import numpy as np
import pytest

from pvision.checks import at_least, one_of, open_unit, positive, positive_int, unit_rate
from pvision.errors import ConfigError

NO_NUMBERS = [math.nan, math.inf, -math.inf, "1", None, True, False, 1j, [1.0], 10**400, np.float64("nan")]
CHECKS = {
    "positive": (positive, [0, -1, -1e-300], [1e-300, 1, 7.5, Fraction(1, 3), np.float32(2)]),
    "at_least": (lambda name, value: at_least(name, value, 2.0), [1.99, -3], [2, 2.0, 1e300]),
    "open_unit": (open_unit, [0, 1, 1.5, -0.5], [1e-300, 0.5, 0.999]),
    "unit_rate": (unit_rate, [0, 1.0000001, -0.5], [1e-300, 0.5, 1, 1.0]),
}
REFUSED = [(name, value) for name, (_, outside, _) in CHECKS.items() for value in [*outside, *NO_NUMBERS]]
TAKEN = [(name, value) for name, (*_, inside) in CHECKS.items() for value in inside]


@pytest.mark.parametrize(("check", "value"), REFUSED)
def test_what_is_no_number_in_range_is_refused_by_name(check, value):
    with pytest.raises(ConfigError, match=r"^group\.argument must be .* came\.$"):
        CHECKS[check][0]("group.argument", value)


@pytest.mark.parametrize(("check", "value"), TAKEN)
def test_a_number_in_range_comes_back_as_a_float(check, value):
    result = CHECKS[check][0]("group.argument", value)
    assert type(result) is float
    assert result == float(value)


@pytest.mark.parametrize("value", [0, -1, 1.0, 1.5, 2**63, 10**400, math.nan, math.inf, "1", None, True, np.True_])
def test_what_is_no_whole_number_in_range_is_refused_by_name(value):
    with pytest.raises(ConfigError, match=r"^group\.argument must be a whole number .* came\.$"):
        positive_int("group.argument", value)


@pytest.mark.parametrize("value", [1, 2**63 - 1, np.int64(3), np.uint8(3)])
def test_a_whole_number_comes_back_as_an_int(value):
    result = positive_int("group.argument", value)
    assert type(result) is int
    assert result == value


def test_the_least_whole_number_can_be_chosen():
    assert positive_int("group.argument", 0, low=0) == 0
    with pytest.raises(ConfigError, match="of at least 5, but 4 came"):
        positive_int("group.argument", 4, low=5)


def test_only_the_words_on_a_list_are_taken():
    assert one_of("group.argument", "b", ("a", "b")) == "b"
    for value in ("c", "", "A", None, 1, ["a"]):
        with pytest.raises(ConfigError, match=r"^group\.argument must be one of 'a', 'b', but .* came\.$"):
            one_of("group.argument", value, ("a", "b"))


class Unshowable:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "value", [10**5000, -(10**5000), "x" * 10**6, [0.0] * 10**5, Unshowable()], ids=lambda v: type(v).__name__
)
def test_a_message_stays_short_and_raises_no_error_of_its_own(value):
    for check in (positive, open_unit, unit_rate, positive_int, lambda name, value: one_of(name, value, ("a",))):
        with pytest.raises(ConfigError, match=r"^group\.argument must be .* came\.$") as caught:
            check("group.argument", value)
        assert len(str(caught.value)) < 250
