"""Records: data sets that give both views of any choice of clips as one batch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pvision.datamodules.unit_names import UnitNames
from pvision.errors import DataError
from pvision.privacy import PublicView, Redaction, TwoViews

__all__ = ["PublicOnly", "Records", "TensorRecords"]

_AT_ONCE = 256  # clips whose region is found at a time: pooling needs four bytes a pixel


class Records(Dataset[TwoViews], ABC):
    """A map-style data set whose items are whole batches: it is indexed by a list of positions.

    An empty list gives an empty batch of the right shape, because Poisson sampling draws such batches.

    Attributes:
        units: the video and the subject of each record, as far as the data tells.
    """

    units: UnitNames = UnitNames()

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

    @property
    @abstractmethod
    def sensitive(self) -> Tensor:
        """Which records have anything to hide: those whose redacted region is not empty, bool, ``(N,)``.

        Whatever treats these records differently makes public for each record whether its mask is empty, and so
        whether there is anybody to be seen. Nothing protects that.
        """

    def unit_names(self, unit: str) -> Sequence[str]:
        """Return for each record the name of the clip, video or subject with which it is protected.

        Args:
            unit: ``"clip"``, ``"video"`` or ``"subject"``.

        Raises:
            ConfigError: if there is no such unit.
            PrivacyError: if the data cannot tell.
        """
        return self.units.of(unit, self.names)


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
        videos: the recording that each record was cut from; None if unknown.
        subjects: the person that each record shows; None if unknown.
        remedies: for a unit that is unknown, why that is, and what to do; for the error.

    Raises:
        DataError: if these disagree in length or size.
    """

    def __init__(
        self,
        video: Tensor,
        mask: Tensor,
        label: Tensor,
        redaction: Redaction,
        *,
        names: Sequence[str] | None = None,
        videos: Sequence[str] | None = None,
        subjects: Sequence[str] | None = None,
        remedies: Mapping[str, str] | None = None,
    ) -> None:
        if video.shape[:-1] != mask.shape or len(video) != len(label):
            raise DataError(
                "video (N, T, H, W, 3), mask (N, T, H, W) and label (N,) must agree, but "
                f"{tuple(video.shape)}, {tuple(mask.shape)} and {tuple(label.shape)} came."
            )
        for argument, given in (("names", names), ("videos", videos), ("subjects", subjects)):
            if given is not None and len(given) != len(video):
                raise DataError(
                    f"{argument} must hold one name for each of {len(video)} records, but {len(given)} came."
                )
        self._video, self._label, self._redaction = video, label, redaction
        self._names = [str(position) for position in range(len(video))] if names is None else list(names)
        self.units = UnitNames(videos, subjects, remedies or {})
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

    @property
    def sensitive(self) -> Tensor:
        """Which records have anything to hide, bool, ``(N,)``; this makes mask emptiness public, see `Records`."""
        return self._region.flatten(1).any(1)
