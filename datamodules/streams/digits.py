"""DigitsStream: 1,797 handwritten digits of 8 x 8 pixels, shipped with pvision.

[0] Alpaydin, Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository 1998,
    doi:10.24432/C50P49, CC BY 4.0; its test part, as scikit-learn's `load_digits` has it.
"""

import numpy as np
import numpy.typing as npt

from pvision.datamodules.streams.shipped import load_shipped
from pvision.datamodules.streams.sources import ArrayImages
from pvision.datamodules.streams.task_stream import TaskStream

__all__ = ["DigitsStream"]

_MOST = 16  # the pixels count the dots in squares of 4 x 4


class DigitsStream(TaskStream):
    """Handwritten digits of 13 people [0], 8 x 8 pixels, one channel: 1,198 for training and 599 for the test.

    A third of each digit, drawn once, is the test set; people are not separated. Pixels run from 0 to 255 in 16 steps.
    It needs no other package and no download, and one epoch takes a fraction of a second: a stream for first steps and
    for tests.

    Arguments are those of `TaskStream`.
    """

    class_names = tuple(str(digit) for digit in range(10))

    def prepare_sources(self) -> None:
        """Load the digits."""
        self.train_source = ArrayImages(*_scaled(*load_shipped("digits", "train")), prefix="train")
        self.test_source = ArrayImages(*_scaled(*load_shipped("digits", "test")), prefix="test")


def _scaled(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return images ``(N, 1, H, W)`` with 0 … 16 spread over 0 … 255."""
    return np.rint(images[:, None] * (255 / _MOST)).astype(np.uint8), labels
