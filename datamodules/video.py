"""The base of all video data modules: which loader sees which view."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from pvision.checks import positive_int
from pvision.datamodules.batches import EvaluationBatches, Share, ShuffledBatches
from pvision.datamodules.records import PublicOnly, Records
from pvision.errors import ConfigError, DataError
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

    Several processes share every batch of un-noised training, and the clips of evaluation, none of which is seen twice;
    a mechanism's batches and those of `pretraining_loader` and `public_in_order_loader` come to each process as they
    are. What a subclass downloads or renders belongs into Lightning's ``prepare_data``, which runs on one process of
    each machine while the others wait.

    Args:
        batch_size: clips in a batch of un-noised training, of all processes together; the private batches come from the
            module's sampler.
        eval_batch_size: clips that a process evaluates at a time.
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
        self._ready = self._agreed = False

    @abstractmethod
    def prepare_sets(self) -> None:
        """Fill ``class_names`` and the sets; called once on each process, before the first loader."""

    @property
    def num_classes(self) -> int:
        """How many classes the labels have."""
        return len(self.class_names)

    def setup(self, stage: str | None = None) -> None:
        """Load the data, once, whatever the stage.

        Raises:
            DataError: if the data is missing, damaged or empty, or processes do not find the same.
        """
        if not self._ready:
            self.prepare_sets()
            if not len(self.train_set):
                raise DataError(f"{type(self).__name__} found no training clips. Look at its path and split settings.")
            self._ready = True
        self._refuse_disagreement()

    def identity(self) -> Mapping[str, object]:
        """Return the settings that decide which pixels a record has, and which of them are hidden.

        They go into `fingerprint`: plain values only, no paths, and nothing that depends on pixels, masks or labels.
        """
        return {}

    def fingerprint(self, *, names: bool = True) -> str:
        """Return a SHA-256 by which a later run can tell whether its training set is the same.

        It covers the kind of data, the classes, the number of records, their names below the data's folder in order,
        and the settings of `identity`; so it is the same in every process, on every machine, and wherever the folder
        lies. It covers **no pixel, mask or label**: with a plain hash of them at hand, anybody could confirm a guess
        of what they are, however small ε is. Changed files under unchanged names are not noticed.

        Args:
            names: whether the records' names are covered. The hash lets whoever knows all other names confirm a guess
                of one: whether a record is there, or, where folders are named after classes, what its label is. Leave
                them out where that is what the guarantee protects, or keep the hash to yourself.

        Raises:
            ConfigError: if `setup` was not called.
        """
        if not self._ready:
            raise ConfigError(f"{type(self).__name__}.fingerprint needs the list of clips. Call setup() first.")
        content = {
            "data": type(self).__name__,
            "classes": list(self.class_names),
            "records": len(self.train_set),
            "names": _digest(list(self.train_set.names)) if names else None,
            "settings": dict(self.identity()),
        }
        return _digest(content)

    def public_loader(self, positions: Sequence[int] | None = None) -> DataLoader[PublicView]:
        """Return shuffled batches of the training records' redacted view.

        Args:
            positions: of the records to take; None for all.
        """
        records = PublicOnly(self.train_set)
        return self._loader(records, self._shuffled(records, positions))

    def public_in_order_loader(self) -> DataLoader[PublicView]:
        """Return the redacted view of all training records in order, as they lie, the same on every process."""
        return self._loader(PublicOnly(self.train_set), self._in_order(self.train_set))

    def two_view_loader(self, batches: Iterable[Sequence[int]] | None = None) -> DataLoader[TwoViews]:
        """Return both views of the training records.

        Args:
            batches: positions of each batch, as a mechanism's sampler draws them for this process; all in order, on
                every process, if None.
        """
        return self._loader(self.train_set, self._in_order(self.train_set) if batches is None else batches)

    def full_loader(self) -> DataLoader[TwoViews]:
        """Return shuffled batches of both views of the training records, for training without any privacy."""
        return self._loader(self.train_set, self._shuffled(self.train_set))

    def pretraining_loader(self) -> DataLoader[TwoViews] | None:
        """Return both views of clips outside the guarantee (synthetic, consented), None if there are none.

        They come in order, and all of them to every process.
        """
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
        """Return both views of the validation records, each on one process."""
        return self._loader(self.val_set, EvaluationBatches(self.val_set, self.eval_batch_size, self._share()))

    def test_dataloader(self) -> DataLoader[TwoViews]:
        """Return both views of the test records, each on one process."""
        return self._loader(self.test_set, EvaluationBatches(self.test_set, self.eval_batch_size, self._share()))

    def predict_dataloader(self) -> DataLoader[TwoViews]:
        """Return both views of the test records, each on one process."""
        return self.test_dataloader()

    def _share(self) -> Share:
        return Share() if self.trainer is None else Share(self.trainer.global_rank, self.trainer.world_size)

    def _shuffled(self, records: Any, positions: Sequence[int] | None = None) -> ShuffledBatches:
        share, seed = self._share(), None
        if self.trainer is not None and share.world_size > 1:
            # Every process asks for its loader at the same moment, so that all of them meet here.
            seed = self.trainer.strategy.broadcast(int(torch.empty((), dtype=torch.int64).random_()))
        return ShuffledBatches(records, self.batch_size, share, seed=seed, positions=positions)

    def _in_order(self, records: Records) -> BatchSampler:
        return BatchSampler(SequentialSampler(records), self.eval_batch_size, drop_last=False)

    def _loader(self, records: Any, batches: Iterable[Sequence[int]]) -> DataLoader[Any]:
        # batch_size=None: the sampler yields whole lists of positions and the data set answers with whole batches.
        return DataLoader(records, sampler=batches, batch_size=None, num_workers=self.num_workers)

    def _refuse_disagreement(self) -> None:
        # A collective. Whoever set up one process before there was a Trainer did not take part in it yet.
        if self._agreed or self.trainer is None or self.trainer.world_size == 1:
            return
        self._agreed = True
        mine, strategy = self.fingerprint(), self.trainer.strategy
        if not strategy.reduce_boolean_decision(strategy.broadcast(mine) == mine, all=True):
            raise DataError(
                f"The {self.trainer.world_size} processes of this run found different training clips, here "
                f"{len(self.train_set)}. Give every machine the same files and settings."
            )


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
