"""WiSE-OD: halfway between the detector before and after fine-tuning.

[0] Medeiros et al., "WiSE-OD: Benchmarking Robustness in Infrared Object Detection", WACV 2026,
https://arxiv.org/abs/2507.18925
[1] Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, https://arxiv.org/abs/2109.01903
"""

from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from pvision.checks import at_least
from pvision.detection.adaptations.fine_tuning import FineTuning
from pvision.detection.detectors.detector import Detector
from pvision.errors import ConfigError
from pvision.weights_hash import weights_sha256

__all__ = ["WiSEFineTuning"]


class WiSEFineTuning(FineTuning):
    """Fine-tune the detector, then put ``(1 - λ) · before + λ · after`` into it.

    Running statistics that moved are interpolated with the weights: [1] does so with the whole state dict. The state
    before training is part of this adaptation's state dict, so a checkpoint holds both, and the hash of the result, by
    which a second call knows it.

    Args:
        in_channels: of the modality; made three as by `ZeroShot`.
        interpolation: λ, from 0 (the detector as it was) to 1 (fine-tuned).
        part: as in `FineTuning`.
        norm: as in `FineTuning`.

    Attributes:
        result_sha256: of the detector that holds the interpolation, 32 bytes; zeros before there is one.

    Raises:
        ConfigError: if a setting is out of range, or `after_training` meets a detector that was not attached.
    """

    result_sha256: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        *,
        interpolation: float = 0.5,
        part: Literal["all", "head"] = "all",
        norm: Literal["frozen", "train"] = "frozen",
    ) -> None:
        super().__init__(in_channels, part=part, norm=norm)
        self.interpolation = at_least("interpolation", interpolation, 0)
        if self.interpolation > 1:
            raise ConfigError(f"interpolation must lie from 0 to 1, but {interpolation} came.")
        self.register_buffer("result_sha256", torch.zeros(32, dtype=torch.uint8))

    @override
    def attach(self, detector: Detector) -> None:
        """Let the weights of this part take gradients, and remember what they are now."""
        super().attach(detector)
        for name, value in self.changed_state(detector).items():
            self.register_buffer(_kept(name), value.detach().clone())
        self.result_sha256.zero_()

    @override
    def after_training(self, detector: Detector) -> None:
        """Put the interpolation into the detector; one that holds it already stays as it is."""
        if torch.equal(_digest(detector), self.result_sha256.cpu()):
            return
        before = dict(self.named_buffers())
        with torch.no_grad():
            for name, value in self.changed_state(detector).items():
                if _kept(name) not in before:
                    raise ConfigError(f"{name} of the detector was not there when `attach` was called. Attach again.")
                if value.is_floating_point():
                    value.copy_((1 - self.interpolation) * before[_kept(name)] + self.interpolation * value)
        self.result_sha256.copy_(_digest(detector))


def _digest(detector: Detector) -> Tensor:
    return torch.tensor(list(bytes.fromhex(weights_sha256(detector))), dtype=torch.uint8)


def _kept(name: str) -> str:
    # The name of a buffer cannot have a dot.
    return "before/" + name.replace(".", "/")
