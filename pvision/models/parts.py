"""What an adapter hands over: a library's network, cut into trunk and head by name."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["Clip", "GlobalMean", "Parts", "one_pathway", "two_pathways"]

Clip = tuple[int, int, int]

FRAMES_PER_SLOW_FRAME = 4


def one_pathway(video: Tensor) -> Tensor:
    """Return ``video``: most networks take the clip as it is."""
    return video


def two_pathways(video: Tensor) -> list[Tensor]:
    """Return a quarter of the frames, evenly spread, and all of them.

    The list is new on each call: pytorchvideo's networks overwrite what they are given.
    """
    frames = video.shape[2]
    slow = frames // FRAMES_PER_SLOW_FRAME
    positions = [step * (frames - 1) // max(slow - 1, 1) for step in range(slow)]
    return [video[:, :, positions], video]


class GlobalMean(nn.Module):
    """Average over all frames and pixels: as `nn.AdaptiveAvgPool3d(1)`, which is a slow loop under vmap."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the mean of maps ``(B, C, T, H, W)`` as ``(B, C, 1, 1, 1)``."""
        return maps.mean((2, 3, 4), keepdim=True)


@dataclass(frozen=True)
class Parts:
    """A library's network.

    Args:
        network: the whole network, its parameters named as in published weights.
        head: the dotted name of its last linear layer.
        prepare: turns clips, ``(B, 3, T, H, W)``, into what ``network`` takes.
    """

    network: nn.Module
    head: str
    prepare: Callable[[Tensor], Tensor | list[Tensor]] = one_pathway
