"""BARM for short training: shared layers learn faster, and small classes count as much as large ones.

A variant of ours; docs/methods/plastic_barm.md says what it gains and what it costs.
"""

from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import at_least
from pvision.segmentation.methods import _sigmoid_terms as terms
from pvision.segmentation.methods.barm import BARM

__all__ = ["PlasticBARM"]


class PlasticBARM(BARM):
    """`BARM` with a term for the overlap of new classes, faster shared layers, and stronger distillation.

    BARM's cross-entropy is a mean over all pixels, of which those of a new class are few, and its shared layers learn
    at a tenth of the rate. Both keep old classes as they are, and leave new ones half learned where steps are few.
    Here the distillation of old outputs keeps them.

    Args:
        network: as for `BARM`.
        dice_weight: of the new classes' soft Dice loss, from the second experience on.
        shared_lr_factor: as for `BARM`.
        group_weight: as for `BARM`.
        settings: the other settings of `BARM`.

    Raises:
        ConfigError: if a weight or factor is below 0, or the threshold is not above 0 and at most 1.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        dice_weight: float = 1.0,
        shared_lr_factor: float = 0.3,
        group_weight: float = 4.0,
        **settings: Any,
    ) -> None:
        super().__init__(network, shared_lr_factor=shared_lr_factor, group_weight=group_weight, **settings)
        self.dice_weight = at_least("dice_weight", dice_weight, 0)

    @override
    def classification(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return ``bce`` and, from the second experience on, ``dice``."""
        found = super().classification(logits, targets)
        if self.current > 0:
            first, _ = self.head.spans()[-1]
            found["dice"] = self.dice_weight * terms.soft_dice(logits, targets, first=first)
        return found
