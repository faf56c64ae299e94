"""WA: distil from the last network, and give the weights of new and old classes the same length.

[0] Zhao et al., "Maintaining Discrimination and Fairness in Class Incremental Learning", CVPR 2020,
    https://arxiv.org/abs/1911.07053
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.data import ExperienceData
from pvision.adapters.methods.method import ContinualMethod
from pvision.checks import positive
from pvision.continual.experience import Experience, ImageBatch
from pvision.errors import ConfigError

__all__ = ["WeightAligning"]


class WeightAligning(ContinualMethod):
    """Train everything by ``(1 - λ) CE + λ KD``, then scale the new classes' weights to the mean length of the old.

    KD is the cross entropy between what the network of the last experience says of the old classes and what this one
    says, both softened by ``temperature``; λ = classes that are not in this experience / all classes, which are the old
    ones unless classes come again. Meant for streams with ``data.replay``.

    Args:
        backbone: as for `ContinualMethod`.
        temperature: of the distillation.
        nonnegative: whether negative weights of the head become 0 after each step, as [0] proposes for features that
            are none themselves, such as those behind a ReLU.
        classifier: the head's settings: a linear one, trained over all classes seen.

    Attributes:
        teacher: the network and head of the last experience while one is learned; None in the first, and in between.

    Raises:
        ConfigError: if ``temperature`` is no number above 0, or the head is another one.

    Guarantee:
        Aligning leaves the order of the new classes' logits as it is, for every image.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        temperature: float = 2.0,
        nonnegative: bool = False,
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__(backbone, classifier=classifier)
        self.temperature = positive("method.temperature", temperature)
        self.nonnegative = nonnegative
        if self.classifier.head != "linear" or self.classifier.loss_over != "seen":
            raise ConfigError(
                "WeightAligning compares the lengths of all classes' weights. Set classifier.head: linear and "
                "classifier.loss_over: seen."
            )
        self.teacher: ContinualMethod | None = None

    def before_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Keep a frozen copy of the network and the head, and make outputs for the new classes."""
        if self.head.classes:
            self.teacher = self._new_teacher()
            self.teacher.head = copy.deepcopy(self.head).requires_grad_(False)
        super().before_experience(experience, data)

    def loss(self, batch: ImageBatch) -> Tensor:
        """Return the mean of cross entropy and distillation, weighed by how many classes the experience has."""
        logits = self.head(self.features(batch.image))
        loss = self.cross_entropy(logits, batch.label)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            wanted: Tensor = self.teacher.eval()(batch.image)
        old = wanted.shape[1]
        share = 1 - len(self.classes_of[self.current]) / logits.shape[1]
        target = (wanted / self.temperature).softmax(1)
        distillation: Tensor = F.cross_entropy(logits[:, :old] / self.temperature, target)
        mixed: Tensor = (1 - share) * loss + share * distillation
        return mixed

    def after_step(self) -> None:
        """Cut off negative weights of the head."""
        if self.nonnegative:
            with torch.no_grad():
                for layer in self.head.layers:
                    layer.get_parameter("weight").clamp_(min=0)

    def after_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Align the new classes with the old ones, and let go of the teacher."""
        self.teacher = None
        if experience.new_classes and len(self.head.layers) > 1:
            self.align()

    def align(self) -> float:
        """Scale weights and biases of the latest classes by one factor γ, and return it.

        γ is the mean length of the old classes' weights over that of the new ones'. [0] has no biases; scaling them
        too keeps the order of the new classes.
        """
        *old, new = self.head.layers
        with torch.no_grad():
            lengths = torch.cat([layer.get_parameter("weight").norm(dim=1) for layer in old])
            factor = float(lengths.mean() / new.get_parameter("weight").norm(dim=1).mean())
            for parameter in new.parameters():
                parameter.mul_(factor)
        return factor

    def state(self) -> dict[str, Any]:
        """Return whether there is a teacher; its weights are parameters."""
        return {"teacher": self.teacher is not None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Make a teacher whose weights are filled next."""
        self.teacher = self._new_teacher() if state["teacher"] else None

    def _new_teacher(self) -> ContinualMethod:
        """Return a frozen copy of the network, with a head without classes."""
        return ContinualMethod(copy.deepcopy(self.backbone), classifier=self.classifier).requires_grad_(False)
