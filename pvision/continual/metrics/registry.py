"""The one place that knows every definition by name, with its formula and where it comes from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pvision.checks import one_of
from pvision.continual.metrics._measurements import Measurements
from pvision.errors import ConfigError

__all__ = ["Definition", "Needs", "all_definitions", "define", "definition_of", "definitions", "metrics"]

Needs = Literal["counts", "baseline", "reference", "independent"]
Compute = Callable[[Measurements], float]


@dataclass(frozen=True)
class Definition:
    """One way to compute one metric.

    Attributes:
        metric: what is computed, as ``forgetting``.
        name: whose way it is, as ``chaudhry``.
        formula: the formula, 0-based; R[t, j] is the accuracy on experience j after experience t, of T experiences.
        source: the paper, or the code and its version.
        compute: from checked measurements to the value, NaN where it is undefined.
        needs: what must be given beside R.
        default: whether this is what the metric means without ``definition=``.
    """

    metric: str
    name: str
    formula: str
    source: str
    compute: Compute
    needs: Needs | None = None
    default: bool = False

    @property
    def key(self) -> str:
        """The name under which the value is logged; the definition is part of it unless it is the default."""
        suffix = "" if self.default else "_" + self.name.replace("-", "_").replace(".", "_")
        return f"continual/{self.metric}{suffix}"


# In the order in which summaries and the docs page show them.
_KNOWN: dict[str, dict[str, Definition]] = {
    "average_accuracy": {},
    "average_incremental_accuracy": {},
    "accuracy_diaz_rodriguez": {},
    "forgetting": {},
    "relative_forgetting": {},
    "backward_transfer": {},
    "remembering": {},
    "positive_backward_transfer": {},
    "forward_transfer": {},
    "intransigence": {},
    "learning_accuracy": {},
    "learning_accuracy_gap": {},
    "stability": {},
    "harmonic_accuracy": {},
    "min_accuracy": {},
    "worst_case_accuracy": {},
}


def define(
    metric: str, name: str, *, formula: str, source: str, needs: Needs | None = None
) -> Callable[[Compute], Compute]:
    """Register a function as a definition of a metric; a metric's first definition is its default.

    Raises:
        ConfigError: if the metric is unknown, or has a definition of that name.
    """

    def register(compute: Compute) -> Compute:
        known = _KNOWN[one_of("metric", metric, _KNOWN)]
        if name in known:
            raise ConfigError(f"{metric} has a definition {name!r} already. Choose another name.")
        known[name] = Definition(metric, name, formula, source, compute, needs, default=not known)
        return compute

    return register


def metrics() -> tuple[str, ...]:
    """Return the names of all metrics of the accuracy matrix."""
    return tuple(_KNOWN)


def definitions(metric: str) -> tuple[str, ...]:
    """Return the names of a metric's definitions, the default first.

    Example:
        >>> from pvision.continual.metrics import definitions
        >>> definitions("forward_transfer")
        ('lopez-paz', 'without-baseline', 'diaz-rodriguez', 'continuum-1.2.7')
    """
    return tuple(_KNOWN[one_of("metric", metric, _KNOWN)])


def definition_of(metric: str, name: str | None = None) -> Definition:
    """Return a metric's definition by name, its default if ``name`` is None.

    Raises:
        ConfigError: if there is no such metric or definition; the message lists those that there are.
    """
    known = _KNOWN[one_of("metric", metric, _KNOWN)]
    if name is None:
        return next(iter(known.values()))
    return known[one_of(f"definition of {metric}", name, known)]


def all_definitions() -> tuple[Definition, ...]:
    """Return every definition of every metric."""
    return tuple(definition for known in _KNOWN.values() for definition in known.values())
