"""Which pixels stand out, found without a trained network.

[0] Achanta et al., "Frequency-tuned Salient Region Detection", CVPR 2009.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.checks import positive

__all__ = ["FrequencyTunedSaliency"]


class FrequencyTunedSaliency(nn.Module):
    """Call a pixel salient if its blurred colour is far from the image's mean colour.

    ``S = |mean - blur|``, equation 4 of [0], with the image's own normalised channels instead of Lab; salient is what
    exceeds ``times_mean`` of its mean, as [0] segments. It has no idea of objects: what is large or coloured like the
    mean is missed.

    Args:
        times_mean: the threshold, as a multiple of the image's mean.

    Raises:
        ConfigError: if that is not a finite number above 0.
    """

    kernel: Tensor

    def __init__(self, *, times_mean: float = 2.0) -> None:
        super().__init__()
        self.times_mean = positive("times_mean", times_mean)
        line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("kernel", torch.outer(line, line), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return which pixels are salient, bool ``(B, H, W)``, of images ``(B, C, H, W)``."""
        channels = image.shape[1]
        kernel = self.kernel.to(image.dtype).expand(channels, 1, 5, 5)
        blurred = F.conv2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), kernel, groups=channels)
        saliency = (image.mean(dim=(2, 3), keepdim=True) - blurred).norm(dim=1)
        salient: Tensor = saliency > self.times_mean * saliency.mean(dim=(1, 2), keepdim=True)
        return salient
