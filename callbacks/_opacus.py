"""Which Opacus optimizers can be accounted for, and finding the one that a Trainer uses.

Nothing here imports Opacus before the user's project has: what was never imported cannot have made an optimizer.
"""

import sys
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from pvision.errors import PrivacyError

__all__ = ["check_optimizer", "find_optimizer", "is_distributed"]

_DISTRIBUTED = {
    False: ("DPOptimizer", "DPPerLayerOptimizer"),
    True: ("DistributedDPOptimizer", "SimpleDistributedPerLayerOptimizer"),
}

_REFUSED = {
    "AdaClipDPOptimizer": "it divides by the un-noised number of records drawn",
    "DPOptimizerFastGradientClipping": "a record with a NaN gradient would reach every weight, and cannot be left out",
    "DistributedDPOptimizerFastGradientClipping": "a record with a NaN gradient would reach every weight, and cannot "
    "be left out",
    "DistributedPerLayerOptimizer": "it adds its noise during backward, before the step can be charged",
    "FSDPOptimizerFastGradientClipping": "it noises each shard by itself",
}
"""Optimizers of Opacus 1.6 that are refused, and why."""


def find_optimizer(trainer: pl.Trainer) -> Any | None:
    """Return the run's Opacus optimizer, None if it has none.

    Raises:
        PrivacyError: if there is another optimizer beside it.
    """
    if "opacus" not in sys.modules:
        return None
    from opacus.optimizers import DPOptimizer

    found = [optimizer for optimizer in trainer.optimizers if isinstance(optimizer, DPOptimizer)]
    if found and len(trainer.optimizers) > 1:
        names = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers)
        raise PrivacyError(
            f"configure_optimizers gave {len(trainer.optimizers)} optimizers ({names}). Each would learn from the same "
            "batch, and ε covers one release for each batch. Give one optimizer with all trained parameters."
        )
    return found[0] if found else None


def is_distributed(optimizer: Any) -> bool:
    """Return whether the optimizer sums over processes and adds the noise once."""
    return type(optimizer).__name__ in _DISTRIBUTED[True]


def check_optimizer(optimizer: Any, module: nn.Module, *, world_size: int) -> None:
    """Refuse an optimizer whose releases ε would not cover.

    Raises:
        PrivacyError: with the reason and the remedy.
    """
    _check_kind(optimizer, world_size)
    if optimizer.secure_mode:
        raise PrivacyError(
            "secure_mode of Opacus came. Its package torchcsprng ended with torch 1.8, and the noise drawn here "
            "instead does not close the hole that floating-point noise leaves. Leave secure_mode out, or train with "
            "pvision's own mechanism and privacy.secure_noise."
        )
    if optimizer.generator is not None:
        raise PrivacyError(
            "The Opacus optimizer was given a noise generator. Whoever knows its seed can subtract the noise, so such "
            "a run is NOT PRIVATE. Leave noise_generator out of make_private; the noise is then drawn from the system."
        )
    if not _positive(optimizer.noise_multiplier):
        raise PrivacyError(
            f"The Opacus optimizer has noise_multiplier {optimizer.noise_multiplier!r}: without noise the run is NOT "
            "PRIVATE. Give make_private a noise_multiplier above 0, or leave PrivacyAccounting(delta=…) out."
        )
    others = {parameter.dtype for parameter in optimizer.params} - {torch.float32, torch.float64}
    if others:
        raise PrivacyError(
            f"Parameters in {', '.join(sorted(map(str, others)))} came: Opacus sums and clips in the parameters' own "
            "precision, which is too coarse for the bound. Keep them in float32; trainer.precision 'bf16-mixed' does."
        )
    for part in module.modules():
        reduction = getattr(part, "loss_reduction", optimizer.loss_reduction)
        if type(part).__name__.startswith("GradSampleModule") and reduction != optimizer.loss_reduction:
            raise PrivacyError(
                f"{type(part).__name__} takes the loss for a {reduction}, its optimizer for a "
                f"{optimizer.loss_reduction}: a record's gradient would depend on how many others were drawn. Take "
                "both from one call of make_private."
            )


def _check_kind(optimizer: Any, world_size: int) -> None:
    name = type(optimizer).__name__
    if name in _REFUSED or name not in (*_DISTRIBUTED[False], *_DISTRIBUTED[True]):
        reason = _REFUSED.get(name, "what it releases is not known here")
        raise PrivacyError(
            f"The optimizer {name} is refused: {reason}. Use clipping='flat' or 'per_layer' and grad_sample_mode="
            "'hooks', 'ew' or 'functorch' in make_private."
        )
    if world_size > 1 and name in _DISTRIBUTED[False]:
        raise PrivacyError(
            f"{name} came in a run of {world_size} processes: each would draw from all records and train weights of "
            "its own, spending more than is accounted. Wrap the network in Opacus's "
            "DifferentiallyPrivateDistributedDataParallel before make_private, or use trainer.devices=1."
        )
    if getattr(optimizer, "world_size", world_size) != world_size:
        raise PrivacyError(
            f"The optimizer {name} was made for {optimizer.world_size} processes, and {world_size} train. Call "
            "make_private in configure_optimizers, where the processes are known."
        )


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
