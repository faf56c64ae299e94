"""Many modalities, one detector."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from pvision.detection.adaptations.adaptation import Adaptation
from pvision.detection.detectors.detector import Detector
from pvision.detection.inputs import ImageInput
from pvision.detection.records import Prediction, Target
from pvision.detection.scaling import FixedRange
from pvision.detection.translator_files import TranslatorFile, read_translator, write_translator
from pvision.errors import ConfigError
from pvision.weights_hash import weights_sha256

__all__ = ["RGB", "ModalityRouter"]

RGB = "rgb"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class ModalityRouter(nn.Module):
    """Bring raw images of any modality to one detector.

    RGB images, 0 to 255, are always known. They meet no adaptation, so as long as none changes the detector, what it
    finds in them is bit for bit what it found before.

    Args:
        detector: of RGB images.

    Attributes:
        detector: as given.
        inputs: by modality, what its raw values mean.
        adaptations: by modality, what stands between its images and the detector; RGB has none.

    Example:
        ::

            router = ModalityRouter(detector)
            router.add("lwir", ImageInput(1, scaling=FixedRange(270, 320)), ModalityTranslator(1))
            predictions = router.predict(images, "lwir")  # raw values, each (1, H, W)
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.inputs = nn.ModuleDict({RGB: ImageInput(3, scaling=FixedRange(0, 255))})
        self.adaptations = nn.ModuleDict()

    @property
    def modalities(self) -> tuple[str, ...]:
        """All known modalities, ``"rgb"`` first."""
        return tuple(self.inputs)

    def add(self, name: str, input: ImageInput, adaptation: Adaptation) -> None:
        """Make a modality known, and attach its adaptation to the detector, which thereby is frozen or thawed.

        Args:
            name: a lower-case word.
            input: what its raw values mean.
            adaptation: what stands between its images and the detector.

        Raises:
            ConfigError: if the name is taken or no such word, or input and adaptation differ in their channels.
        """
        self._check_name(name)
        channels = getattr(adaptation, "in_channels", input.channels)
        if channels != input.channels:
            raise ConfigError(
                f"input has channels: {input.channels}, but the adaptation of {name!r} in_channels: {channels}. Give "
                "both the number that the sensor has."
            )
        adaptation.attach(self.detector)
        self.inputs[name] = input
        self.adaptations[name] = adaptation

    def images(self, images: Sequence[Tensor], modality: str) -> list[Tensor]:
        """Return what the detector sees.

        Args:
            images: raw values, each ``(C, H, W)``; sizes may differ.
            modality: which sensor they are from.

        Returns:
            From 0 to 1, each ``(3, H, W)``.

        Raises:
            ConfigError: if the modality is unknown.
        """
        self._check_known(modality)
        scaled = [self.inputs[modality](image) for image in images]
        if modality not in self.adaptations:
            return scaled
        seen: list[Tensor] = self.adaptations[modality](scaled)
        return seen

    def loss(self, images: Sequence[Tensor], targets: Sequence[Target], modality: str) -> Mapping[str, Tensor]:
        """Return the parts of the detector's loss on raw images, each a scalar.

        Args:
            images: as in `images`.
            targets: their objects, with labels of the detector.
            modality: which sensor they are from.

        Raises:
            ConfigError: if the modality is unknown.
        """
        return self.detector.loss(self.images(images, modality), targets)

    def predict(self, images: Sequence[Tensor], modality: str) -> list[Prediction]:
        """Return the objects found in raw images, without gradients and in evaluation mode.

        Args:
            images: as in `images`.
            modality: which sensor they are from.

        Raises:
            ConfigError: if the modality is unknown.
        """
        self._check_known(modality)
        with torch.no_grad(), _evaluating(self.adaptations):
            return self.detector.predict(self.images(images, modality))

    def save(self, path: str | Path, modality: str) -> None:
        """Write what a modality added to the detector, and which detector that was, to a safetensors file.

        Args:
            path: ends in ``.safetensors``; replaced whole where it exists.
            modality: which one.

        Raises:
            ConfigError: if it is unknown, adds nothing or changes the detector, or the file's name ends otherwise.
        """
        self._check_known(modality)
        if modality == RGB:
            raise ConfigError(f"modality {RGB!r} adds nothing to the detector, so there is nothing to save.")
        adaptation, input = self.adaptations[modality], self.inputs[modality]
        if not isinstance(adaptation, Adaptation) or not isinstance(input, ImageInput):
            raise ConfigError(f"modality {modality!r} was not added by `add`. Add it so.")
        if adaptation.changes_detector:
            raise ConfigError(
                f"modality {modality!r} changed the detector itself ({type(adaptation).__name__}), so no file beside "
                "the detector can hold it. Keep the checkpoint of its training."
            )
        sha256 = weights_sha256(self.detector)
        write_translator(path, TranslatorFile(modality, input, adaptation, sha256, self.detector.class_names))

    def load(self, path: str | Path) -> str:
        """Add the modality of a file that `save` wrote, and return its name.

        Args:
            path: of the file. No code in it is run.

        Raises:
            ConfigError: if there is no such file, its modality is known already, or it was written beside another
                detector; then nothing has changed.
            DataError: if it is damaged, or something else wrote it.
        """
        content = read_translator(path)
        own = weights_sha256(self.detector)
        if content.detector_sha256 != own:
            raise ConfigError(
                f"{path} was trained before the detector with SHA-256 {content.detector_sha256}, but this detector's "
                f"is {own}. Load that detector's weights, or train the modality anew."
            )
        device = next(self.detector.parameters()).device
        self.add(content.modality, content.input, content.adaptation.to(device))
        return content.modality

    def _check_known(self, modality: str) -> None:
        if modality not in self.inputs:
            raise ConfigError(f"modality {modality!r} is unknown. Known are: {', '.join(self.modalities)}.")

    def _check_name(self, name: str) -> None:
        if name in self.inputs:
            raise ConfigError(
                f"modality {name!r} is known already ({', '.join(self.modalities)}). Choose another name."
            )
        if not _NAME.fullmatch(name) or hasattr(nn.ModuleDict, name):
            raise ConfigError(
                f"name must be a lower-case word that is no method of PyTorch's, such as 'lwir', but {name!r} came."
            )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and each of its parts back into its own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
