"""Fine-tuning: the detector learns the modality, and forgets RGB."""

from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import one_of
from pvision.detection.adaptations.detector_adaptation import (
    DetectorAdaptation,
    batch_norms,
    keep_statistics,
    let_statistics_move,
)
from pvision.detection.detectors.detector import Detector

__all__ = ["FineTuning"]


class FineTuning(DetectorAdaptation):
    """Train the detector's own weights, all of them or those of its head.

    Args:
        in_channels: of the modality; made three as by `ZeroShot`.
        part: ``all``, or ``head`` for the last layers only.
        norm: ``frozen`` leaves the running statistics of BatchNorm as they are and normalises by them, as is customary
            where batches of a detector are small; weight and bias of these layers are trained with the others.
            ``train`` lets the statistics of layers that are trained move.

    Raises:
        ConfigError: if a setting is none of those named.
    """

    def __init__(
        self,
        in_channels: int = 1,
        *,
        part: Literal["all", "head"] = "all",
        norm: Literal["frozen", "train"] = "frozen",
    ) -> None:
        super().__init__(in_channels)
        self.part = one_of("part", part, ("all", "head"))
        self.norm = one_of("norm", norm, ("frozen", "train"))

    @override
    def attach(self, detector: Detector) -> None:
        """Let the weights of this part take gradients, and no others."""
        detector.unfreeze()
        if self.part == "head":
            detector.requires_grad_(False)
            for parameter in detector.head_parameters():
                parameter.requires_grad_(True)
        for layer in batch_norms(detector).values():
            (let_statistics_move if self._moves(layer) else keep_statistics)(layer)

    @override
    def changed_state(self, detector: Detector) -> dict[str, Tensor]:
        trained: dict[str, Tensor] = {name: p for name, p in detector.named_parameters() if p.requires_grad}
        moving = {
            f"{name}.{key}": buffer
            for name, layer in batch_norms(detector).items()
            if self._moves(layer)
            for key, buffer in layer.named_buffers()
        }
        return trained | moving

    def _moves(self, layer: nn.Module) -> bool:
        trained = self.part == "all" or any(parameter.requires_grad for parameter in layer.parameters())
        return self.norm == "train" and trained
