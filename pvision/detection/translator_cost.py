"""What a translator costs beside the detector behind it, and the largest one within a share of that."""

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pvision.checks import positive_int, unit_rate
from pvision.detection.detectors.detector import Detector
from pvision.detection.small_unet import PRESETS
from pvision.detection.translator import ModalityTranslator
from pvision.errors import ConfigError

__all__ = ["multiply_adds", "translator_multiply_adds", "translator_within"]

RESOLUTIONS = (1.0, 0.5, 0.25)


def multiply_adds(function: Callable[..., object], *inputs: object) -> int:
    """Count the multiply-adds of one call, without gradients.

    Convolutions, matrix products and attention count; normalisation, activations, resizing, non-maximum suppression
    and RoI align do not, as is usual. A module is called in the mode it is in.

    Args:
        function: what is called, for example a network or a detector's `predict`.
        inputs: what it is called with, once.

    Example:
        >>> multiply_adds(torch.nn.Linear(3, 5), torch.zeros(2, 3))
        30
    """
    # The counter counts a multiplication and an addition as two.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*inputs)
    return int(counter.get_total_flops()) // 2


def translator_multiply_adds(translator: ModalityTranslator, *, image_size: tuple[int, int]) -> int:
    """Count the multiply-adds for one image.

    Args:
        translator: on any device, ``meta`` too, where nothing is computed.
        image_size: height and width in pixels.
    """
    image = torch.zeros(1, translator.in_channels, *image_size, device=_device(translator))
    return multiply_adds(translator.translate, image)


def translator_within(
    detector: Detector,
    *,
    image_size: tuple[int, int],
    share: float = 0.25,
    in_channels: int = 1,
    fusion: str = "product",
) -> ModalityTranslator:
    """Return the largest translator of our own whose multiply-adds stay within a share of the detector's.

    The presets are tried at full, half and quarter resolution; the one with the most multiply-adds wins.

    Args:
        detector: called once, on one image of noise of this size; what it does to the size itself is its own cost.
        image_size: height and width of the images in pixels.
        share: of the detector's multiply-adds, above 0 and at most 1.
        in_channels: of the images.
        fusion: see `ModalityTranslator`.

    Raises:
        ConfigError: if even the smallest exceeds the share, or an argument is out of range.
    """
    allowed = unit_rate("share", share) * _detector_multiply_adds(detector, image_size)
    costs = dict(_costs(image_size, in_channels, fusion))
    fitting = {choice: cost for choice, cost in costs.items() if cost <= allowed}
    if not fitting:
        raise ConfigError(
            f"No translator stays within share: {share} of this detector at {image_size[0]} x {image_size[1]} pixels: "
            f"the smallest takes {min(costs.values()) / 1e6:.1f} million multiply-adds, and {allowed / 1e6:.1f} are "
            "allowed. Raise share, or choose a larger detector."
        )
    network, resolution = max(fitting, key=lambda choice: fitting[choice])
    return ModalityTranslator(in_channels, network=network, fusion=fusion, resolution=resolution)


def _detector_multiply_adds(detector: Detector, image_size: tuple[int, int]) -> int:
    height, width = (positive_int("image_size", side) for side in image_size)
    # Noise, not a blank: two-stage detectors do more where there is something to see.
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    return multiply_adds(detector.predict, [noise.to(_device(detector))])


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _costs(image_size: tuple[int, int], in_channels: int, fusion: str) -> Iterator[tuple[tuple[str, float], int]]:
    for network, resolution in product(PRESETS, RESOLUTIONS):
        with torch.device("meta"):  # shapes without numbers
            translator = ModalityTranslator(in_channels, network=network, fusion=fusion, resolution=resolution)
        yield (network, resolution), translator_multiply_adds(translator, image_size=image_size)
