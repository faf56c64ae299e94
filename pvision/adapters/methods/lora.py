"""LoRA along a stream: train low-rank adapters and nothing of the network, on whatever the stream serves."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pvision.adapters.layer import AdaptedLayer
from pvision.adapters.lora import LoRA, LowRank
from pvision.adapters.methods.adapting import AdaptingMethod
from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.data import ExperienceData
from pvision.adapters.methods.lines import Lines
from pvision.checks import positive, positive_int
from pvision.continual.experience import Experience

__all__ = ["SequentialLoRA"]

_NAME = "lora"


class SequentialLoRA(AdaptingMethod):
    """Train one LoRA and a head by cross entropy, experience after experience.

    Nothing keeps it from forgetting but its low rank: it is what methods with adapters are compared with.

    Args:
        backbone: as for `ContinualMethod`; it is frozen, and changed in place where ``fresh`` or ``lines`` say so.
        rank: of the LoRA.
        alpha: its scaling is ``alpha / rank``; None for a scaling of 1.
        targets: where it sits, see `add_adapters`.
        fresh: whether each experience has a new one, which is then added to the weights for good. The changes of all
            experiences together are then of any rank.
        lines: scale what each experience changed by depth; None for not at all.
        classifier: the head's settings.

    Raises:
        ConfigError: if a setting is out of its range, or no layer meets a target.

    Guarantee:
        Predictions need one pass, and with ``fresh`` no more multiplications than the network itself.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        rank: int = 8,
        alpha: float | None = None,
        targets: str | Sequence[str] = ("q", "v"),
        fresh: bool = False,
        lines: Lines | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__(backbone, classifier=classifier)
        scaling = None if alpha is None else positive("method.alpha", alpha)
        self.lora, self.targets = LoRA(rank=positive_int("method.rank", rank), alpha=scaling), targets
        self.linear_places(targets, rank=rank)  # refuses what does not fit before anything is trained
        self.fresh, self.lines = fresh, lines
        self._before: dict[str, tuple[Tensor, Tensor]] = {}  # up and down of each layer, before this experience

    def before_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Make the adapter unless there is one, and note what it is where ``lines`` wants to know what changed."""
        super().before_experience(experience, data)
        if _NAME not in self.adapted.names:
            self.adapted.add(self.lora, name=_NAME, targets=self.targets)
        if self.lines is not None:
            self._before = {
                layer.name: (_adapter(layer).up.detach().clone(), _adapter(layer).down.detach().clone())
                for layer in self.adapted.layers
            }

    def after_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Scale what changed by depth, and add a fresh adapter to the weights."""
        if self.lines is not None:
            for layer in self.adapted.layers:
                self._scale(layer, self.lines.factor(layer.place.block, self.adapted.depth))
            self._before = {}
        if self.fresh:
            self.adapted.absorb(_NAME)

    def state(self) -> dict[str, Any]:
        """Return the adapter from before this experience."""
        return {"before": {name: list(pair) for name, pair in self._before.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take it over."""
        like = self.head.get_buffer("_like")
        self._before = {name: (up.to(like), down.to(like)) for name, (up, down) in state["before"].items()}

    def _scale(self, layer: AdaptedLayer, factor: float) -> None:
        """Make the change of this experience ``factor`` times what it is.

        W + B₀A₀ + λ (BA - B₀A₀) is W + (1 - λ) B₀A₀ with an adapter of λB and A, so the rank stays what it is.
        """
        if factor == 1:
            return
        adapter, (up, down) = _adapter(layer), self._before[layer.name]
        with torch.no_grad():
            layer.weight.add_((1 - factor) * adapter.scaling * (up @ down).to(layer.weight))
            adapter.up.mul_(factor)


def _adapter(layer: AdaptedLayer) -> LowRank:
    return cast(LowRank, layer.adapters[_NAME])
