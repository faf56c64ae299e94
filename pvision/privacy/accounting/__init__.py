"""ε of repeated Gaussian releases, for every way in which batches are drawn."""

from pvision.privacy.accounting.epsilons import (
    RELATIONS,
    SAMPLINGS,
    Relation,
    Sampling,
    affordable_steps,
    batches_per_cycle,
    epsilon,
    noise_multiplier_for,
)

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
