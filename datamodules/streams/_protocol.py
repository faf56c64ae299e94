"""What a named protocol consists of."""

from dataclasses import dataclass

from pvision.continual.scenarios import ClassIncremental, DomainIncremental, Scenario
from pvision.datamodules.streams.preprocessing import Preprocessing
from pvision.errors import ConfigError

__all__ = ["Protocol"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One protocol.

    Attributes:
        name: ``DATA_SOURCE_SETTING``.
        data: the data set, as `TaskStream` subclasses name theirs.
        classes: how many classes the data set has.
        increments: how many classes each experience brings; empty where the stream goes through domains.
        domains: the domains in their order; empty where it goes through classes.
        class_order_seed: draws the order of the classes; None for the order of the labels, or of ``class_order``.
        class_order: the labels in the order in which they come; empty for that of the seed.
        split: how training and test images are told apart, as the data set's stream names it.
        preprocessing: crop, augmentation and normalisation.
        backbone: the network that the published figures start from.
        source: where all this was read.
        verified: whether all of it was read there; if not, ``note`` says what was not.
        note: what deviates from the source, or is not verified; empty if nothing.
    """

    name: str
    data: str
    classes: int
    increments: tuple[int, ...] = ()
    domains: tuple[str, ...] = ()
    class_order_seed: int | None = None
    class_order: tuple[int, ...] = ()
    split: str = "official"
    preprocessing: Preprocessing
    backbone: str
    source: str
    verified: bool = True
    note: str = ""

    @property
    def base_classes(self) -> int:
        """How many classes the first experience brings."""
        return self.increments[0] if self.increments else self.classes

    @property
    def experiences(self) -> int:
        """How many experiences the stream has."""
        return len(self.increments or self.domains)

    def scenario(self, *, class_order_seed: int | None = None) -> Scenario:
        """Return what divides the data set into experiences.

        Args:
            class_order_seed: draws another order of the classes than the protocol's.

        Raises:
            ConfigError: if it is given, but the stream goes through domains.
        """
        if self.domains:
            if class_order_seed is not None:
                raise ConfigError(
                    f"The protocol {self.name} goes through domains, so there is no order of classes to draw. Leave "
                    "data.class_order_seed out."
                )
            return DomainIncremental(order=self.domains)
        if class_order_seed is not None or not self.class_order:
            seed = self.class_order_seed if class_order_seed is None else class_order_seed
            return ClassIncremental(increments=self.increments, class_order_seed=seed)
        return ClassIncremental(increments=self.increments, class_order=self.class_order)
