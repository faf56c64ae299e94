"""FashionMNISTStream: pictures of clothes, 28 x 28 pixels; a part of them is shipped with pvision.

[0] Xiao, Rasul, Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms, 2017,
    arXiv:1708.07747. MIT licence, copyright 2017 Zalando SE.
"""

import gzip
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pvision.continual.replay import ReplayMemory
from pvision.continual.scenarios import ForgetRequest, Scenario
from pvision.datamodules.streams._download import fetch_file
from pvision.datamodules.streams.idx import read_idx
from pvision.datamodules.streams.preprocessing import Preprocessing
from pvision.datamodules.streams.shipped import load_shipped
from pvision.datamodules.streams.sources import ArrayImages
from pvision.datamodules.streams.task_stream import TaskStream
from pvision.errors import ConfigError, DataError

__all__ = ["FashionMNISTStream"]

_SITE = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
_HEADERS = 4096  # bytes by which a compressed file may be longer than what it holds
# Of what the compressed files hold, in bytes and SHA-256: the same arrays are published in more than one compression.
_FILES = {
    "train-images-idx3-ubyte": (47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    "train-labels-idx1-ubyte": (60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte": (7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    "t10k-labels-idx1-ubyte": (10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}


class FashionMNISTStream(TaskStream):
    """Pictures of ten kinds of clothes [0], 28 x 28 pixels, one channel.

    Without ``root`` it is the part that is shipped: 500 training and 100 test images of each class, drawn once. With
    ``root`` it is the whole set of 60,000 and 10,000 images. The other arguments are those of `TaskStream`.

    Args:
        scenario: divides the classes into experiences.
        root: the folder of the four official files, ``train-images-idx3-ubyte`` and so on, with or without ``.gz``;
            None for the shipped part.
        download: fetch the files that ``root`` lacks (30 MB). Their SHA-256 is compared before they get their names.

    Raises:
        ConfigError: if an argument is out of range, or ``download`` comes without ``root``.
    """

    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )

    def __init__(
        self,
        *,
        scenario: Scenario,
        root: str | None = None,
        download: bool = False,
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
        preprocessing: Preprocessing | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            scenario=scenario,
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
            preprocessing=preprocessing,
            seed=seed,
        )
        if download and root is None:
            raise ConfigError(
                "data.download needs data.root, the folder to put Fashion-MNIST into. Set both, or neither."
            )
        self.root = None if root is None else Path(root).expanduser()
        self.download = bool(download)

    def prepare_data(self) -> None:
        """Download what is missing, where that was asked for; Lightning calls it on one process of each machine.

        Raises:
            DataError: if a file cannot be had, or is another one.
        """
        if self.root is None or not self.download:
            return
        for name in _FILES:
            if _present(self.root, name) is None:
                _fetch(name, self.root)

    def prepare_sources(self) -> None:
        """Read all images into memory.

        Raises:
            DataError: if a file is missing or damaged.
        """
        if self.root is None:
            train, test = load_shipped("fashion_mnist", "train"), load_shipped("fashion_mnist", "test")
        else:
            self.prepare_data()
            train, test = _load(self.root, "train"), _load(self.root, "t10k")
        self.train_source = _source(*train, prefix="train")
        self.test_source = _source(*test, prefix="test")

    def identity(self) -> Mapping[str, object]:
        """Return whether it is the whole set."""
        return {"part": "shipped" if self.root is None else "all"}


def _source(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], *, prefix: str) -> ArrayImages:
    return ArrayImages(images[:, None], labels, prefix=prefix)


def _present(root: Path, name: str) -> Path | None:
    return next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)


def _load(root: Path, prefix: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    arrays = []
    for what, dims in (("images", 3), ("labels", 1)):
        name = f"{prefix}-{what}-idx{dims}-ubyte"
        path = _present(root, name)
        if path is None:
            raise DataError(
                f"{root} holds no {name}.gz. Put the four files of Fashion-MNIST there, set data.download: true, or "
                "leave data.root out for the part that is shipped."
            )
        arrays.append(read_idx(path, dims=dims))
    return arrays[0], arrays[1]


def _fetch(name: str, root: Path) -> None:
    url = f"{_SITE}{name}.gz"
    fetch_file(url, root / f"{name}.gz", most=_FILES[name][0] + _HEADERS, check=lambda path: _check(path, name, url))


def _check(path: Path, name: str, url: str) -> None:
    size, expected = _FILES[name]
    try:
        with gzip.open(path) as file:
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{url} is no whole gzip file ({error}). Try again; nothing of it was used.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise DataError(f"{url} holds data of SHA-256 {found}, but {expected} is expected. Nothing of it was used.")
