"""The contract that detectors of all libraries are brought under."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn
from typing_extensions import override

from pvision.detection.records import Prediction, Target
from pvision.errors import ConfigError

__all__ = ["Detector"]


class Detector(nn.Module, ABC):
    """A detector of RGB images that can be frozen, asked for its loss in evaluation mode, and asked for boxes.

    Images are float from 0 to 1, each ``(3, H, W)``; the detector resizes and normalises them itself. Gradients reach
    the images in `loss`, frozen or not.

    Args:
        network: the detector as its library made it.
        class_names: of its labels, from 0; empty strings for labels that stand for nothing.

    Attributes:
        network: as given.
        class_names: as given, as a tuple.
        frozen: whether `freeze` was called: then no parameter takes gradients, and `train` leaves the network in
            evaluation mode, so that no running statistic moves.
    """

    def __init__(self, network: nn.Module, class_names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.class_names = tuple(class_names)
        self.frozen = False
        self.eval()

    @abstractmethod
    def loss(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Mapping[str, Tensor]:
        """Return the parts of the training loss, each a scalar, in whichever mode the network is.

        Args:
            images: from 0 to 1, each ``(3, H, W)``; sizes may differ.
            targets: their objects, with labels of this detector; any of them may be empty.
        """

    @abstractmethod
    def predict(self, images: Sequence[Tensor]) -> list[Prediction]:
        """Return the objects found in each image, without gradients and in evaluation mode.

        Args:
            images: from 0 to 1, each ``(3, H, W)``; sizes may differ.
        """

    @abstractmethod
    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the last layers, which turn features into classes and boxes."""

    def label_of(self, name: str) -> int:
        """Return the label of a class.

        Raises:
            ConfigError: if this detector has no such class.
        """
        if not name or name not in self.class_names:
            known = ", ".join(other for other in self.class_names if other)
            raise ConfigError(
                f"The detector knows no class {name!r}. It knows: {known}. Rename the data's class, or choose a "
                "detector that was trained on it."
            )
        return self.class_names.index(name)

    def freeze(self) -> Self:
        """Keep every parameter and buffer as it is from now on, and return self."""
        self.requires_grad_(False)
        self.frozen = True
        self.eval()
        return self

    def unfreeze(self) -> Self:
        """Let all parameters be trained again, and return self; the mode stays as it is."""
        self.requires_grad_(True)
        self.frozen = False
        return self

    @override
    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)
