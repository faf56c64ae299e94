"""What all methods of learning along a stream have in common."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.data import ExperienceData
from pvision.continual.experience import Experience, ImageBatch
from pvision.errors import ConfigError, DataError

__all__ = ["ContinualMethod"]


class ContinualMethod(nn.Module):
    """A network and a growing classifier, and what a method does with them along a stream.

    This class itself trains all that requires gradients by cross entropy. A method overrides what it does otherwise:
    `before_experience`, `loss`, `features` or `forward`, `after_step`, `after_experience`, and `state` and `restore`
    for what it keeps beside parameters and buffers. `pvision.modules.ContinualClassifier` runs it under Lightning.

    Args:
        backbone: maps normalised images ``(B, C, H, W)`` to features ``(B, feature_dim)``; has ``feature_dim``.
        classifier: the head's settings.

    Attributes:
        backbone: the network; methods that adapt it hold it as an `AdaptedModel`.
        head: the classifier; ``head.classes`` names the columns of logits.
        classes_of: the classes of each event of the stream so far, by its index.
        current: the index of the experience that is learned now; -1 before the first.

    Raises:
        ConfigError: if the backbone does not say its ``feature_dim``.
    """

    def __init__(self, backbone: nn.Module, *, classifier: Classifier | None = None) -> None:
        super().__init__()
        self.classifier = Classifier() if classifier is None else classifier
        self.backbone = backbone
        # Outputs of the head are made in the precision of the network's.
        self.head = self.classifier.new_head(_feature_dim(backbone)).to(next(backbone.parameters(), torch.empty(0)))
        self.classes_of: list[tuple[int, ...]] = []
        self.current = -1

    # The stream's events

    def learns_by_gradient(self, experience: Experience) -> bool:
        """Return whether an experience is trained at all; if not, it is learned in `after_experience`."""
        return True

    @property
    def unlearns(self) -> bool:
        """Whether `after_experience` meets requests to forget, events of the kind ``forget``, without training."""
        return False

    def before_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Make room for an experience, before there is an optimizer: here, outputs for its new classes.

        Called once for each experience, on the device and on every process, and not again where an interrupted run
        goes on in mid-experience. Whatever requires gradients afterwards is trained.

        Args:
            experience: what comes.
            data: its training records.
        """
        self.current = experience.index
        self.classes_of += [()] * (experience.index + 1 - len(self.classes_of))
        self.classes_of[experience.index] = experience.classes
        self.head.grow(experience.new_classes)
        if self.classifier.loss_over == "current":
            self.head.train_only(experience.classes)

    def after_step(self) -> None:
        """Do what follows each step of the optimizer, such as a proximal step; here nothing."""

    def after_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Consolidate once training is over, on the device and on every process, before the evaluation; here nothing.

        Args:
            experience: what was learned.
            data: its training records.
        """

    # What it computes

    def features(self, image: Tensor) -> Tensor:
        """Return features ``(B, feature_dim)`` of normalised images ``(B, C, H, W)``."""
        features: Tensor = self.backbone(image)
        return features

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, number of classes seen)``: what is predicted, with all that belongs to inference."""
        logits: Tensor = self.head(self.features(image))
        return logits

    def loss(self, batch: ImageBatch) -> Tensor:
        """Return what training minimises on a batch; here the cross entropy, see `cross_entropy`."""
        return self.cross_entropy(self.head(self.features(batch.image)), batch.label)

    def cross_entropy(self, logits: Tensor, label: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross entropy over the classes that ``classifier.loss_over`` chooses.

        Args:
            logits: ``(B, number of classes seen)``.
            label: int64 ``(B,)``, as the data set numbers its classes.
            label_smoothing: how much of the target is spread over all these classes.

        Raises:
            DataError: if a label is not among these classes.
        """
        target = self.head.columns(label)
        if self.classifier.loss_over == "seen":
            return F.cross_entropy(logits, target, label_smoothing=label_smoothing)
        columns = self.columns_of(self.classes_of[self.current], logits)
        within = target[:, None] == columns[None, :]
        if not bool(within.any(dim=1).all()):
            raise DataError(
                "classifier.loss_over: current learns the classes of the current experience only, but images of others "
                "came. Use classifier.loss_over: seen with data.replay and data.training_set: seen."
            )
        return F.cross_entropy(logits[:, columns], within.int().argmax(dim=1), label_smoothing=label_smoothing)

    def columns_of(self, classes: tuple[int, ...], like: Tensor) -> Tensor:
        """Return in which columns of the logits these classes stand, int64 ``(n,)``, on the device of ``like``."""
        return self.head.columns(torch.tensor(classes, dtype=torch.int64, device=like.device))

    # What is trained and kept

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what is trained, as an optimizer's groups with a further entry: ``lr_factor`` of the learning rate."""
        head = [one for one in self.head.parameters() if one.requires_grad]
        of_head = {id(one) for one in head}
        rest = [one for one in self.parameters() if one.requires_grad and id(one) not in of_head]
        groups = [{"params": rest, "lr_factor": 1.0}, {"params": head, "lr_factor": self.classifier.lr_factor}]
        return [group for group in groups if group["params"]]

    def state(self) -> dict[str, Any]:
        """Return what is kept beside parameters and buffers: plain values and tensors."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned, and make whatever parameters and buffers are filled next."""

    def get_extra_state(self) -> dict[str, Any]:
        """Return which method this is, where it stands, and its `state`."""
        return {
            "method": type(self).__name__,
            "current": self.current,
            "classes_of": [list(classes) for classes in self.classes_of],
            "state": self.state(),
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take over what another process kept.

        Raises:
            ConfigError: if it is of another method.
        """
        if state["method"] != type(self).__name__:
            raise ConfigError(
                f"The checkpoint is of the method {state['method']}, but {type(self).__name__} is to take it. "
                "Configure the method that wrote it."
            )
        self.current = int(state["current"])
        self.classes_of = [tuple(classes) for classes in state["classes_of"]]
        self.restore(state["state"])

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within the block, the network sees images as an evaluation does, and no gradients are kept."""
        modes = {one: one.training for one in self.modules()}
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for one, mode in modes.items():
                one.training = mode


def _feature_dim(backbone: nn.Module) -> int:
    size = getattr(backbone, "feature_dim", None)
    if not isinstance(size, int):
        raise ConfigError(
            f"model.backbone ({type(backbone).__name__}) must have an integer feature_dim, but {size!r} came. Use a "
            "backbone of pvision.models, or add the attribute to yours."
        )
    return size
