"""ε by dp-accounting: privacy loss distributions on a grid that stays affordable, or Rényi divergences.

The Gaussian-CLT ("GDP") accountant of other libraries is not offered: it reports up to 30 % too little.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np

from pvision.errors import MissingExtraError
from pvision.privacy.accounting.exact import gaussian_epsilon

__all__ = ["RELATIONS", "poisson_epsilon", "truncated_poisson_epsilon"]

RELATIONS: dict[str, str] = {
    "zero_out": "REPLACE_SPECIAL",
    "replace": "REPLACE_ONE",
    "add_remove": "ADD_OR_REMOVE_ONE",
}
"""Our names of the neighbouring relations, and dp-accounting's."""

_INTERVAL = 1e-4
_TRUNCATED_COARSER = 5  # its grid takes five times as long to fill; ε grows by less than 1e-4 of itself
_MAX_BUCKETS = 2e6  # of the composition, by Fourier transforms
_MAX_BUCKETS_OF_ONE = 2e5  # of one release: dp-accounting fills them one by one
_LEAST_DELTA = 1e-12  # below, the rounding of the grid's Fourier transforms shows, and from 1e-15 on ε is infinite


def poisson_epsilon(
    *,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    relation: str,
    accountant: str,
    coarseness: float,
) -> float:
    """Return an upper bound on the ε of Gaussian sums over Poisson samples, on a grid ``coarseness`` times as wide."""
    noise = noise_multiplier
    if accountant == "rdp" and relation == "replace":
        noise /= 2  # dp-accounting's RDP takes the noise relative to what an exchange moves, PLD does not
    events = _events()
    release = events.GaussianDpEvent(noise)
    if sample_rate < 1:
        release = events.PoissonSampledDpEvent(sample_rate, release)
    interval = coarseness * max(_INTERVAL, _affordable_interval(noise, sample_rate, steps))
    spent = _composed(release, steps, delta, relation, accountant, interval)
    if accountant == "pld" and (delta < _LEAST_DELTA or spent == math.inf):
        # Sampling never costs privacy, so the Gaussian without it is an upper bound too.
        mu = (2 if relation == "replace" else 1) * math.sqrt(steps) / noise_multiplier
        spent = min(spent, gaussian_epsilon(mu=mu, delta=delta))
    return spent


def truncated_poisson_epsilon(
    *,
    noise_multiplier: float,
    sample_rate: float,
    num_records: int,
    max_batch_size: int,
    steps: int,
    delta: float,
    relation: str,
    coarseness: float,
) -> float:
    """Return an upper bound on the ε of Gaussian sums over Poisson samples cut to ``max_batch_size`` at random."""
    release = _events().TruncatedSubsampledGaussianDpEvent(
        dataset_size=num_records,
        sampling_probability=sample_rate,
        truncated_batch_size=max_batch_size,
        noise_multiplier=noise_multiplier,
    )
    # Where a batch was cut, a record moves the sum by up to twice the bound: it may have pushed another one out.
    interval = max(_TRUNCATED_COARSER * _INTERVAL, _affordable_interval(noise_multiplier / 2, sample_rate, steps))
    spent = _composed(release, steps, delta, relation, "pld", coarseness * interval)
    if delta < _LEAST_DELTA or spent == math.inf:
        spent = min(spent, gaussian_epsilon(mu=2 * math.sqrt(steps) / noise_multiplier, delta=delta))
    return spent


def _events() -> Any:
    try:
        from dp_accounting import dp_event
    except ImportError as error:
        raise MissingExtraError("dp-accounting", "privacy", "Computing ε") from error
    return dp_event


def _composed(release: Any, steps: int, delta: float, relation: str, accountant: str, interval: float) -> float:
    try:
        with np.errstate(over="raise", invalid="raise"):
            if accountant == "pld" and not isinstance(release, _events().GaussianDpEvent):
                return float(_loss_of_one(release, relation, interval).self_compose(steps).get_epsilon_for_delta(delta))
            composed = _accountant(accountant, relation, interval)
            composed.compose(_events().SelfComposedDpEvent(release, steps))
            return float(composed.get_epsilon(delta))
    except (ArithmeticError, ValueError):  # losses beyond what a float holds or tells apart: infinity is a bound too
        return math.inf


@lru_cache(maxsize=16)
def _loss_of_one(release: Any, relation: str, interval: float) -> Any:
    """Return the privacy loss distribution of one release.

    It takes most of the time, and is the same however many releases are composed: ε is asked for again and again
    while a run spends it.
    """
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution

    grid = {"value_discretization_interval": interval, "neighboring_relation": NeighboringRelation[RELATIONS[relation]]}
    if isinstance(release, _events().PoissonSampledDpEvent):
        return privacy_loss_distribution.from_gaussian_mechanism(
            standard_deviation=release.event.noise_multiplier, sampling_prob=release.sampling_probability, **grid
        )
    return privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism(
        dataset_size=release.dataset_size,
        sampling_probability=release.sampling_probability,
        truncated_batch_size=release.truncated_batch_size,
        noise_multiplier=release.noise_multiplier,
        **grid,
    )


def _accountant(name: str, relation: str, interval: float) -> Any:
    from dp_accounting import NeighboringRelation

    neighbours = NeighboringRelation[RELATIONS[relation]]
    if name == "rdp":
        from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant

        return RdpAccountant(neighboring_relation=neighbours)
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

    return PLDAccountant(neighboring_relation=neighbours, value_discretization_interval=interval)


def _affordable_interval(noise_multiplier: float, sample_rate: float, steps: int) -> float:
    """Return the finest discretisation interval that the span of the losses allows.

    A coarser grid stays an upper bound; without it a tiny noise multiplier would ask for more memory and time than
    there is. Up to an ε of about 50 it is not needed.
    """
    exponent = 10 / noise_multiplier + noise_multiplier**-2 / 2 + math.log(sample_rate)
    largest = max(exponent, 0) + math.log1p(math.exp(-abs(exponent)))  # log(1 + rate * exp(...)): one release's loss
    span = steps * sample_rate / (2 * noise_multiplier**2) + 10 * math.sqrt(steps) / noise_multiplier
    if noise_multiplier > 0.2:  # below, the variance of a sampled loss says nothing any more
        deviation = sample_rate * math.sqrt(steps * math.expm1(noise_multiplier**-2))
        span = min(span, deviation**2 / 2 + 10 * deviation + largest)
    return max(span / _MAX_BUCKETS, largest / _MAX_BUCKETS_OF_ONE)
