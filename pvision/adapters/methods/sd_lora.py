"""SD-LoRA: low-rank updates whose directions are frozen, one after the other, while all their magnitudes are trained.

[0] Wu et al., "SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental Learning", ICLR 2025,
    https://arxiv.org/abs/2501.13198; code WuYichen-97/SD-Lora-CL, commit 8bacded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pvision.adapters.lora import LoRA, LowRank
from pvision.adapters.methods.adapting import AdaptingMethod
from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.data import ExperienceData
from pvision.checks import at_least, positive_int, unit_rate
from pvision.continual._collectives import from_first
from pvision.continual.experience import Experience
from pvision.errors import ConfigError

__all__ = ["SDLoRA"]


class SDLoRA(AdaptingMethod):
    """Add ``α_t B_t A_t`` to queries and values, and the updates of earlier experiences as directions.

    The weights change by ``Σ_{i<t} α_i B_i A_i / (‖B_i‖ ‖A_i‖) + α_t B_t A_t``. A_t, B_t and all magnitudes α
    are trained; all layers share one α. For evaluation everything is merged into the weights: one pass, and no more
    multiplications than without adapters. For training it is unmerged, bit by bit.

    Args:
        backbone: as for `ContinualMethod`; it is frozen, and changed in place.
        rank: rows of A_t; or by the index of an experience the rank from there on, as ``{0: 10, 4: 8, 8: 6}``
            (SD-LoRA-RR).
        magnitude: what α_t starts from.
        drop_below: drop the direction that an experience has learned if earlier ones explain it up to this share of its
            norm, and add what they explain to their magnitudes (SD-LoRA-KD); None to keep all.
        targets: which layers, as for `add_adapters`.
        classifier: the head's settings; by default a head for each experience.

    Raises:
        ConfigError: if a setting is out of range, or no layer meets a target.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        rank: int | dict[int, int] = 10,
        magnitude: float = 0.8,
        drop_below: float | None = None,
        targets: str | Sequence[str] = ("q", "v"),
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__(backbone, classifier=Classifier(loss_over="current") if classifier is None else classifier)
        self.ranks, self.targets = _ranks(rank), targets
        self.linear_places(targets, rank=max(self.ranks.values()))  # refuses what does not fit before training
        self.magnitude = at_least("method.magnitude", magnitude, 0)
        self.drop_below = None if drop_below is None else unit_rate("method.drop_below", drop_below)
        self.merges_after_loading = False
        self.register_load_state_dict_post_hook(_merge_as_saved)  # type: ignore[no-untyped-call]  # torch's gap

    def before_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Freeze what was learned as a direction, and add A_t, B_t and α_t."""
        super().before_experience(experience, data)
        self.adapted.unmerge()
        self._freeze_directions()
        name = f"experience_{experience.index}"
        self.adapted.add(LoRA(rank=self.rank_at(experience.index)), name=name, targets=self.targets)
        self.adapted.add_magnitude(name, start=self.magnitude)
        self.adapted.train_only(name, magnitudes=self.adapted.names)

    def after_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Drop a direction that is explained, if asked to, and merge for the evaluation."""
        super().after_experience(experience, data)
        if self.drop_below is not None:
            self._drop_if_explained(self.drop_below)
        self.adapted.merge()

    def rank_at(self, index: int) -> int:
        """Return the rank of the adapters of the experience at ``index``."""
        return self.ranks[max(start for start in self.ranks if start <= index)]

    def explained(self) -> tuple[Tensor, float]:
        """Return how earlier directions explain the newest best, by least squares over all layers together.

        Returns:
            A factor for each earlier direction, and what they leave of the newest, as a share of its norm.
        """
        gram = self._inner_products()
        among, with_new = gram[:-1, :-1], gram[:-1, -1]
        factors: Tensor = torch.linalg.pinv(among, hermitian=True) @ with_new
        left = gram[-1, -1] - 2 * factors @ with_new + factors @ among @ factors
        return factors, float((left.clamp(min=0) / gram[-1, -1]).sqrt()) if gram[-1, -1] > 0 else 0.0

    def state(self) -> dict[str, Any]:
        """Return whether the adapters are merged; a state dict holds the weights without them."""
        return {"merged": bool(self.adapted.merged)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Unmerge, as the weights come without adapters; once they are loaded, what was merged is merged again."""
        self.adapted.unmerge()
        self.merges_after_loading = bool(state["merged"])

    def _freeze_directions(self) -> None:
        for layer in self.adapted.layers:
            for adapter in layer.adapters.values():
                if isinstance(adapter, LowRank) and adapter.up.requires_grad:  # of older ones every bit stays
                    _normalise(adapter.up)
                    _normalise(adapter.down)

    @torch.no_grad()
    def _drop_if_explained(self, share: float) -> None:
        *earlier, newest = self.adapted.names
        if not earlier:
            return
        factors, left = self.explained()
        if left > share:
            return
        magnitudes = self.adapted.magnitudes
        for name, factor in zip(earlier, factors.tolist(), strict=True):
            magnitudes[name].add_(magnitudes[newest], alpha=factor)
        self.adapted.remove(newest)

    @torch.no_grad()
    def _inner_products(self) -> Tensor:
        """Return the inner products of all updates without magnitudes, over all layers, ``(t, t)``, on the CPU."""
        total = torch.zeros(len(self.adapted.names), len(self.adapted.names), dtype=torch.float64)
        for layer in self.adapted.layers:
            adapters = [one for one in layer.adapters.values() if isinstance(one, LowRank)]
            up = torch.cat([one.up_matrix().cpu().double() for one in adapters], dim=1)
            down = torch.cat([one.down_matrix().cpu().double() for one in adapters], dim=0)
            owner = torch.repeat_interleave(torch.tensor([one.rank for one in adapters]))
            belongs = nn.functional.one_hot(owner).double()
            total += belongs.T @ ((up.T @ up) * (down @ down.T)) @ belongs
        return from_first(total)


@torch.no_grad()
def _normalise(matrix: Tensor) -> None:
    matrix /= matrix.norm().clamp(min=torch.finfo(matrix.dtype).tiny)  # B is zero where nothing was learned


def _merge_as_saved(method: nn.Module, missing: object) -> None:
    """Merge once the weights are there; only then is it known what to merge."""
    if isinstance(method, SDLoRA) and method.merges_after_loading:
        method.merges_after_loading = False
        method.adapted.merge()


def _ranks(rank: int | Mapping[int, int]) -> dict[int, int]:
    """Return from which experience on each rank holds.

    Raises:
        ConfigError: if one is no whole number above 0, or there is none for the first experience.
    """
    if not isinstance(rank, Mapping):
        return {0: positive_int("method.rank", rank)}
    ranks = {positive_int("method.rank", start, low=0): positive_int("method.rank", one) for start, one in rank.items()}
    if 0 not in ranks:
        raise ConfigError(
            f"method.rank must say the rank of the first experience, as in {{0: 10, 4: 8}}, but {dict(rank)} came."
        )
    return ranks
