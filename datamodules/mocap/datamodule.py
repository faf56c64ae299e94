"""MocapActions: 15 actions of real motion capture, rendered, with exact body-part masks."""

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pvision.checks import one_of, positive_int
from pvision.datamodules.mocap.body import CLASS_NAMES, REGIONS
from pvision.datamodules.mocap.storage import Clips, load_clips, read_manifest
from pvision.datamodules.records import PublicOnly, Records, TensorRecords
from pvision.datamodules.video import VideoDataModule
from pvision.errors import ConfigError
from pvision.privacy import PublicView, Redaction, TwoViews

__all__ = ["MocapActions", "split_test"]

_ROUND = 3 * len(CLASS_NAMES)
_AT_ONCE = 256  # clips that are marked at a time: torch indexes with 4 bytes a pixel


_REMEDIES = {
    "subject": "MocapActions comes from recordings that do not name their performers, and one may have done them all. "
    "Use unit 'video', which is a performance, or 'clip'."
}


class MocapActions(VideoDataModule):
    """15 actions of real motion capture, rendered to small clips with exact body-part masks.

    The shipped set has 6,000 training and 1,200 test clips of 8 frames of 48 x 48 pixels, and 2,400 synthetic clips of
    random motions, which belong to nobody, for `pretraining_set`. Test clips are seen from other camera sectors than
    training clips and begin in another part of the performance. There is one performance of each action, so results
    speak of new views, not of new people: docs/data_mocap.md says exactly what the split tests.

    The unit ``video`` is a performance, so a class: there are 15. Who performed is not known: no unit ``subject``.

    Args:
        redaction: which side of the region is sensitive, and how it is removed.
        region: the part of the body that the masks mark: ``"person"``, ``"upper_body"``, ``"arms"``, ``"hands"``,
            ``"head"`` or ``"legs"``.
        root: folder of a set made by ``python -m pvision.datamodules.mocap``; the shipped one if None.
        train_clips: use only so many training clips, the same each time and balanced over the classes; all if None.
        eval_clips: use only so many clips for validation and so many for test, likewise.
        pretraining_clips: use only so many synthetic clips, likewise; 0 for none.
        batch_size: clips in a batch of un-noised training, of all processes together.
        eval_batch_size: clips that a process evaluates at a time.
        num_workers: loader processes; the clips lie in memory, so 0 is usually fastest.
        shift: in un-noised training, roll each batch by up to so many pixels in both directions; 0 leaves it.

    Raises:
        ConfigError: if an argument is outside its range.

    Guarantee:
        Clips are redacted as they lie on disk, before they are rolled. The synthetic clips share no motion with the
        others, but they show the same body in the same kind of scene.
    """

    class_names = CLASS_NAMES

    def __init__(
        self,
        *,
        redaction: Redaction,
        region: str = "upper_body",
        root: str | None = None,
        train_clips: int | None = None,
        eval_clips: int | None = None,
        pretraining_clips: int | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 200,
        num_workers: int = 0,
        shift: int = 4,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers)
        self.redaction = redaction
        self.region = one_of("data.region", region, REGIONS)
        self.root = root
        self.train_clips = _optional("data.train_clips", train_clips, low=1)
        self.eval_clips = _optional("data.eval_clips", eval_clips, low=1)
        self.pretraining_clips = _optional("data.pretraining_clips", pretraining_clips, low=0)
        self.shift = positive_int("data.shift", shift, low=0)

    def prepare_sets(self) -> None:
        """Load the clips and find their sensitive regions.

        Raises:
            ConfigError: if more clips are wanted than the set has.
            DataError: if a file of the set is missing or damaged.
        """
        available = read_manifest(self.root).clips
        count = _wanted("data.train_clips", self.train_clips, available.get("train", 0))
        self.train_set = self._records("train", load_clips("train", self.root, limit=count))
        self._prepare_test(available.get("test", 0))
        count = _wanted("data.pretraining_clips", self.pretraining_clips, available.get("synthetic", 0))
        if count:
            self.pretraining_set = self._records("synthetic", load_clips("synthetic", self.root, limit=count))

    def public_loader(self, positions: Sequence[int] | None = None) -> DataLoader[PublicView]:
        """Return shuffled batches of the training records' redacted view, rolled by up to ``shift`` pixels.

        Args:
            positions: of the records to take; None for all.
        """
        records = PublicOnly(self.train_set)
        return self._loader(_RolledPublic(records, self.shift), self._shuffled(records, positions))

    def full_loader(self) -> DataLoader[TwoViews]:
        """Return shuffled batches of both views of the training records, rolled alike."""
        return self._loader(_Rolled(self.train_set, self.shift), self._shuffled(self.train_set))

    def identity(self) -> dict[str, object]:
        """Return the region, its redaction, and from which seed and in which size the set was rendered."""
        manifest = read_manifest(self.root)
        return {
            "region": self.region,
            "redaction": asdict(self.redaction),
            "set": [manifest.seed, manifest.frames, manifest.size],
        }

    def _prepare_test(self, available: int) -> None:
        validation, test = split_test(available)
        if self.eval_clips is not None:
            most = min(len(validation), len(test))
            count = _wanted("data.eval_clips", self.eval_clips, most)
            validation, test = validation[:count], test[:count]
        # Both lists go up, so their last entries bound what must be loaded.
        needed = max([*validation[-1:], *test[-1:]], default=-1) + 1
        clips = load_clips("test", self.root, limit=needed)
        self.val_set = self._records("test", clips, validation)
        self.test_set = self._records("test", clips, test)

    def _records(self, split: str, clips: Clips, positions: Sequence[int] | None = None) -> TensorRecords:
        marked = torch.zeros(256, dtype=torch.bool)
        marked[list(REGIONS[self.region])] = True
        video, parts, label = clips if positions is None else (part[list(positions)] for part in clips)
        mask = torch.empty(parts.shape, dtype=torch.bool)
        for start in range(0, len(parts), _AT_ONCE):
            mask[start : start + _AT_ONCE] = marked[parts[start : start + _AT_ONCE].int()]
        names = [f"{split}/{position}" for position in (range(len(label)) if positions is None else positions)]
        motion = "program {}".format if split == "synthetic" else CLASS_NAMES.__getitem__
        videos = [motion(value) for value in label.tolist()]
        return TensorRecords(video, mask, label, self.redaction, names=names, videos=videos, remedies=_REMEDIES)


