"""Records: data sets that give both views of any choice of clips as one batch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pvision.errors import DataError
from pvision.privacy import PublicView, Redaction, TwoViews

__all__ = ["PublicOnly", "Records", "TensorRecords"]

_AT_ONCE = 256  # clips whose region is found at a time: pooling needs four bytes a pixel


class Records(Dataset[TwoViews], ABC):
    """A map-style data set whose items are whole batches: it is indexed by a list of positions.

    An empty list gives an empty batch of the right shape, because Poisson sampling draws such batches.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of records."""

    @abstractmethod
    def __getitem__(self, indices: Sequence[int]) -> TwoViews:  # batches, not items
        """Return both views of the records at ``indices``, redacted before any geometric transform."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """What to call each record in a prediction file: a path, or a number."""


class PublicOnly(Dataset[PublicView]):
    """The redacted view of a data set, and nothing else of it.

    Args:
        records: the data set to look at.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, indices: Sequence[int]) -> PublicView:  # batches, not items
        return self._records[indices].public


class TensorRecords(Records):
    """Clips that lie in memory.

    Args:
        video: uint8, ``(N, T, H, W, 3)``.
        mask: bool, ``(N, T, H, W)``, True inside the annotated region.
        label: int64, ``(N,)``.
        redaction: what is sensitive and how it is removed.
        names: what to call each record; their positions if None.

    Raises:
        DataError: if these disagree in length or size.
    """

    def __init__(
        self, video: Tensor, mask: Tensor, label: Tensor, redaction: Redaction, *, names: Sequence[str] | None = None
    ) -> None:
        if video.shape[:-1] != mask.shape or len(video) != len(label):
            raise DataError(
                "video (N, T, H, W, 3), mask (N, T, H, W) and label (N,) must agree, but "
                f"{tuple(video.shape)}, {tuple(mask.shape)} and {tuple(label.shape)} came."
            )
        if names is not None and len(names) != len(video):
            raise DataError(f"names must hold one name for each of {len(video)} records, but {len(names)} came.")
        self._video, self._label, self._redaction = video, label, redaction
        self._names = [str(position) for position in range(len(video))] if names is None else list(names)
        self._region = torch.empty_like(mask)
        for start in range(0, len(mask), _AT_ONCE):
            self._region[start : start + _AT_ONCE] = redaction.region(mask[start : start + _AT_ONCE])

    def __len__(self) -> int:
        return len(self._video)

    def __getitem__(self, indices: Sequence[int]) -> TwoViews:  # batches, not items
        index = torch.as_tensor(indices, dtype=torch.int64)
        video, region = self._video[index], self._region[index]
        redacted = self._redaction.redact(video, region)
        public = PublicView(redacted.permute(0, 4, 1, 2, 3), region, self._label[index], index)
        return TwoViews(video.permute(0, 4, 1, 2, 3), public)

    @property
    def names(self) -> Sequence[str]:
        """What the records are called."""
        return self._names
