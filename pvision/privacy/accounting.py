"""ε of repeated, Poisson-sampled Gaussian releases, by privacy loss distributions.

dp-accounting composes; this file only checks arguments, names the relations and keeps the grid affordable. The
Gaussian-CLT ("GDP") accountant of other libraries is not offered: it reports up to 30 % too little.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

from pvision.checks import one_of, open_unit, positive, positive_int, unit_rate
from pvision.errors import ConfigError, MissingExtraError

__all__ = ["RELATIONS", "Relation", "affordable_steps", "epsilon", "noise_multiplier_for"]

Relation = Literal["zero_out", "replace", "add_remove"]

RELATIONS: dict[str, str] = {
    "zero_out": "REPLACE_SPECIAL",
    "replace": "REPLACE_ONE",
    "add_remove": "ADD_OR_REMOVE_ONE",
}
"""Our names of the neighbouring relations, and dp-accounting's."""

_INTERVAL = 1e-4
_MAX_BUCKETS = 2e6
_SEARCH = 10  # how much coarser than the final grid the one of a first search is
_LEAST_NOISE = 1e-3  # one release below it has ε above 500,000: no number is more honest than infinity
_MOST_NOISE, _LEAST_RATE = 1e12, 1e-15  # past them dp-accounting's arithmetic fails; at them ε is an upper bound


def epsilon(
    *,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    relation: Relation,
    accountant: Literal["pld", "rdp"] = "pld",
) -> float:
    """Return the ε of ``steps`` Gaussian sums over Poisson samples.

    Args:
        noise_multiplier: noise standard deviation divided by the clipping bound, above 0.
        sample_rate: probability that a record is in one global batch, above 0 and at most 1.
        steps: noisy releases, at least 0.
        delta: δ, between 0 and 1.
        relation: what a neighbouring data set is. ``"zero_out"``: one record contributes exactly zero;
            ``"replace"``: one record's contribution is exchanged; ``"add_remove"``: one record comes or goes.
        accountant: ``"pld"`` (tight, the one to report) or ``"rdp"`` (a looser upper bound).

    Returns:
        ε; 0.0 for no steps, infinite where the noise is below a thousandth of the bound.

    Raises:
        ConfigError: if an argument is outside its range, or the accountant has no proof for the relation.
        MissingExtraError: if dp-accounting is not installed.

    Guarantee:
        An upper bound on the true ε: losses are discretised pessimistically. It never falls with more steps, a
        larger sample rate or less noise.

    Example:
        >>> round(epsilon(noise_multiplier=1.0, sample_rate=0.0256, steps=781, delta=1e-5, relation="zero_out"), 3)
        4.514

    References:
        Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380 (privacy loss distributions).
    """
    positive("noise_multiplier", noise_multiplier)
    unit_rate("sample_rate", sample_rate)
    positive_int("steps", steps, low=0)
    open_unit("delta", delta)
    one_of("relation", relation, RELATIONS)
    one_of("accountant", accountant, ("pld", "rdp"))
    if accountant == "rdp" and relation == "replace" and sample_rate < 1:
        raise ConfigError("accountant 'rdp' has no bound for relation 'replace' under sampling; use accountant='pld'.")
    if steps == 0:
        return 0.0
    return _epsilon(float(noise_multiplier), float(sample_rate), int(steps), float(delta), relation, accountant, 1)


def noise_multiplier_for(
    *, target_epsilon: float, sample_rate: float, steps: int, delta: float, relation: Relation
) -> float:
    """Return the least noise multiplier that keeps ε at or below ``target_epsilon``.

    Args:
        target_epsilon: ε to reach, above 0.
        sample_rate: probability that a record is in one global batch.
        steps: noisy releases, at least 1.
        delta: δ, between 0 and 1.
        relation: the relation in which ``target_epsilon`` is meant.

    Returns:
        The noise multiplier, within 0.1 % above the least one.

    Raises:
        ConfigError: if an argument is outside its range.
    """
    positive("target_epsilon", target_epsilon)
    unit_rate("sample_rate", sample_rate)
    positive_int("steps", steps)
    open_unit("delta", delta)
    one_of("relation", relation, RELATIONS)

    def spent(noise_multiplier: float, coarseness: float) -> float:
        return _epsilon(noise_multiplier, sample_rate, steps, delta, relation, "pld", coarseness)

    # A coarse grid finds the neighbourhood quickly; the fine one, whose ε is lower, decides.
    start = _least(lambda noise: spent(noise, _SEARCH) <= target_epsilon, start=1.0, stride=2.0)
    return _least(lambda noise: spent(noise, 1) <= target_epsilon, start=start, stride=1.02)


