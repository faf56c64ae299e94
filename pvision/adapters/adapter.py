"""What all adapters have in common, and what makes one: a method."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from pvision.adapters.magnitude import Magnitude
from pvision.adapters.places import Place
from pvision.errors import ConfigError

__all__ = ["ADAPTER_KINDS", "Adapter", "AdapterMethod", "Setting", "new_parameter"]

Setting = int | float | bool | str | None

# By this word a file says which class its tensors belong to. Subclasses add themselves.
ADAPTER_KINDS: dict[str, type["Adapter"]] = {}


class Adapter(nn.Module, ABC):
    """One small trainable module at one place of a frozen network.

    A subclass names itself in its class line, ``class LowRank(Adapter, kind="low_rank")``, and can be rebuilt from its
    `settings` and its tensors alone.

    Attributes:
        factor: what its output is multiplied with; 1 when it is trained. `AdaptedModel.scale` sets it.
        magnitude: a trainable number that its output is multiplied with, too, shared with the other layers of the same
            adapter, or None. `AdaptedModel.add_magnitude` sets it.
        additive: whether its output is added to the place's, so that `factor` has a meaning.
    """

    kind: ClassVar[str] = ""
    additive: ClassVar[bool] = True
    magnitude: Magnitude | None

    def __init_subclass__(cls, *, kind: str | None = None, **others: object) -> None:
        super().__init_subclass__(**others)
        if kind is not None:
            if kind in ADAPTER_KINDS and ADAPTER_KINDS[kind].__qualname__ != cls.__qualname__:
                raise ConfigError(
                    f"the adapter kind {kind!r} is taken by {ADAPTER_KINDS[kind].__name__}. Choose another."
                )
            cls.kind = kind
            ADAPTER_KINDS[kind] = cls

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.in_features, self.out_features = place.in_features, place.out_features
        self.factor = 1.0
        self.refer_to(None)

    @property
    def mergeable(self) -> bool:
        """Whether it is a change of weights now, the one that `delta_weight` gives."""
        return False

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Return what is added to the output at the place, before `multiplier`."""

    @abstractmethod
    def settings(self) -> Mapping[str, Setting]:
        """Return what, besides the place, `rebuild` needs to make an adapter whose tensors have the same shapes."""

    @classmethod
    @abstractmethod
    def rebuild(cls, place: Place, settings: Mapping[str, Setting]) -> Self:
        """Return an adapter with these settings; its tensors are then filled from a file."""

    def refer_to(self, magnitude: Magnitude | None) -> None:
        """Let this number multiply the output; it is not registered here, as it belongs to all layers together."""
        object.__setattr__(self, "magnitude", magnitude)

    @property
    def multiplier(self) -> float | Tensor:
        """What the output is multiplied with: `factor`, times the magnitude where there is one."""
        return self.factor if self.magnitude is None else self.magnitude.value * self.factor

    def contribution(self, tokens: Tensor) -> Tensor:
        """Return `forward` times `multiplier`, computed in the adapter's dtype unless autocast chooses another."""
        own = next(self.parameters()).dtype
        change: Tensor = self(tokens if tokens.dtype == own else tokens.to(own))
        return change if self.magnitude is None and self.factor == 1 else change * self.multiplier

    def delta_weight(self) -> Tensor:
        """Return the change of weights before `multiplier`, ``(out_features, in_features)``.

        Raises:
            ConfigError: if this kind of adapter is no change of weights.
        """
        raise ConfigError(
            f"a {type(self).__name__} is no change of weights, so it cannot be merged. Leave it unmerged."
        )

    def prune(self) -> int:
        """Remove what contributes nothing and return how many ranks that were; most kinds have none to remove."""
        return 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left of it after pruning."""
        return False


@runtime_checkable
class AdapterMethod(Protocol):
    """What `add_adapters` needs: the settings of a method, from which it makes one adapter a place."""

    @property
    def place_kind(self) -> str:
        """At which kind of place its adapters sit: ``linear``, ``mlp`` or ``attention``."""

    @property
    def default_targets(self) -> tuple[str, ...]:
        """Where they sit when the user does not say."""

    def build(self, place: Place, weight: Tensor) -> Adapter:
        """Return a new adapter for a place; until it is trained, the network's output is what it was.

        Args:
            place: where it will sit.
            weight: the frozen weights there, ``(out_features, in_features)``; of an MLP or an attention layer, those of
                one of its linear layers. The adapter has its device and dtype.
        """


def new_parameter(*shape: int, like: Tensor) -> nn.Parameter:
    """Return a parameter of zeros with the device and dtype of ``like``."""
    return nn.Parameter(torch.zeros(*shape, device=like.device, dtype=like.dtype))
