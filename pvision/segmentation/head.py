"""A pixel classifier whose outputs grow with the classes of a stream."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from pvision.checks import positive_int
from pvision.continual.masks import BACKGROUND, VOID
from pvision.errors import ConfigError

__all__ = ["MaskHead"]


class MaskHead(nn.Module):
    """One 1 x 1 convolution for the classes of each experience; their logits side by side, background first.

    The first convolution has the background's channel before those of its classes. The weights of earlier classes are
    parameters of their own, so that growing never touches them and a method can freeze or scale them apart.

    Args:
        feature_dim: channels of the feature map.
        first: channels that each convolution has before those of its classes: 1 gives each experience one of its own,
            as BARM's residuals need; 0 gives one to the first experience only.

    Attributes:
        layers: the convolutions.
        groups: the classes that each of them brought.
    """

    def __init__(self, feature_dim: int, *, first: int = 0) -> None:
        super().__init__()
        self.feature_dim = positive_int("feature_dim", feature_dim)
        self.first = positive_int("first", first, low=0)
        self.layers = nn.ModuleList()
        self.groups: list[tuple[int, ...]] = []
        self.register_buffer("_like", torch.empty(0), persistent=False)  # knows device and type while there is no layer

    @property
    def classes(self) -> list[int]:
        """The labels of all classes, without the background, in the order in which they came."""
        return [label for group in self.groups for label in group]

    def grow(self, classes: Sequence[int]) -> None:
        """Add outputs for new classes.

        Raises:
            ConfigError: if there are none, one is known already, or one is no class.
        """
        wrong = [c for c in classes if c in self.classes or not BACKGROUND < c < VOID]
        if wrong or not classes or len(set(classes)) != len(classes):
            raise ConfigError(
                f"The classes of an experience must be new ones from 1 to {VOID - 1}, each once, but {list(classes)} "
                f"came and {self.classes} are known."
            )
        self.layers.append(self.new_layer(len(classes)).to(self.get_buffer("_like")))
        self.groups.append(tuple(int(label) for label in classes))

    def new_layer(self, classes: int) -> nn.Module:
        """Return the outputs for so many new classes, and what stands before them."""
        own = 1 if not self.layers else self.first
        return nn.Conv2d(self.feature_dim, own + classes, 1)

    def columns(self) -> dict[int, int]:
        """Return the column of each label in `logits`; the background's is 0."""
        return {BACKGROUND: 0, **{label: place for place, label in enumerate(self.classes, start=1)}}

    def spans(self) -> list[tuple[int, int]]:
        """Return first and last but one column of each experience's classes; the background's belongs to none."""
        ends = accumulate((len(group) for group in self.groups), initial=1)
        return list(pairwise(ends))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``(B, 1 + classes, h, w)``, for features ``(B, feature_dim, h, w)`` and ``first=0``."""
        return torch.cat([layer(features) for layer in self.layers], dim=1)

    def grow_like(self, groups: Iterable[Sequence[int]]) -> None:
        """Grow as another head did, before its weights are loaded.

        Raises:
            ConfigError: if this head grew in another way.
        """
        wanted = [tuple(group) for group in groups]
        if wanted[: len(self.groups)] != self.groups:
            raise ConfigError(
                f"The head has the classes {self.groups}, but a state with {wanted} came. Load it into a fresh model."
            )
        for group in wanted[len(self.groups) :]:
            self.grow(group)
