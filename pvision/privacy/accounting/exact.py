"""ε of Gaussian releases whose batches are no secret: no grid, only the normal and the binomial distribution.

[0] Balle & Wang 2018, arXiv:1805.06530 (δ of one Gaussian release, exact).
"""

import math
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvision.errors import MissingExtraError

__all__ = ["gaussian_epsilon", "revealed_poisson_epsilon"]

_Array = NDArray[np.float64]

_BLOCKS = 10_000  # of participation counts; each counts as its largest, so fewer blocks give a larger ε
_MOST_STEPS = 10**9  # beyond, counts outgrow what the binomial distribution is computed for
_OVERLOOKED = 1e-9  # probability beyond the blocks, as a share of δ; counted as a full disclosure
_ROUNDING = 1e-6  # relative error allowed to SciPy's binomial distribution, added to δ
_UNDERFLOW = 1e-304  # more than all products that became zero can make


def gaussian_epsilon(*, mu: float, delta: float) -> float:
    """Return the exact ε of one Gaussian release that a record moves by ``mu`` standard deviations, rounded up."""
    counted = np.array([1.0]), np.array([1.0]), 0.0
    return _solve(counted, mu=mu, delta=delta)


def revealed_poisson_epsilon(*, mu: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return an ε of Poisson batches whose members are known to the attacker.

    Args:
        mu: how many standard deviations one participation moves a release.
        sample_rate: probability to take part in one release.
        steps: releases.
        delta: δ.

    Guarantee:
        Who takes part does not depend on the records' content, so δ(ε) is at most the mean of the δ(ε) of a Gaussian
        release moved by ``mu * sqrt(K)``, K ~ Binomial(steps, sample_rate) (joint convexity). Tight if the batch is
        seen for certain.
    """
    if sample_rate == 1 or steps > _MOST_STEPS:  # at most `steps` participations, whatever was drawn
        return gaussian_epsilon(mu=mu * math.sqrt(steps), delta=delta)
    return _solve(_participations(sample_rate, steps, delta), mu=mu, delta=delta)


@lru_cache(maxsize=8)
def _participations(sample_rate: float, steps: int, delta: float) -> tuple[_Array, _Array, float]:
    """Return numbers of participations, their probabilities, and the probability of more than the largest."""
    binomial = _scipy("stats").binom(steps, sample_rate)
    mean = steps * sample_rate
    least_likely = -math.log(_OVERLOOKED) - math.log(delta)
    # Bernstein: beyond these counts the probability is below exp(-least_likely).
    below, above = math.sqrt(2 * mean * least_likely), least_likely / 3
    above += math.sqrt(above**2 + 2 * mean * least_likely)
    lowest, highest = max(0, math.floor(mean - below)), min(steps, math.ceil(mean + above))
    width = max(1, math.ceil((highest - lowest) / _BLOCKS))
    edges = np.append(np.arange(lowest, highest, width), highest)  # a block lies above one edge, up to the next
    up_to, beyond = binomial.cdf(edges), binomial.sf(edges)
    # Differences of the smaller tail, so that improbable blocks keep their digits.
    inside = np.where(edges[1:] <= mean, np.diff(up_to), -np.diff(beyond))
    probabilities = np.concatenate([up_to[:1], np.maximum(inside, 0)])
    more = 0.0 if highest == steps else _OVERLOOKED * delta
    return edges.astype(np.float64), probabilities, more


def _solve(counted: tuple[_Array, _Array, float], *, mu: float, delta: float) -> float:
    """Return the least ε, within 1e-12 above, at which the mean δ of the counts' Gaussian releases is at most δ."""
    counts, probabilities, more = counted
    taking_part = counts > 0
    shifts, weights = mu * np.sqrt(counts[taking_part]), probabilities[taking_part]

    def fits(epsilon: float) -> bool:
        mean = float(weights @ _delta(epsilon, shifts))
        return mean * (1 + _ROUNDING) + more + _UNDERFLOW <= delta

    if fits(0.0):
        return 0.0
    high = 1e-12
    while not fits(high):
        high *= 2
        if high > 1e30:
            return math.inf
    low = high / 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _delta(epsilon: float, shift: _Array) -> _Array:
    """Return δ(ε) of Gaussian releases moved by ``shift`` standard deviations, never too little.

    With φ(x) the normal density and R its Mills ratio, e^ε φ(b) = φ(a), hence δ = φ(a) (R(a) - R(b)): no difference
    of two nearly equal probabilities. R is convex with slope x R(x) - 1, which serves where b hardly differs from a.
    """
    special = _scipy("special")
    a, b = epsilon / shift - shift / 2, epsilon / shift + shift / 2
    near = np.maximum(a, -5.0)  # further left R grows beyond all bounds; there δ is nearly 1 and direct
    mills = _mills(special, near)
    slope = np.where(near > 1, np.minimum(1 - near * mills, 1 / (1 + near**2)), 1 - near * mills) + 1e-15
    fall = np.minimum(mills - _mills(special, b) + 1e-15 * mills, shift * slope)
    density = np.exp(-(near**2) / 2) / math.sqrt(2 * math.pi)
    direct = special.ndtr(-a) - np.exp(-(np.minimum(a, 0) ** 2) / 2) / math.sqrt(2 * math.pi) * _mills(special, b)
    return np.minimum(np.where(a < -5, direct + 1e-15, density * fall), 1.0)


def _mills(special: Any, x: _Array) -> _Array:
    return np.asarray(math.sqrt(math.pi / 2) * special.erfcx(x / math.sqrt(2)))


def _scipy(name: str) -> ModuleType:
    try:
        return import_module(f"scipy.{name}")
    except ImportError as error:
        raise MissingExtraError("scipy", "privacy", "Computing ε") from error
