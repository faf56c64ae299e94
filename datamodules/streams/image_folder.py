"""A user's own images: folders named after classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pvision.checks import open_unit, positive_int
from pvision.continual.replay import ReplayMemory
from pvision.continual.scenarios import ForgetRequest, Scenario
from pvision.datamodules.streams._image_lists import (
    ImageSplits,
    class_folders,
    draw_test,
    folder_rows,
    sources_of,
    two_splits,
)
from pvision.datamodules.streams.preprocessing import PILOT_224, Preprocessing
from pvision.datamodules.streams.task_stream import TaskStream
from pvision.errors import DataError

__all__ = ["ImageFolderStream"]


class ImageFolderStream(TaskStream):
    """Your own images, in one of three layouts.

    - ``root/train/CLASS/IMAGE`` and ``root/test/CLASS/IMAGE``.
    - ``root/CLASS/IMAGE``: a part of each class is drawn for the test.
    - ``root/DOMAIN/CLASS/IMAGE``, with ``domains``: a part of each class of each domain is drawn for the test. Go
      through the domains with a `DomainIncremental` scenario.

    Labels are the names of the class folders in alphabetical order. Files that are no images by their suffix, and
    hidden ones, are left out. Images of one person, or of one recording, under several names may come on both sides of
    a drawn split: then make ``train`` and ``test`` folders yourself.

    Other arguments are those of `TaskStream`.

    Args:
        root: the folder.
        scenario: divides the images into experiences.
        domains: whether the folders in ``root`` are domains.
        test_fraction: part of each class that is drawn for the test, where there are no split folders.
        split_seed: draws it; the same files and the same seed give the same split on every machine.

    Raises:
        ConfigError: if a setting is out of its range.

    Example:
        ``ImageFolderStream(root="photos", scenario=ClassIncremental(experiences=5))``
    """

    def __init__(
        self,
        *,
        root: str,
        scenario: Scenario,
        domains: bool = False,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        preprocessing: Preprocessing | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        val_fraction: float = 0.0,
        training_set: Literal["current", "seen"] = "current",
        evaluate: Literal["seen", "all"] | None = None,
        online: bool = False,
        replay: ReplayMemory | None = None,
        replay_batch_size: int | None = None,
        forget: Sequence[ForgetRequest] = (),
        seed: int | None = None,
    ) -> None:
        super().__init__(
            scenario=scenario,
            preprocessing=preprocessing,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            val_fraction=val_fraction,
            training_set=training_set,
            evaluate=evaluate,
            online=online,
            replay=replay,
            replay_batch_size=replay_batch_size,
            forget=forget,
            seed=seed,
        )
        self._root, self._domains = Path(root).expanduser(), bool(domains)
        self._test_fraction = open_unit("data.test_fraction", test_fraction)
        self._split_seed = positive_int("data.split_seed", split_seed, low=0) % 2**32

    def default_preprocessing(self) -> Preprocessing:
        """Return random parts of the image at 224 pixels, values in [0, 1]."""
        return PILOT_224

    def prepare_sources(self) -> None:
        """List the images.

        Raises:
            DataError: if the folder is missing or in none of the layouts.
        """
        if not self._root.is_dir():
            raise DataError(
                f"data.root {self._root} is no folder. Expected are ROOT/CLASS/IMAGE or ROOT/train/CLASS/IMAGE."
            )
        self.class_names, self.train_source, self.test_source = sources_of(self._listed())

    def identity(self) -> Mapping[str, object]:
        """Return what decides on which images the stream trains."""
        return {"domains": self._domains, "test_fraction": self._test_fraction, "split_seed": self._split_seed}

    def _listed(self) -> ImageSplits:
        root = self._root
        if self._domains:
            rows = [row for path in class_folders(root) for row in folder_rows(root, path, domain=path.name)]
            return draw_test(root, rows, fraction=self._test_fraction, seed=self._split_seed)
        if (root / "train").is_dir() and (root / "test").is_dir():
            return two_splits(root)
        alone = [name for name in ("train", "test") if (root / name).is_dir()]
        if alone:
            raise DataError(
                f"{root} has a folder {alone[0]!r} without its counterpart. Expected are both train and test, or class "
                "folders only."
            )
        return draw_test(root, folder_rows(root, root), fraction=self._test_fraction, seed=self._split_seed)
