"""What all methods of learning to segment class by class have in common."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from pvision.continual.experience import Experience
from pvision.continual.masks import BACKGROUND, VOID, SegmentationBatch
from pvision.errors import ConfigError, DataError
from pvision.segmentation.head import MaskHead

__all__ = ["SegmentationMethod"]


class SegmentationMethod(nn.Module):
    """A network and a growing pixel classifier, and what a method does with them along a stream.

    A method says what it minimises in `losses`, and overrides what it does otherwise: `new_head`, `before_experience`,
    `look_through`, `logits`, `scores`, `freeze`, `parameter_groups`. `pvision.modules.IncrementalSegmenter` runs it
    under Lightning.

    From the second experience on the statistics and weights of BatchNorm stay as they are, and the model as it was
    before the experience is at hand as `teacher`. The teacher is dropped when the experience ends: what a model
    carries along is one model.

    Args:
        network: maps normalised images ``(B, C, H, W)`` to a feature map ``(B, feature_dim, h, w)``; has
            ``feature_dim``. Methods that look at intermediate features use its ``levels(image)``, see
            `pvision.segmentation.networks`.

    Attributes:
        network: the network.
        head: the classifier; `MaskHead.columns` names the columns of logits.
        current: the index of the experience that is learned now; -1 before the first.
        teacher: a frozen copy of the method as it was before this experience; None in the first one and between
            experiences.

    Raises:
        ConfigError: if the network does not say its ``feature_dim``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.head = self.new_head(_feature_dim(network)).to(next(network.parameters(), torch.empty(0)))
        self.current = -1
        self.teacher: SegmentationMethod | None = None

    def new_head(self, feature_dim: int) -> MaskHead:
        """Return the classifier, which has no classes yet."""
        return MaskHead(feature_dim)

    # The stream's events

    def before_experience(self, experience: Experience, *, upcoming: int = 0) -> None:
        """Keep a copy as the teacher, and make room for new classes, before there is an optimizer.

        Called once for each experience, on the device and on every process.

        Args:
            experience: what comes.
            upcoming: how many classes come in later experiences; only methods that reserve outputs ask for it.
        """
        self.teacher = frozen_copy(self) if self.head.groups else None
        self.current = experience.index
        self.head.grow(experience.new_classes)
        self.train(self.training)  # BatchNorm stops before an optimizer asks what is trained

    def look_through(self, batches: Iterable[SegmentationBatch]) -> None:
        """Read the experience's training records once, before it is trained; here nothing.

        Called after `before_experience`, and not again where an interrupted run goes on in mid-experience. Each process
        has its own share of the records, so what is computed from them needs a collective; a share can be empty.

        Args:
            batches: on the method's device, as evaluation sees them, with the labels that training sees. They are
                loaded only if something iterates over them.
        """

    def after_experience(self) -> None:
        """Drop the teacher."""
        self.teacher = None

    # What it computes

    def logits(self, features: Tensor) -> Tensor:
        """Return logits ``(B, 1 + classes, h, w)`` at the feature map's size, as training sees them."""
        logits: Tensor = self.head(features)
        return logits

    def scores(self, image: Tensor) -> Tensor:
        """Return what is compared to choose a pixel's label, ``(B, 1 + classes, H, W)``, at the image's size."""
        return resized(self.logits(self.network(image)), image)

    def forward(self, image: Tensor) -> Tensor:
        """Return the label of each pixel, int64 ``(B, H, W)``: `BACKGROUND` or a class learned so far."""
        labels = torch.tensor([BACKGROUND, *self.head.classes], device=image.device)
        return labels[self.scores(image).argmax(1)]

    def losses(self, batch: SegmentationBatch) -> Mapping[str, Tensor]:
        """Return the weighted terms whose sum training minimises, by their names."""
        raise NotImplementedError

    def targets(self, mask: Tensor) -> Tensor:
        """Return the column of each pixel's label, int64 ``(B, H, W)``; `VOID` stays.

        Raises:
            DataError: if a label is not among the classes so far.
        """
        table = torch.full((256,), -1, dtype=torch.int64, device=mask.device)
        table[VOID] = VOID
        for label, column in self.head.columns().items():
            table[label] = column
        found = table[mask]
        if (found < 0).any():
            raise DataError(
                f"A mask holds the label {int(mask[found < 0][0])}, but the model knows {self.head.classes}. Let the "
                "stream show labels of the current experience only, and call before_experience first."
            )
        return found

    # What is trained and kept

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what is trained, as an optimizer's groups with a further entry: ``lr_factor`` of the learning rate."""
        return [{"params": [one for one in self.parameters() if one.requires_grad], "lr_factor": 1.0}]

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        if self.current > 0:
            self.freeze()
        return self

    def freeze(self) -> None:
        """Freeze what experiences after the first must not change: here BatchNorm, its statistics and its weights."""
        for layer in self.modules():
            if isinstance(layer, _BatchNorm):
                layer.eval()
                layer.requires_grad_(False)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what is needed to make the layers that a checkpoint's tensors fill."""
        return {
            "method": type(self).__name__,
            "current": self.current,
            "groups": [list(group) for group in self.head.groups],
            "teacher": None if self.teacher is None else self.teacher.get_extra_state(),
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Make the layers that a checkpoint's tensors fill; call it before they are loaded.

        Raises:
            ConfigError: if the state is of another method or other classes.
        """
        if state["method"] != type(self).__name__:
            raise ConfigError(
                f"The checkpoint is of the method {state['method']}, but {type(self).__name__} is to take it. "
                "Configure the method that wrote it."
            )
        if state["teacher"] is not None and self.teacher is None:
            self.teacher = frozen_copy(self)
            self.teacher.set_extra_state(state["teacher"])
            self.teacher.requires_grad_(False)  # what it has just grown too
        self.head.grow_like(state["groups"])
        self.current = int(state["current"])
        self.train(self.training)


def frozen_copy(method: SegmentationMethod) -> SegmentationMethod:
    """Return a copy without a teacher that is never trained, in evaluation mode."""
    own, method.teacher = method.teacher, None
    try:
        copied = copy.deepcopy(method)
    finally:
        method.teacher = own
    return copied.eval().requires_grad_(False)


def resized(values: Tensor, image: Tensor) -> Tensor:
    """Return maps ``(B, K, h, w)`` at the size of images ``(B, C, H, W)``, bilinearly."""
    return F.interpolate(values, size=image.shape[-2:], mode="bilinear", align_corners=False)


def _feature_dim(network: nn.Module) -> int:
    size = getattr(network, "feature_dim", None)
    if not isinstance(size, int):
        raise ConfigError(
            f"model.network ({type(network).__name__}) must have an integer feature_dim, but {size!r} came. Use a "
            "network of pvision.segmentation.networks, or add the attribute to yours."
        )
    return size
