"""ε of repeated Gaussian releases, for every way in which batches are drawn.

This file checks arguments and chooses the computation: `grid` for secret samples, `exact` for
batches that are no secret.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

from pvision.checks import one_of, open_unit, positive, positive_int, unit_rate
from pvision.errors import ConfigError
from pvision.privacy.accounting.exact import gaussian_epsilon, revealed_poisson_epsilon
from pvision.privacy.accounting.grid import RELATIONS, poisson_epsilon, truncated_poisson_epsilon

__all__ = [
    "RELATIONS",
    "SAMPLINGS",
    "Relation",
    "Sampling",
    "affordable_steps",
    "batches_per_cycle",
    "epsilon",
    "noise_multiplier_for",
]

Relation = Literal["zero_out", "replace", "add_remove"]
Sampling = Literal["poisson", "truncated_poisson", "revealed_poisson", "deterministic"]

SAMPLINGS: tuple[str, ...] = ("poisson", "truncated_poisson", "revealed_poisson", "deterministic")
"""How batches are drawn, as far as ε depends on it."""

_SEARCH = 10  # how much coarser than the final grid the one of a first search is
_LEAST_NOISE = 1e-3  # one release below it has ε above 500,000: no number is more honest than infinity
_MOST_NOISE, _LEAST_RATE = 1e12, 1e-15  # past them dp-accounting's arithmetic fails; at them ε is an upper bound
_WHOLE = 1e-3  # how far, relatively, 1 / sample_rate may be from a whole number of batches


class _Draw(NamedTuple):
    """How batches are drawn, checked."""

    sampling: str
    sample_rate: float
    num_records: int
    max_batch_size: int


def epsilon(
    *,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    relation: Relation,
    accountant: Literal["pld", "rdp"] = "pld",
    sampling: Sampling = "poisson",
    num_records: int | None = None,
    max_batch_size: int | None = None,
) -> float:
    """Return the ε of ``steps`` Gaussian sums over batches of records.

    Args:
        noise_multiplier: noise standard deviation divided by the clipping bound, above 0.
        sample_rate: probability that a record is in one global batch, above 0 and at most 1.
        steps: noisy releases, at least 0.
        delta: δ, between 0 and 1.
        relation: what a neighbouring data set is. ``"zero_out"``: one record contributes exactly zero;
            ``"replace"``: one record's contribution is exchanged; ``"add_remove"``: one record comes or goes.
        accountant: ``"pld"`` (tight, the one to report) or ``"rdp"`` (a looser upper bound, for ``"poisson"`` only).
            What is known in closed form needs neither.
        sampling: how batches are drawn.

            - ``"poisson"``: every record joins independently, and nobody sees who did.
            - ``"truncated_poisson"``: the same, and of a batch above ``max_batch_size`` that many are kept at random.
            - ``"revealed_poisson"``: as ``"poisson"``, but an attacker may see who is in a batch.
            - ``"deterministic"``: a fixed partition into ``1 / sample_rate`` batches, used in turn.
        num_records: records in the data set, public; for ``"truncated_poisson"`` only.
        max_batch_size: the most records in a batch; for ``"truncated_poisson"`` only.

    Returns:
        ε; 0.0 for no steps, infinite where the noise is below a thousandth of the bound.

    Raises:
        ConfigError: if an argument is outside its range, or nothing is proved for the combination.
        MissingExtraError: if dp-accounting is not installed.

    Guarantee:
        An upper bound on the true ε: losses and counts are rounded up. It never falls with more steps, a larger
        sample rate, a smaller δ or less noise (for a truncated batch: more steps, a smaller δ or less noise).

        =================  ==================  ==================  ==========
        sampling           zero_out            replace             add_remove
        =================  ==================  ==================  ==========
        poisson            grid                grid                grid
        truncated_poisson  grid                grid                grid
        revealed_poisson   binomial mixture    binomial mixture    refused
        deterministic      exact               exact               refused
        =================  ==================  ==================  ==========

    Example:
        >>> round(epsilon(noise_multiplier=1.0, sample_rate=0.0256, steps=781, delta=1e-5, relation="zero_out"), 3)
        4.514

    References:
        Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380 (privacy loss distributions);
        Balle & Wang 2018, arXiv:1805.06530 (the Gaussian mechanism, exact).
    """
    noise = positive("noise_multiplier", noise_multiplier)
    rate = unit_rate("sample_rate", sample_rate)
    steps = positive_int("steps", steps, low=0)
    delta = open_unit("delta", delta)
    one_of("relation", relation, RELATIONS)
    one_of("accountant", accountant, ("pld", "rdp"))
    draw = _checked_draw(sampling, rate, relation, num_records, max_batch_size)
    _check_accountant(accountant, relation, draw)
    return _epsilon(noise, draw, steps, delta, relation, accountant, 1) if steps else 0.0


def noise_multiplier_for(
    *,
    target_epsilon: float,
    sample_rate: float,
    steps: int,
    delta: float,
    relation: Relation,
    sampling: Sampling = "poisson",
    num_records: int | None = None,
    max_batch_size: int | None = None,
) -> float:
    """Return the least noise multiplier that keeps ε at or below ``target_epsilon``.

    Args:
        target_epsilon: ε to reach, above 0.
        sample_rate: probability that a record is in one global batch.
        steps: noisy releases, at least 1.
        delta: δ, between 0 and 1.
        relation: the relation in which ``target_epsilon`` is meant.
        sampling: as for `epsilon`.
        num_records: as for `epsilon`.
        max_batch_size: as for `epsilon`.

    Returns:
        The noise multiplier, within 0.1 % above the least one.

    Raises:
        ConfigError: if an argument is outside its range, or no noise reaches the target.
    """
    target = positive("target_epsilon", target_epsilon)
    rate = unit_rate("sample_rate", sample_rate)
    steps = positive_int("steps", steps)
    delta = open_unit("delta", delta)
    one_of("relation", relation, RELATIONS)
    draw = _checked_draw(sampling, rate, relation, num_records, max_batch_size)

    def fits(coarseness: float) -> Callable[[float], bool]:
        return lambda noise: _epsilon(noise, draw, steps, delta, relation, "pld", coarseness) <= target

    # A coarse grid finds the neighbourhood quickly; the fine one, whose ε is lower, decides.
    start = _least(fits(_SEARCH), start=1.0, stride=2.0) if _on_grid(draw) else 1.0
    found = _least(fits(1), start=start or 1.0, stride=1.02 if start and _on_grid(draw) else 2.0)
    if found is None:
        raise ConfigError(
            f"target_epsilon {target:g} is not reached by any noise multiplier up to {_MOST_NOISE:g} at delta "
            f"{delta:g}: allow a larger target_epsilon or delta, or fewer steps."
        )
    return found


def affordable_steps(
    *,
    budget: float,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    relation: Relation,
    sampling: Sampling = "poisson",
    num_records: int | None = None,
    max_batch_size: int | None = None,
) -> int:
    """Return how many of ``steps`` releases fit into an ε of ``budget``.

    Args:
        budget: the ε allowed, above 0.
        noise_multiplier: as for `epsilon`.
        sample_rate: as for `epsilon`.
        steps: the releases planned; no more are considered.
        delta: as for `epsilon`.
        relation: the relation in which ``budget`` is meant.
        sampling: as for `epsilon`.
        num_records: as for `epsilon`.
        max_batch_size: as for `epsilon`.
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
            sampling=sampling,
            num_records=num_records,
            max_batch_size=max_batch_size,
        )
        low, high = (middle, high) if spent <= budget else (low, middle)
    return low


