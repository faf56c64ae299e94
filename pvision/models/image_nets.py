"""Small image encoders for streams of small images: no normalisation over a batch, so that nothing leaks through it."""

from torch import Tensor, nn

from pvision.checks import positive_int

__all__ = ["ConvEncoder"]


class ConvEncoder(nn.Module):
    """Three stages of two 3×3 convolutions with group normalisation, each but the last halving the image; then a mean.

    Args:
        channels: of the images.
        width: channels of the first stage; the last has four times as many.

    Attributes:
        feature_dim: the size of a feature vector, ``4 * width``.
    """

    def __init__(self, *, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        channels, width = positive_int("channels", channels), positive_int("width", width)
        self.feature_dim = 4 * width
        self.stages = nn.Sequential(
            _stage(channels, width),
            nn.MaxPool2d(2),
            _stage(width, 2 * width),
            nn.MaxPool2d(2),
            _stage(2 * width, 4 * width),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return features ``(B, feature_dim)`` of images ``(B, channels, H, W)``, each side at least 4."""
        maps: Tensor = self.stages(image)
        return maps.mean(dim=(2, 3))


def _stage(channels: int, width: int) -> nn.Sequential:
    groups = next(count for count in (4, 2, 1) if width % count == 0)
    layers: list[nn.Module] = []
    for entering in (channels, width):
        layers += [nn.Conv2d(entering, width, 3, padding=1), nn.GroupNorm(groups, width), nn.ReLU()]
    return nn.Sequential(*layers)
