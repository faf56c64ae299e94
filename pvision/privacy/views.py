"""The two views of a record: as it is, and with its sensitive content removed."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["PublicView", "TwoViews", "as_floats", "surrogate_views"]


class PublicView(NamedTuple):
    """A batch of redacted clips: everything that un-noised training may ever see.

    Attributes:
        video: redacted clips, uint8, ``(B, 3, T, H, W)``.
        mask: what was redacted, bool, ``(B, T, H, W)``, True where sensitive.
        label: class indices, int64, ``(B,)``.
        position: position of each record in its data set, int64, ``(B,)``.
    """

    video: Tensor
    mask: Tensor
    label: Tensor
    position: Tensor


class TwoViews(NamedTuple):
    """A batch of records in both views; only a mechanism or an evaluation may hold it.

    Attributes:
        full: clips as they were recorded, uint8, ``(B, 3, T, H, W)``.
        public: the same records redacted, through the same geometric transforms.
    """

    full: Tensor
    public: PublicView

    @property
    def label(self) -> Tensor:
        """Class indices, int64, ``(B,)``."""
        return self.public.label


def as_floats(video: Tensor) -> Tensor:
    """Return uint8 clips as floats in [0, 1], in the same layout."""
    return video.float() / 255


def surrogate_views(public: PublicView, *, fill: int = 128) -> TwoViews:
    """Make pairs of views from public content alone, where no public clips with content behind the mask exist.

    What is hidden is the mask's own shape, moved by half the frame, cut out of public pixels: the feature differences
    that it makes are of the kind that masking makes, and know nothing of the masked content.

    Args:
        public: redacted clips.
        fill: the grey value, 0 to 255, that hides.
    """
    moved = public.mask.roll(public.mask.shape[-1] // 2, dims=-1) & ~public.mask
    return TwoViews(public.video, public._replace(video=public.video.masked_fill(moved.unsqueeze(1), fill), mask=moved))
