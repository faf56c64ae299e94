"""How a translator's output and the image it was made from become what the detector sees.

[0] Medeiros et al., "Modality Translation for Object Detection Adaptation Without Forgetting Prior Knowledge", ECCV
    2024, https://arxiv.org/abs/2404.01492: product, sum, attention, none.
[1] Li and Wu, "DenseFuse: A Fusion Approach to Infrared and Visible Images", IEEE TIP 2019,
    https://arxiv.org/abs/1804.08361: the attention that [0] takes.
[2] Medeiros et al., "Visual Modality Prompt for Adapting Vision-Language Object Detectors", ICCV 2025; the code,
    heitorrapela/ModPrompt f8941d9: additive.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from pvision.checks import one_of

__all__ = ["FUSIONS", "Fusion", "fusion_named"]


@dataclass(frozen=True)
class Fusion:
    """A rule that keeps images from 0 to 1 within 0 to 1.

    Args:
        name: in recipes.
        channels: how many the network in front has to put out.
        activation: what bounds the network's output.
        combine: the rule, of the image from 0 to 1, ``(B, 3, H, W)``, and the bounded output, ``(B, channels, H, W)``.
        begins_as_identity: whether an output of zeros leaves the image as it is. A network that begins with such an
            output lets training start from what the detector already finds.
        uses_image: whether the image itself is part of the result.
    """

    name: str
    channels: int
    activation: Callable[[Tensor], Tensor]
    combine: Callable[[Tensor, Tensor], Tensor]
    begins_as_identity: bool = False
    uses_image: bool = True

    def __call__(self, image: Tensor, output: Tensor) -> Tensor:
        """Return what the detector sees.

        Args:
            image: from 0 to 1, ``(B, 3, H, W)``.
            output: what the network gave, not bounded yet, ``(B, channels, H, W)``.

        Returns:
            From 0 to 1, ``(B, 3, H, W)``.
        """
        return self.combine(image, self.activation(output))


def fusion_named(name: str) -> Fusion:
    """Return the fusion of that name.

    Raises:
        ConfigError: if there is none; the message lists all.
    """
    return FUSIONS[one_of("fusion", name, FUSIONS)]


def _clip(image: Tensor) -> Tensor:
    """Clip to 0 to 1, with the gradient of no clipping.

    The ordinary gradient of clipping is 0 outside, so a pixel that once left the range would never be called back.
    Here nothing drifts away meanwhile: what is clipped is bounded already, because the outputs are.
    """
    return image.detach().clamp(0.0, 1.0) + (image - image.detach())


def _product(image: Tensor, output: Tensor) -> Tensor:
    return image * output


def _sum(image: Tensor, output: Tensor) -> Tensor:
    return (image + output) / 2


def _residual_product(image: Tensor, output: Tensor) -> Tensor:
    return _clip(image * (1 + output))


def _affine(image: Tensor, output: Tensor) -> Tensor:
    factor, offset = output.chunk(2, dim=1)
    return _clip(image * (1 + factor) + offset)


def _attention(image: Tensor, output: Tensor) -> Tensor:
    # [1] weighs by e^Σ(image) / (e^Σ(image) + e^Σ(output)), sums over channels. This is the same without overflow.
    weight = torch.sigmoid((image - output).sum(dim=1, keepdim=True))
    return output + weight * (image - output)


def _none(image: Tensor, output: Tensor) -> Tensor:
    return output


def _additive(image: Tensor, output: Tensor) -> Tensor:
    return _clip(image + output)


_ALL = (
    Fusion("product", 3, torch.sigmoid, _product),
    Fusion("sum", 3, torch.sigmoid, _sum),
    Fusion("residual_product", 3, torch.tanh, _residual_product, begins_as_identity=True),
    Fusion("affine", 6, torch.tanh, _affine, begins_as_identity=True),
    Fusion("attention", 3, torch.sigmoid, _attention),
    Fusion("none", 3, torch.sigmoid, _none, uses_image=False),
    Fusion("additive", 3, torch.sigmoid, _additive),
)

#: All fusions, by name.
FUSIONS: Mapping[str, Fusion] = MappingProxyType({fusion.name: fusion for fusion in _ALL})