def affordable_steps(
    *, budget: float, noise_multiplier: float, sample_rate: float, steps: int, delta: float, relation: Relation
) -> int:
    """Return how many of ``steps`` releases fit into an ε of ``budget``.

    Args:
        budget: the ε allowed, above 0.
        noise_multiplier: as for `epsilon`.
        sample_rate: as for `epsilon`.
        steps: the releases planned; no more are considered.
        delta: as for `epsilon`.
        relation: the relation in which ``budget`` is meant.
    """
    positive("budget", budget)
    positive_int("steps", steps)
    low, high = 0, steps + 1  # low fits, high does not (or is not planned)
    while high - low > 1:
        middle = (low + high) // 2
        spent = epsilon(
            noise_multiplier=noise_multiplier,
            sample_rate=sample_rate,
            steps=middle,
            delta=delta,
            relation=relation,
        )
        low, high = (middle, high) if spent <= budget else (low, middle)
    return low


@lru_cache(maxsize=4096)
def _epsilon(
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    relation: str,
    accountant: str,
    coarseness: float,
) -> float:
    if noise_multiplier < _LEAST_NOISE:
        return math.inf
    noise_multiplier, sample_rate = min(noise_multiplier, _MOST_NOISE), max(sample_rate, _LEAST_RATE)
    if accountant == "rdp" and relation == "replace":
        noise_multiplier /= 2  # dp-accounting's RDP takes the noise relative to what an exchange moves, PLD does not
    try:
        from dp_accounting import NeighboringRelation, dp_event
    except ImportError as error:
        raise MissingExtraError("dp-accounting", "privacy", "Computing ε") from error
    release = dp_event.GaussianDpEvent(noise_multiplier)
    if sample_rate < 1:
        release = dp_event.PoissonSampledDpEvent(sample_rate, release)
    neighbours = NeighboringRelation[RELATIONS[relation]]
    interval = max(_INTERVAL, _affordable_interval(noise_multiplier, sample_rate, steps))
    composed = _accountant(accountant, neighbours, coarseness * interval)
    try:
        composed.compose(dp_event.SelfComposedDpEvent(release, steps))
    except OverflowError:  # losses beyond what a float can hold; infinity is an upper bound too
        return math.inf
    return float(composed.get_epsilon(delta))


def _accountant(name: str, neighbours: Any, interval: float) -> Any:
    if name == "rdp":
        from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant

        return RdpAccountant(neighboring_relation=neighbours)
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

    return PLDAccountant(neighboring_relation=neighbours, value_discretization_interval=interval)


def _affordable_interval(noise_multiplier: float, sample_rate: float, steps: int) -> float:
    """Return the finest discretisation interval that the span of the losses allows.

    A coarser grid stays an upper bound; without it a tiny noise multiplier would ask for more memory than there is.
    Up to an ε of about 50 it is not needed.
    """
    span = steps * sample_rate / (2 * noise_multiplier**2) + 10 * math.sqrt(steps) / noise_multiplier
    if noise_multiplier > 0.2:  # below, the variance of a sampled loss says nothing any more
        deviation = sample_rate * math.sqrt(steps * math.expm1(noise_multiplier**-2))
        largest = math.log1p(sample_rate * math.expm1(10 / noise_multiplier + noise_multiplier**-2 / 2))
        span = min(span, deviation**2 / 2 + 10 * deviation + largest)
    return span / _MAX_BUCKETS


def _least(fits: Callable[[float], bool], *, start: float, stride: float) -> float:
    """Return a value that ``fits``, at most 0.1 % above the least one; larger values fit too."""
    high = start
    while not fits(high):
        high *= stride
    low = high / stride
    while fits(low):
        low, high = low / stride, low
    while high - low > 1e-3 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
