"""Checks of arguments, with the message that says how to mend them.

They raise `ConfigError` (a `ValueError`), never use ``assert`` and accept no booleans where a number is meant.
"""

import math
from collections.abc import Collection
from numbers import Integral, Real

from pvision.errors import ConfigError

__all__ = ["at_least", "one_of", "open_unit", "positive", "positive_int", "unit_rate"]


def _number(name: str, value: object, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{name} must be {expected}, but {value!r} ({type(value).__name__}) came.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{name} must be {expected}, but {value!r} came.")
    return number


def positive(name: str, value: object) -> float:
    """Return ``value`` as a float if it is a finite number above 0."""
    number = _number(name, value, "a finite number above 0")
    if number <= 0:
        raise ConfigError(f"{name} must be a finite number above 0, but {value!r} came.")
    return number


def at_least(name: str, value: object, low: float) -> float:
    """Return ``value`` as a float if it is a finite number of at least ``low``."""
    number = _number(name, value, f"a finite number of at least {low}")
    if number < low:
        raise ConfigError(f"{name} must be a finite number of at least {low}, but {value!r} came.")
    return number


def open_unit(name: str, value: object) -> float:
    """Return ``value`` as a float if it lies strictly between 0 and 1."""
    number = _number(name, value, "a number strictly between 0 and 1")
    if not 0 < number < 1:
        raise ConfigError(f"{name} must be a number strictly between 0 and 1, but {value!r} came.")
    return number


def unit_rate(name: str, value: object) -> float:
    """Return ``value`` as a float if it is above 0 and at most 1."""
    number = _number(name, value, "a number above 0 and at most 1")
    if not 0 < number <= 1:
        raise ConfigError(f"{name} must be a number above 0 and at most 1, but {value!r} came.")
    return number


def positive_int(name: str, value: object, *, low: int = 1) -> int:
    """Return ``value`` as an int if it is a whole number of at least ``low`` that fits into 64 bits."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise ConfigError(f"{name} must be a whole number of at least {low}, but {value!r} came.")
    number = int(value)
    if number >= 2**63:
        raise ConfigError(f"{name} must be a whole number below 2**63, but {value!r} came.")
    return number


def one_of(name: str, value: object, allowed: Collection[str]) -> str:
    """Return ``value`` if it is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, allowed))}, but {value!r} came.")
    return value