def split_test(count: int) -> tuple[list[int], list[int]]:
    """Divide the test clips into a third for validation and the rest for the reported test.

    Labels go round in a set, so of each three rounds the first serves validation: both parts are balanced.

    Args:
        count: how many test clips there are.

    Returns:
        The positions for validation and those for the test, both in order.
    """
    first = [position for position in range(count) if position % _ROUND < len(CLASS_NAMES)]
    validation = first[: count // 3]
    chosen = set(validation)
    return validation, [position for position in range(count) if position not in chosen]


class _Rolled(Dataset[TwoViews]):
    """Batches of clips in both views, each batch rolled by a random step, around the edges."""

    def __init__(self, records: Records, shift: int) -> None:
        self._records, self._shift = records, shift

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, indices: Sequence[int]) -> TwoViews:  # batches, not items
        views = self._records[indices]
        step = _step(self._shift)
        return TwoViews(_roll(views.full, step), _roll_public(views.public, step))


class _RolledPublic(Dataset[PublicView]):
    """Batches of redacted clips, each rolled by a random step, around the edges."""

    def __init__(self, records: PublicOnly, shift: int) -> None:
        self._records, self._shift = records, shift

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, indices: Sequence[int]) -> PublicView:  # batches, not items
        return _roll_public(self._records[indices], _step(self._shift))


def _step(shift: int) -> list[int]:
    return torch.randint(-shift, shift + 1, (2,)).tolist()


def _roll_public(view: PublicView, step: list[int]) -> PublicView:
    return view._replace(video=_roll(view.video, step), mask=_roll(view.mask, step))


def _roll(values: Tensor, step: list[int]) -> Tensor:
    return values.roll(step, (-2, -1))


def _optional(name: str, value: int | None, *, low: int) -> int | None:
    return None if value is None else positive_int(name, value, low=low)


def _wanted(name: str, value: int | None, available: int) -> int:
    if value is not None and value > available:
        raise ConfigError(f"{name} is {value}, but the set has {available} such clips. Lower it, or set it to null.")
    return available if value is None else value
