"""The base of streams over published data sets, whose settings a named protocol can fix."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from pvision.checks import one_of
from pvision.continual.replay import ReplayMemory
from pvision.continual.scenarios import ForgetRequest, Scenario
from pvision.datamodules.streams.preprocessing import Preprocessing
from pvision.datamodules.streams.protocols import Protocol, find_protocol, protocols_of
from pvision.datamodules.streams.sources import ImageSource
from pvision.datamodules.streams.task_stream import TaskStream
from pvision.errors import ConfigError, DataError

__all__ = ["ProtocolStream", "Sources"]


class Sources(NamedTuple):
    """What a data set consists of.

    Attributes:
        class_names: in the order of the labels.
        train: the training images.
        test: the test images.
    """

    class_names: Sequence[str]
    train: ImageSource
    test: ImageSource


class ProtocolStream(TaskStream):
    """A stream over a published data set; a subclass says where its images lie.

    Give ``protocol``, which fixes the scenario, the split and the preprocessing as the field's figures were measured,
    or give ``scenario`` and decide on all else yourself. What a protocol fixes cannot be given beside it, except for
    the seed of the class order: figures are often means over several orders.

    The other arguments are those of `TaskStream`.

    Args:
        root: the folder of the data set.
        protocol: the name of a protocol of this data set.
        class_order_seed: another class order than the protocol's.
        scenario: divides the data set into experiences, where there is no protocol.
        split: how training and test images are told apart; None for the protocol's, else the first that
            the data set has.
        preprocessing: crop, augmentation and normalisation; None for the protocol's, else what fits the data set.

    Raises:
        ConfigError: if a setting is out of its range, contradicts the protocol, or neither a protocol nor a scenario
            is given.
    """

    data: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ("official",)

    def __init__(
        self,
        *,
        root: str,
        protocol: str | None = None,
        class_order_seed: int | None = None,
        scenario: Scenario | None = None,
        split: str | None = None,
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
        self._protocol = None if protocol is None else find_protocol(protocol, data=self.data)
        if self._protocol is not None:
            _refuse_beside(self._protocol, scenario=scenario, split=split, preprocessing=preprocessing)
            scenario = self._protocol.scenario(class_order_seed=class_order_seed)
            split, preprocessing = self._protocol.split, self._protocol.preprocessing
        if scenario is None:
            names = ", ".join(known.name for known in protocols_of(self.data))
            raise ConfigError(
                f"{type(self).__name__} needs data.scenario{f', or data.protocol: one of {names}' if names else ''}."
            )
        if self._protocol is None and class_order_seed is not None:
            raise ConfigError(
                "data.class_order_seed goes with data.protocol. Give class_order_seed to data.scenario instead."
            )
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
        self.protocol = protocol or ""
        self.root = Path(root).expanduser()
        self.split = one_of("data.split", split or self.splits[0], self.splits)

    @abstractmethod
    def read_sources(self) -> Sources:
        """Return the classes and the images.

        Raises:
            DataError: if the data is not in its official layout.
        """

    def prepare_sources(self) -> None:
        """Find the images, and compare the number of classes with the protocol's.

        Raises:
            DataError: if the data is not in its official layout, or has another number of classes.
        """
        self.class_names, self.train_source, self.test_source = self.read_sources()
        if self._protocol is not None and len(self.class_names) != self._protocol.classes:
            raise DataError(
                f"The protocol {self.protocol} has {self._protocol.classes} classes, but {self.root} holds "
                f"{len(self.class_names)}. Complete the data, or give data.scenario instead of data.protocol."
            )

    def identity(self) -> Mapping[str, object]:
        """Return the split, which decides on which images the stream trains."""
        return {"split": self.split}


def _refuse_beside(protocol: Protocol, **given: object) -> None:
    """Raise `ConfigError` if something is given that the protocol fixes."""
    for name, value in given.items():
        if value is not None and value != getattr(protocol, name, None):
            raise ConfigError(
                f"data.{name} and data.protocol {protocol.name!r} are both given, but the protocol fixes it. Leave out "
                "one of the two."
            )
