"""What ways of adapting that train the detector itself share."""

from abc import abstractmethod

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pvision.detection.adaptations.three_channels import InThreeChannels
from pvision.detection.detectors.detector import Detector

__all__ = ["DetectorAdaptation", "batch_norms", "keep_statistics", "let_statistics_move"]


class DetectorAdaptation(InThreeChannels):
    """Train some of the detector's weights on the modality, which it sees as by `ZeroShot`.

    Args:
        in_channels: of the modality.
    """

    changes_detector = True

    @abstractmethod
    def changed_state(self, detector: Detector) -> dict[str, Tensor]:
        """Return the parameters and buffers of the detector that training changes, by name.

        Args:
            detector: which was attached, and whose training has not been consolidated.
        """


def batch_norms(detector: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that keep running statistics, by name."""
    return {name: layer for name, layer in detector.named_modules() if isinstance(layer, _BatchNorm)}


def keep_statistics(layer: nn.Module) -> None:
    """Make a layer normalise by the statistics that it has, and leave them, whichever mode it is put into."""
    if _stay_in_evaluation not in layer._forward_pre_hooks.values():
        layer.register_forward_pre_hook(_stay_in_evaluation)


def let_statistics_move(layer: nn.Module) -> None:
    """Undo `keep_statistics`."""
    for key, hook in list(layer._forward_pre_hooks.items()):
        if hook is _stay_in_evaluation:
            del layer._forward_pre_hooks[key]


def _stay_in_evaluation(layer: nn.Module, inputs: object) -> None:
    # At each call, for `train()` of any module around it puts it back into training.
    layer.eval()
