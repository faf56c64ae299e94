"""What CIFAR-10 and CIFAR-100 [0] have in common.

[0] Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. https://www.cs.toronto.edu/~kriz/cifar.html
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pvision.continual.replay import ReplayMemory
from pvision.continual.scenarios import ForgetRequest, Scenario
from pvision.datamodules.streams._download import fetch_archive
from pvision.datamodules.streams._image_lists import refuse_absent
from pvision.datamodules.streams._plain_pickle import read_plain_pickle
from pvision.datamodules.streams.preprocessing import Preprocessing
from pvision.datamodules.streams.protocol_stream import ProtocolStream, Sources
from pvision.datamodules.streams.sources import ArrayImages
from pvision.errors import DataError

__all__ = ["CIFARStream"]

_SITE = "https://www.cs.toronto.edu/~kriz/"
_SIDE = 32


class CIFARStream(ProtocolStream):
    """The base of both sets; a subclass names the files.

    Args:
        root: the folder that holds, or will hold, the folder of the unpacked archive.
        download: fetch the archive of the authors if that folder is not there. Its SHA-256 is compared first.
    """

    folder: ClassVar[str]
    archive: ClassVar[str]
    sha256: ClassVar[str]
    train_files: ClassVar[Sequence[str]]
    test_file: ClassVar[str]
    meta_file: ClassVar[str]
    labels_key: ClassVar[str]
    names_key: ClassVar[str]

    def __init__(
        self,
        *,
        root: str,
        download: bool = False,
        protocol: str | None = None,
        class_order_seed: int | None = None,
        scenario: Scenario | None = None,
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
            root=root,
            protocol=protocol,
            class_order_seed=class_order_seed,
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
        self._download = bool(download)

    def prepare_data(self) -> None:
        """Download the data, where that was asked for and it is not there."""
        if self._download and not (self.root / self.folder).exists():
            files = [*self.train_files, self.test_file, self.meta_file]
            fetch_archive(_SITE + self.archive, sha256=self.sha256, folder=self.root / self.folder, files=files)

    def read_sources(self) -> Sources:
        """Read all images into memory.

        Raises:
            DataError: if files are missing, damaged, or no plain data.
        """
        self.prepare_data()
        folder = self.root / self.folder
        refuse_absent(
            [folder / name for name in (*self.train_files, self.test_file, self.meta_file)],
            data=self.data,
            layout=f"ROOT/{self.folder}/ with {', '.join((*self.train_files, self.test_file, self.meta_file))}",
            site=f"{_SITE}{self.archive} (or set data.download: true)",
        )
        names = _names(read_plain_pickle(folder / self.meta_file), self.names_key, folder / self.meta_file)
        train = [_batch(folder / name, self.labels_key, len(names)) for name in self.train_files]
        images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
        test_images, test_labels = _batch(folder / self.test_file, self.labels_key, len(names))
        return Sources(
            names, ArrayImages(images, labels, prefix="train"), ArrayImages(test_images, test_labels, prefix="test")
        )


def _names(meta: dict[str, Any], key: str, path: Path) -> list[str]:
    names = meta.get(key)
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes | str) for name in names):
        raise DataError(f"{path} holds no list of names {key!r}. Take the file from the official archive.")
    return [name.decode("latin1") if isinstance(name, bytes) else name for name in names]


def _batch(path: Path, labels_key: str, classes: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the images ``(N, 3, 32, 32)`` and the labels ``(N,)`` of a file."""
    content = read_plain_pickle(path)
    data, labels = content.get("data"), content.get(labels_key)
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3 * _SIDE**2:
        raise DataError(f"{path} holds no rows of 3 x 32 x 32 bytes. Take the file from the official archive.")
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < classes for label in labels):
        raise DataError(
            f"{path} holds no list {labels_key!r} of labels from 0 to {classes - 1}. Take the file from the official "
            "archive."
        )
    if len(labels) != len(data):
        raise DataError(
            f"{path} holds {len(data)} images and {len(labels)} labels. Take the file from the official archive."
        )
    return data.reshape(-1, 3, _SIDE, _SIDE), np.array(labels, dtype=np.int64)
