"""The base of all video data modules: which loader sees which view."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from pvision.checks import positive_int
from pvision.datamodules.records import PublicOnly, Records
from pvision.errors import DataError
from pvision.privacy import PublicView, TwoViews

__all__ = ["VideoDataModule"]


@runtime_checkable
class ChoosesLoaders(Protocol):
    """A LightningModule that says which view of the training records it may see now."""

    def train_loader(self, data: "VideoDataModule") -> Iterable[Any]:
        """Return the loader of the current training phase."""


class VideoDataModule(pl.LightningDataModule):
    """Clips with masks, from which loaders of redacted views and of both views are made.

    A subclass fills ``train_set``, ``val_set``, ``test_set`` (and ``pretraining_set``, if it has clips to which the
    guarantee need not extend) in `prepare_sets`. Training loaders are chosen by the LightningModule, which knows the
    phase and the sampler that its accountant assumes; a module that does not choose gets both views, shuffled.

    Args:
        batch_size: clips in a batch of un-noised training; the private batches come from the module's sampler.
        eval_batch_size: clips in a batch of evaluation.
        num_workers: loader processes; 0 loads in the main process.

    Attributes:
        class_names: the names of the classes, in label order.
    """

    class_names: Sequence[str] = ()
    train_set: Records
    val_set: Records
    test_set: Records
    pretraining_set: Records | None = None

    def __init__(self, *, batch_size: int = 64, eval_batch_size: int = 200, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size = positive_int("data.batch_size", batch_size)
        self.eval_batch_size = positive_int("data.eval_batch_size", eval_batch_size)
        self.num_workers = positive_int("data.num_workers", num_workers, low=0)
        self._ready = False

    @abstractmethod
    def prepare_sets(self) -> None:
        """Fill ``class_names`` and the sets; called once, before the first loader."""

    @property
    def num_classes(self) -> int:
        """How many classes the labels have."""
        return len(self.class_names)

    def setup(self, stage: str | None = None) -> None:
        """Load the data, once, whatever the stage.

        Raises:
            DataError: if the data is missing, damaged or empty.
        """
        if self._ready:
            return
        self.prepare_sets()
        if not len(self.train_set):
            raise DataError(f"{type(self).__name__} found no training clips. Look at its path and split settings.")
        self._ready = True

    def public_loader(self) -> DataLoader[PublicView]:
        """Return shuffled batches of the training records' redacted view."""
        records = PublicOnly(self.train_set)
        return self._loader(records, BatchSampler(RandomSampler(range(len(records))), self.batch_size, drop_last=False))

    def two_view_loader(self, batches: Iterable[Sequence[int]] | None = None) -> DataLoader[TwoViews]:
        """Return both views of the training records.

        Args:
            batches: positions of each batch, as a mechanism's sampler draws them; all in order if None.
        """
        return self._loader(self.train_set, batches if batches is not None else self._in_order(self.train_set))

    def full_loader(self) -> DataLoader[TwoViews]:
        """Return shuffled batches of both views of the training records, for training without any privacy."""
        batches = BatchSampler(RandomSampler(range(len(self.train_set))), self.batch_size, drop_last=False)
        return self._loader(self.train_set, batches)

    def pretraining_loader(self) -> DataLoader[TwoViews] | None:
        """Return both views of clips outside the guarantee (synthetic, consented), None if there are none."""
        if self.pretraining_set is None:
            return None
        return self._loader(self.pretraining_set, self._in_order(self.pretraining_set))

    def train_dataloader(self) -> Iterable[Any]:
        """Return what the LightningModule asks for, or both views, shuffled."""
        module = self.trainer.lightning_module if self.trainer else None
        if isinstance(module, ChoosesLoaders):
            return module.train_loader(self)
        return self.full_loader()

    def val_dataloader(self) -> DataLoader[TwoViews]:
        """Return both views of the validation records."""
        return self._loader(self.val_set, self._in_order(self.val_set))

    def test_dataloader(self) -> DataLoader[TwoViews]:
        """Return both views of the test records."""
        return self._loader(self.test_set, self._in_order(self.test_set))

    def predict_dataloader(self) -> DataLoader[TwoViews]:
        """Return both views of the test records."""
        return self.test_dataloader()

    def _in_order(self, records: Records) -> BatchSampler:
        return BatchSampler(SequentialSampler(records), self.eval_batch_size, drop_last=False)

    def _loader(self, records: Any, batches: Iterable[Sequence[int]]) -> DataLoader[Any]:
        # batch_size=None: the sampler yields whole lists of positions and the data set answers with whole batches.
        return DataLoader(records, sampler=batches, batch_size=None, num_workers=self.num_workers)
