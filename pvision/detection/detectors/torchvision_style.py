"""Detectors that are called like torchvision's."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from typing_extensions import override

from pvision.detection.detectors.detector import Detector
from pvision.detection.detectors.inputs_checked import by_size, check_images, check_targets, sorted_by_score
from pvision.detection.detectors.training_flags import as_evaluation, loss_branches, unmoved_buffers
from pvision.detection.records import Prediction, Target
from pvision.errors import ConfigError

__all__ = ["TorchvisionStyleDetector"]


class TorchvisionStyleDetector(Detector):
    """A detector of another library with torchvision's calling convention.

    In training mode ``network(images, targets)`` returns a mapping of losses; in evaluation mode ``network(images)``
    returns one mapping for each image with ``boxes``, ``scores`` and ``labels``. Images are a list of ``(3, H, W)``
    from 0 to 1; the network resizes and normalises them.

    For the loss in evaluation mode, only the flag ``training`` of the network itself and of ``branches`` is set, and no
    buffer may move.

    Args:
        network: the detector.
        class_names: by label, from 0; empty strings for labels that stand for nothing, such as a background 0.
        branches: parts of the network that also choose their loss by their own flag ``training``, by name.
        head: the part of the network that turns features into classes and boxes, by name; empty for all of it.

    Raises:
        ConfigError: if the network has no part of such a name.
    """

    def __init__(
        self, network: nn.Module, class_names: Sequence[str], *, branches: Sequence[str] = (), head: str = ""
    ) -> None:
        super().__init__(network, class_names)
        for name in (*branches, head):
            _check_part(network, name)
        self.branches = tuple(branches)
        self.head = head

    @override
    def loss(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Mapping[str, Tensor]:
        check_images(images)
        check_targets(images, targets, self.class_names)
        if self.network.training:
            return self._losses(images, targets)
        with unmoved_buffers(self.network), loss_branches(self.network, self.branches):
            return self._losses(images, targets)

    def _losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Mapping[str, Tensor]:
        losses = self.network(list(images), [dict(target) for target in targets])
        if not isinstance(losses, Mapping) or not losses:
            raise ConfigError(
                f"{type(self.network).__name__} returned {type(losses).__name__} in training mode, where a mapping of "
                "losses was expected. Name its parts that choose by their own flag `training` as branches, or write a "
                "Detector for it."
            )
        return losses

    @override
    def predict(self, images: Sequence[Tensor]) -> list[Prediction]:
        check_images(images)
        with as_evaluation(self.network):
            return by_size(images, self._found)

    def _found(self, images: list[Tensor]) -> list[Prediction]:
        return [sorted_by_score(one["boxes"], one["scores"], one["labels"]) for one in self.network(images)]

    @override
    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.network.get_submodule(self.head).parameters())


def _check_part(network: nn.Module, name: str) -> None:
    try:
        network.get_submodule(name)
    except AttributeError as error:
        parts = ", ".join(child for child, _ in network.named_children())
        raise ConfigError(f"{type(network).__name__} has no part {name!r}. Its parts are: {parts}.") from error
