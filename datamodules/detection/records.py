"""What a data module for detection serves its images from."""

from collections.abc import Sequence
from typing import Protocol

from pvision.detection.records import DetectionBatch

__all__ = ["DetectionRecords"]


class DetectionRecords(Protocol):
    """Images of one modality with their objects, by position.

    Attributes:
        names: of the images, each once, for messages, tables and whatever is drawn for an image.
        modality: which sensor, for example ``"rgb"`` or ``"lwir"``.
    """

    @property
    def names(self) -> Sequence[str]:
        """The names, by position."""

    @property
    def modality(self) -> str:
        """Which sensor."""

    def __len__(self) -> int:
        """Return how many images there are."""

    def __getitem__(self, positions: Sequence[int], /) -> DetectionBatch:
        """Return the images at these positions, in this order, as one batch.

        Raises:
            DataError: naming the image, if it or its boxes are damaged.
        """
