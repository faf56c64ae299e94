"""Checks of arguments, with the message that says how to mend them.

They raise `ConfigError` (a `ValueError`), never use ``assert`` and accept no booleans where a number is meant.
"""

import math
import reprlib
from collections.abc import Collection
from numbers import Integral, Real

from pvision.errors import ConfigError

__all__ = ["at_least", "one_of", "open_unit", "positive", "positive_int", "unit_rate"]


_SHORT = reprlib.Repr()  # never writes out a million items or characters
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def _shown(value: object) -> str:
    """Return ``value`` as a message shows it: never long, and never with an error of its own."""
    try:
        return _SHORT.repr(value)
    except Exception as error:  # Python refuses to write out a whole number of thousands of digits, for example
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"


def _number(name: str, value: object, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{name} must be {expected}, but {_shown(value)} ({type(value).__name__}) came.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{name} must be {expected}, but {_shown(value)} came.")
    return number


def positive(name: str, value: object) -> float:
    """Return ``value`` as a float if it is a finite number above 0."""
    number = _number(name, value, "a finite number above 0")
    if number <= 0:
        raise ConfigError(f"{name} must be a finite number above 0, but {_shown(value)} came.")
    return number


def at_least(name: str, value: object, low: float) -> float:
    """Return ``value`` as a float if it is a finite number of at least ``low``."""
    number = _number(name, value, f"a finite number of at least {low}")
    if number < low:
        raise ConfigError(f"{name} must be a finite number of at least {low}, but {_shown(value)} came.")
    return number


def open_unit(name: str, value: object) -> float:
    """Return ``value`` as a float if it lies strictly between 0 and 1."""
    number = _number(name, value, "a number strictly between 0 and 1")
    if not 0 < number < 1:
        raise ConfigError(f"{name} must be a number strictly between 0 and 1, but {_shown(value)} came.")
    return number


def unit_rate(name: str, value: object) -> float:
    """Return ``value`` as a float if it is above 0 and at most 1."""
    number = _number(name, value, "a number above 0 and at most 1")
    if not 0 < number <= 1:
        raise ConfigError(f"{name} must be a number above 0 and at most 1, but {_shown(value)} came.")
    return number


def positive_int(name: str, value: object, *, low: int = 1) -> int:
    """Return ``value`` as an int if it is a whole number of at least ``low`` that fits into 64 bits."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise ConfigError(f"{name} must be a whole number of at least {low}, but {_shown(value)} came.")
    number = int(value)
    if number >= 2**63:
        raise ConfigError(f"{name} must be a whole number below 2**63, but {_shown(value)} came.")
    return number


def one_of(name: str, value: object, allowed: Collection[str]) -> str:
    """Return ``value`` if it is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, allowed))}, but {_shown(value)} came.")
    return value