def batches_per_cycle(sample_rate: float) -> int:
    """Return into how many batches ``"deterministic"`` sampling parts the records.

    Raises:
        ConfigError: if ``1 / sample_rate`` is further than 0.1 % from a whole number.
    """
    batches = 1 / unit_rate("sample_rate", sample_rate)
    if batches == math.inf or abs(batches - round(batches)) > _WHOLE * batches:
        nearest = "1" if batches == math.inf else f"1/{math.floor(batches)} or 1/{math.ceil(batches)}"
        raise ConfigError(
            "sample_rate must be one over a whole number of batches under sampling 'deterministic', but "
            f"{sample_rate!r} came; use {nearest}."
        )
    return round(batches)


def _checked_draw(
    sampling: str, sample_rate: float, relation: str, num_records: int | None, max_batch_size: int | None
) -> _Draw:
    one_of("sampling", sampling, SAMPLINGS)
    if relation == "add_remove" and sampling == "revealed_poisson":
        raise ConfigError(
            "relation 'add_remove' has no bound under sampling 'revealed_poisson': whoever sees the batches sees "
            "whether the record exists. Use relation 'zero_out' or 'replace'."
        )
    if relation == "add_remove" and sampling == "deterministic":
        raise ConfigError(
            "relation 'add_remove' has no bound under sampling 'deterministic': removing a record moves others to "
            "other batches. Use relation 'zero_out' or 'replace', under which the number of records is fixed."
        )
    if sampling == "deterministic":
        batches_per_cycle(sample_rate)
    if sampling == "truncated_poisson":
        records, most = positive_int("num_records", num_records), positive_int("max_batch_size", max_batch_size)
        if most > records:
            raise ConfigError(f"max_batch_size must be at most num_records, {records}, but {most} came.")
        return _Draw(sampling, sample_rate, records, most)
    for name, value in (("num_records", num_records), ("max_batch_size", max_batch_size)):
        if value is not None:
            raise ConfigError(
                f"{name} must be left out under sampling {sampling!r}, but {value!r} came: "
                "only 'truncated_poisson' depends on it."
            )
    return _Draw(sampling, sample_rate, 0, 0)


