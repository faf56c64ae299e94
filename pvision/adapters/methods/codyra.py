"""CoDyRA for image classifiers: LoRA that finds its own rank in every layer and experience.

[0] Lu et al., "Adaptive Rank, Reduced Forgetting: Knowledge Retention in Continual Learning Vision-Language Models with
    Dynamic Rank-Selective LoRA", https://arxiv.org/abs/2412.01004
[1] https://github.com/Artificer-AI-Lab/CoDyRA, commit c1691e4
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, cast

from torch import nn

from pvision.adapters.gated import GatedLoRA, GatedLowRank, shrink_gates
from pvision.adapters.layer import AdaptedLayer
from pvision.adapters.methods.adapting import AdaptingMethod
from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.data import ExperienceData
from pvision.checks import at_least, positive, positive_int
from pvision.continual.experience import Experience
from pvision.errors import ConfigError

__all__ = ["CoDyRA"]

_NAME = "codyra"


class CoDyRA(AdaptingMethod):
    """Train ``W + B diag(w) A`` with gates w that shut where they gain little, and add what is left to the weights.

    The first part of an experience's steps trains all ranks. After each later step every gate moves towards 0 by κ,
    which rises linearly to ``threshold``; gates within κ are then exactly 0. After the experience ranks whose gate is 0
    are dropped, the rest becomes part of the weights, and the next experience begins with a new adapter.

    This is [0] without its language half: cross entropy of a growing head stands for the losses between images and
    texts, and there is no text encoder to adapt.

    Args:
        backbone: as for `ContinualMethod`; it is frozen, and changed in place after each experience.
        steps: over how many steps of the optimizer κ's schedule goes in each experience; it then stays at
            ``threshold``. None for as many as the experience takes.
        rank: how many ranks each layer begins with.
        alpha: the scaling is ``alpha / rank``; None for a scaling of 1.
        threshold: κ at the end.
        dense: which part of the steps comes before the first that shuts gates.
        targets: where the adapters sit, see `add_adapters`.
        classifier: the head's settings; by default a head for each experience.

    Attributes:
        kept_ranks: of each experience that is over, how many ranks each layer has kept, by the name of the place.

    Raises:
        ConfigError: if a setting is out of its range, or no layer meets a target.

    Guarantee:
        A rank whose gate is 0 contributes exactly 0. Predictions after an experience need one pass, with no more
        multiplications than the network itself.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        steps: int | None = None,
        rank: int = 16,
        alpha: float | None = None,
        threshold: float = 0.005,
        dense: float = 0.5,
        targets: str | Sequence[str] = ("q", "k", "v", "o", "fc1", "fc2"),
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__(backbone, classifier=Classifier(loss_over="current") if classifier is None else classifier)
        self.steps = None if steps is None else positive_int("method.steps", steps)
        scaling = None if alpha is None else positive("method.alpha", alpha)
        self.lora, self.targets = GatedLoRA(rank=positive_int("method.rank", rank), alpha=scaling), targets
        self.linear_places(targets, rank=rank)  # refuses what does not fit before anything is trained
        self.threshold = at_least("method.threshold", threshold, 0)
        if at_least("method.dense", dense, 0) >= 1:
            raise ConfigError(f"method.dense must be below 1, but {dense} came. 0.5 is what was published.")
        self.dense = dense
        self.kept_ranks: list[dict[str, int]] = []
        self._step, self._length = 0, 0 if steps is None else steps

    def before_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Make the experience's adapter, with gates drawn from N(0, 1) as in [1].

        Raises:
            ConfigError: if ``steps`` is more than the experience takes, or None and that is not known.
        """
        super().before_experience(experience, data)
        self._length = self._steps_of(data)
        self._absorb()  # what an experience that was never consolidated has left
        self.adapted.add(self.lora, name=_NAME, targets=self.targets)
        for layer in self.adapted.layers:
            nn.init.normal_(_adapter(layer).gates)
        self._step = 0

    def threshold_at(self, step: int) -> float:
        """Return κ after a step, counted from 1: 0 up to the dense part's last, ``threshold`` from the last on."""
        dense = ceil(self.dense * self._length)
        if step <= dense:
            return 0.0
        return self.threshold * min(1.0, (step - dense) / (self._length - dense))

    def after_step(self) -> None:
        """Move the gates towards 0."""
        self._step += 1
        if threshold := self.threshold_at(self._step):
            shrink_gates(self.adapted, threshold=threshold)

    def after_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Drop the ranks that are shut, and add the others to the weights."""
        self._absorb()

    def _steps_of(self, data: ExperienceData) -> int:
        taken = data.steps
        if self.steps is None and not taken:
            raise ConfigError(
                "method.steps must be given, as it is not known how many steps an experience takes. Set it, or "
                "trainer.max_epochs or trainer.max_steps."
            )
        if self.steps is not None and taken is not None and taken < self.steps:
            raise ConfigError(
                f"method.steps is {self.steps}, but the optimizer takes {taken} only in this experience, so the "
                "threshold would not rise to its end. Leave method.steps out, or train longer."
            )
        return self.steps or taken or 1

    def _absorb(self) -> None:
        if _NAME not in self.adapted.names:
            return
        kept = {layer.name: 0 for layer in self.adapted.layers}
        self.adapted.prune(_NAME)
        for layer in self.adapted.layers:
            kept[layer.name] = _adapter(layer).rank
        self.kept_ranks.append(kept)
        self.adapted.absorb(_NAME)

    def state(self) -> dict[str, Any]:
        """Return how many steps of how many were taken, and what ranks were kept."""
        return {"step": self._step, "length": self._length, "kept_ranks": [dict(kept) for kept in self.kept_ranks]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take it over."""
        self._step, self._length = int(state["step"]), int(state["length"])
        self.kept_ranks = [dict(kept) for kept in state["kept_ranks"]]


def _adapter(layer: AdaptedLayer) -> GatedLowRank:
    return cast(GatedLowRank, layer.adapters[_NAME])
