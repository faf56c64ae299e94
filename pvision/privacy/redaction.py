"""Redaction: from a clip and its mask to the public view.

The public view π(x, m) is made from public pixels and the mask alone, at the clip's native resolution, before any
geometric transform, and π(π(x, m), m) = π(x, m) bit for bit. The residual mechanism's proof needs exactly this
(docs/guarantee.md).
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from pvision.checks import one_of, positive_int
from pvision.errors import ConfigError

__all__ = ["Redaction", "resample_mask"]

_SENSITIVE = ("inside", "outside")
_SHAPES = ("exact", "union", "box")


@dataclass(frozen=True)
class Redaction:
    """What is sensitive in a clip, and how it is removed.

    Args:
        sensitive: which side of the mask is sensitive, ``"inside"`` or ``"outside"``. Only the user can know.
        shape: ``"exact"`` takes the mask as it is; ``"union"`` lets a pixel that is sensitive in one frame be
            sensitive in all; ``"box"`` takes the clip-wide bounding box, which hides motion and silhouette too.
        grid: side in pixels of the grid to which the sensitive region is enlarged; 1 leaves it.
        dilate: pixels by which the region grows on each side, against detector misses and codec residue.
        dilate_frames: frames by which the region grows before and after.
        fill: the grey value, 0 to 255, that replaces sensitive pixels.

    Raises:
        ConfigError: if a value is outside its range.

    Guarantee:
        Deterministic and idempotent; the result depends on public pixels and the mask only.
    """

    sensitive: str
    shape: str = "exact"
    grid: int = 1
    dilate: int = 0
    dilate_frames: int = 0
    fill: int = 128

    def __post_init__(self) -> None:
        one_of("redaction.sensitive", self.sensitive, _SENSITIVE)
        one_of("redaction.shape", self.shape, _SHAPES)
        positive_int("redaction.grid", self.grid)
        positive_int("redaction.dilate", self.dilate, low=0)
        positive_int("redaction.dilate_frames", self.dilate_frames, low=0)
        if positive_int("redaction.fill", self.fill, low=0) > 255:
            raise ConfigError(f"redaction.fill must be a grey value from 0 to 255, but {self.fill} came.")

    def region(self, mask: Tensor) -> Tensor:
        """Return the sensitive region of clips.

        Args:
            mask: bool, ``(..., T, H, W)``, True inside the annotated region.

        Returns:
            bool, the shape of ``mask``, True where sensitive.
        """
        frames, height, width = mask.shape[-3:]
        region = (mask if self.sensitive == "inside" else ~mask).reshape(-1, frames, height, width)
        region = _dilate(region, self.dilate_frames, self.dilate)
        if self.shape != "exact":
            region = region.any(1, keepdim=True).expand_as(region)
        if self.shape == "box":
            region = _bounding_box(region)
        if self.grid > 1:
            region = _snap(region, self.grid)
        return region.reshape(mask.shape)

    def redact(self, video: Tensor, region: Tensor) -> Tensor:
        """Return ``video`` with its sensitive region filled.

        Args:
            video: uint8, ``(..., T, H, W, 3)``.
            region: bool, ``(..., T, H, W)``, as `region` returns it.

        Raises:
            ConfigError: if the two differ in size or length.
        """
        if region.shape != video.shape[:-1]:
            raise ConfigError(
                f"region must have the video's frames, height and width, {tuple(video.shape[:-1])}, "
                f"but {tuple(region.shape)} came."
            )
        return video.masked_fill(region.unsqueeze(-1), self.fill)


def resample_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample masks so that a new pixel is sensitive if any pixel that it touches is.

    Args:
        mask: bool, ``(..., H, W)``.
        size: the new ``(H, W)``, smaller or larger.

    Returns:
        bool, ``(..., *size)``. Never bilinear: a threshold would let sensitive pixels leak at the border.
    """
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    return F.adaptive_max_pool2d(flat, size).bool().reshape(*mask.shape[:-2], *size)


def _dilate(region: Tensor, frames: int, pixels: int) -> Tensor:
    for axis, reach in ((-3, frames), (-2, pixels), (-1, pixels)):
        region = _spread(region, axis, reach)
    return region


def _spread(region: Tensor, axis: int, reach: int) -> Tensor:
    """Let True spread by ``reach`` cells along ``axis``, by shifts of doubling length: pooling is 500 times slower."""
    length, done = region.shape[axis], 0
    while done < min(reach, length - 1):
        step = min(done + 1, reach - done)
        spread = region.clone()
        spread.narrow(axis, step, length - step).logical_or_(region.narrow(axis, 0, length - step))
        spread.narrow(axis, 0, length - step).logical_or_(region.narrow(axis, step, length - step))
        region, done = spread, done + step
    return region


def _bounding_box(region: Tensor) -> Tensor:
    rows, columns = region.any(-1), region.any(-2)
    return _between(rows).unsqueeze(-1) & _between(columns).unsqueeze(-2)


def _between(line: Tensor) -> Tensor:
    """Fill each line from its first True to its last."""
    started = line.cumsum(-1) > 0
    unfinished = line.flip(-1).cumsum(-1).flip(-1) > 0
    return started & unfinished


def _snap(region: Tensor, grid: int) -> Tensor:
    """Enlarge the region to whole cells of the grid, partial cells at the border included."""
    height, width = region.shape[-2:]
    cells = F.max_pool2d(region.float(), grid, ceil_mode=True).bool()
    full = cells.repeat_interleave(grid, -2).repeat_interleave(grid, -1)
    return full[..., :height, :width]