def _check_accountant(accountant: str, relation: str, draw: _Draw) -> None:
    if accountant == "pld":
        return
    if draw.sampling != "poisson":
        raise ConfigError(
            f"accountant 'rdp' has no bound for sampling {draw.sampling!r}, only for 'poisson'; use accountant='pld'."
        )
    if relation == "replace" and draw.sample_rate < 1:
        raise ConfigError("accountant 'rdp' has no bound for relation 'replace' under sampling; use accountant='pld'.")


def _on_grid(draw: _Draw) -> bool:
    return draw.sampling in ("poisson", "truncated_poisson")


@lru_cache(maxsize=4096)
def _epsilon(
    noise: float, draw: _Draw, steps: int, delta: float, relation: str, accountant: str, coarseness: float
) -> float:
    if noise < _LEAST_NOISE:
        return math.inf
    noise, rate = min(noise, _MOST_NOISE), max(draw.sample_rate, _LEAST_RATE)
    mu = (2 if relation == "replace" else 1) / noise
    if draw.sampling == "deterministic":
        participations = -(-steps // batches_per_cycle(draw.sample_rate))
        return gaussian_epsilon(mu=mu * math.sqrt(participations), delta=delta)
    if draw.sampling == "revealed_poisson":
        return revealed_poisson_epsilon(mu=mu, sample_rate=rate, steps=steps, delta=delta)
    if draw.sampling == "truncated_poisson":
        return truncated_poisson_epsilon(
            noise_multiplier=noise,
            sample_rate=rate,
            num_records=draw.num_records,
            max_batch_size=draw.max_batch_size,
            steps=steps,
            delta=delta,
            relation=relation,
            coarseness=coarseness,
        )
    return poisson_epsilon(
        noise_multiplier=noise,
        sample_rate=rate,
        steps=steps,
        delta=delta,
        relation=relation,
        accountant=accountant,
        coarseness=coarseness,
    )


def _least(fits: Callable[[float], bool], *, start: float, stride: float) -> float | None:
    """Return a value that ``fits``, at most 0.1 % above the least one, or None; values above one that fits do too."""
    high = start
    while not fits(high):
        if high > _MOST_NOISE:
            return None
        high *= stride
    low = high / stride
    while fits(low):
        low, high = low / stride, low
    while high - low > 1e-3 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
