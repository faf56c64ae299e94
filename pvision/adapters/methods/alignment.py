"""Classifier alignment: let a head learn to tell all classes apart from what is kept of their features.

[0] Zhang et al., "SLCA: Slow Learner with Classifier Alignment", ICCV 2023, https://arxiv.org/abs/2303.05118
[1] Sun et al., "MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental Learning", AAAI 2025,
    https://arxiv.org/abs/2412.09441 (the same without logit normalisation)
"""

import copy
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from pvision.adapters.methods.data import ExperienceData
from pvision.adapters.methods.method import ContinualMethod
from pvision.checks import at_least, positive, positive_int
from pvision.continual._collectives import from_first
from pvision.continual.class_statistics import ClassStatistics
from pvision.continual.head import IncrementalHead
from pvision.errors import ConfigError

__all__ = ["ClassifierAlignment", "add_class_statistics"]


@dataclass(frozen=True)
class ClassifierAlignment:
    """Train a head over all classes on features drawn from N(mean, covariance) of each class, without any image.

    A head that learned each experience apart never saw two of them compete. It is right as far as the features of
    earlier classes are still where they were when their statistics were taken.

    Args:
        samples_per_class: features drawn of each class.
        steps: steps of Adam, whose rate falls to 0 along a cosine.
        batch_size: features in a step.
        lr: the learning rate of the first step.
        shrinkage: share of the isotropic covariance of the same trace in each class's, from 0 to 1: a class of few
            images has no covariance of full rank.

    Raises:
        ConfigError: if a value is outside its range.

    Example:
        >>> head, statistics = IncrementalHead(2), ClassStatistics(2)
        >>> head.grow([0, 1])
        >>> statistics.add(torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [-2.0, 0.0]]), torch.tensor([0, 0, 1, 1]))
        >>> ClassifierAlignment().align(head, statistics, seed=0)
        >>> head.predictions(head(torch.tensor([[1.5, 0.0], [-1.5, 0.0]]))).tolist()
        [0, 1]
    """

    samples_per_class: int = 256
    steps: int = 200
    batch_size: int = 256
    lr: float = 0.01
    shrinkage: float = 0.01

    def __post_init__(self) -> None:
        for name in ("samples_per_class", "steps", "batch_size"):
            positive_int(f"alignment.{name}", getattr(self, name))
        positive("alignment.lr", self.lr)
        if at_least("alignment.shrinkage", self.shrinkage, 0) > 1:
            raise ConfigError(f"alignment.shrinkage must be at most 1, but {self.shrinkage} came.")

    def align(self, head: IncrementalHead, statistics: ClassStatistics, *, seed: int) -> None:
        """Train ``head``, frozen or not, and leave what of it requires gradients as it is; a collective.

        It computes in float64 on the CPU, and all processes take what rank 0 finds.

        Args:
            head: has an output for each class of the statistics; others are left out of the loss.
            statistics: of the features that the head is given, the same on every process.
            seed: decides what is drawn: the index of the experience, for example.
        """
        generator = torch.Generator().manual_seed(seed)
        classes = [label for label in head.classes if label in statistics]
        features, _ = statistics.sample(
            self.samples_per_class, classes=classes, shrinkage=self.shrinkage, generator=generator
        )
        trained = copy.deepcopy(head).to(device="cpu", dtype=torch.float64).requires_grad_(False)
        trained.layers.requires_grad_(True)
        known = trained.columns(torch.tensor(classes, dtype=torch.int64))
        target = torch.arange(len(classes)).repeat_interleave(self.samples_per_class)
        optimizer = torch.optim.Adam(trained.layers.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for _ in range(self.steps):
            rows = torch.randint(len(target), (self.batch_size,), generator=generator)
            loss = F.cross_entropy(trained(features[rows])[:, known], target[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's gap
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            for parameter, found in zip(head.layers.parameters(), trained.layers.parameters(), strict=True):
                parameter.copy_(from_first(found.detach().to(parameter)))


def add_class_statistics(statistics: ClassStatistics, method: ContinualMethod, data: ExperienceData) -> None:
    """Add the features of an experience's records, as the network sees them now; a collective.

    Args:
        statistics: the same on every process, before and after.
        method: gives the features.
        data: the records.
    """
    own = ClassStatistics(statistics.dim)
    with method.reading():
        for batch in data.batches("class statistics"):
            own.add(method.features(batch.image), batch.label)
    statistics.include(own.together())
