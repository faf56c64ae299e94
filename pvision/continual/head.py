"""A classifier whose outputs grow with the classes of a stream."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pvision.checks import positive_int
from pvision.errors import ConfigError, DataError

__all__ = ["IncrementalHead"]


class IncrementalHead(nn.Module):
    """One linear layer for the new classes of each experience; the logits of all of them side by side.

    The weights of earlier classes are parameters of their own, so growing never touches them, and a method can freeze
    or scale them apart. A state dict tells how the head grew and what of it is trained; loading it grows a head alike.

    Args:
        feature_dim: the size of a feature vector.

    Attributes:
        classes: the label of each column, in the order in which the classes came.
        sizes: how many classes each growth brought.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = positive_int("feature_dim", feature_dim)
        self.layers = nn.ModuleList()
        self.sizes: list[int] = []
        self.classes: list[int] = []
        self.register_buffer("_like", torch.empty(0), persistent=False)  # knows device and type while there is no layer

    def grow(self, classes: Sequence[int]) -> None:
        """Add outputs for new classes, freshly initialised; nothing happens where there are none.

        Raises:
            ConfigError: if a class is there already.
        """
        known = sorted(set(classes) & set(self.classes))
        if known or len(set(classes)) != len(classes):
            raise ConfigError(f"classes must be new to the head, but {list(classes)} came and {known} are known.")
        if not classes:
            return
        self.layers.append(self.new_layer(len(classes)).to(self.get_buffer("_like")))
        self.sizes.append(len(classes))
        self.classes.extend(int(label) for label in classes)

    def reset_parameters(self) -> None:
        """Draw everything anew; the classes stay."""
        for layer in self.layers:
            layer.reset_parameters()  # type: ignore[operator]  # every kind of layer has it

    def new_layer(self, classes: int) -> nn.Module:
        """Return the outputs for so many new classes."""
        return nn.Linear(self.feature_dim, classes)

    def classes_of_layers(self) -> list[tuple[int, ...]]:
        """Return the classes of each layer."""
        ends = list(accumulate(self.sizes, initial=0))
        return [tuple(self.classes[start:end]) for start, end in pairwise(ends)]

    def train_only(self, classes: Iterable[int]) -> None:
        """Let exactly the layers that have one of these classes require gradients."""
        wanted = set(classes)
        for layer, known in zip(self.layers, self.classes_of_layers(), strict=True):
            layer.requires_grad_(not wanted.isdisjoint(known))

    def grow_like(self, sizes: Sequence[int], classes: Sequence[int]) -> None:
        """Grow as another head did, before its weights are loaded; nothing happens where this one already has.

        Raises:
            ConfigError: if this head grew in another way.
        """
        if list(sizes[: len(self.sizes)]) != self.sizes or list(classes[: len(self.classes)]) != self.classes:
            raise ConfigError(
                f"The head has the classes {self.classes}, so it cannot take weights for {list(classes)}. Load them "
                "into a new one."
            )
        start = len(self.classes)
        for size in sizes[len(self.sizes) :]:
            self.grow(classes[start : start + size])
            start += size

    def get_extra_state(self) -> dict[str, Any]:
        """Return how the head grew, and which layers are trained."""
        trained = [all(one.requires_grad for one in layer.parameters()) for layer in self.layers]
        return {"sizes": list(self.sizes), "classes": list(self.classes), "trained": trained}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Grow as the head did whose weights are loaded next."""
        self.grow_like(state["sizes"], state["classes"])
        for layer, trained in zip(self.layers, state["trained"], strict=False):
            layer.requires_grad_(trained)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``(B, len(classes))`` of features ``(B, feature_dim)``."""
        if not self.layers:
            return features.new_zeros(len(features), 0)
        return torch.cat([layer(features) for layer in self.layers], dim=1)

    def columns(self, labels: Tensor) -> Tensor:
        """Return in which column each label ``(B,)`` stands.

        Raises:
            DataError: if a label's class is not there yet.
        """
        table = torch.tensor(self.classes, device=labels.device, dtype=labels.dtype)
        matches = labels[:, None] == table[None, :]
        if not bool(matches.any(dim=1).all()):
            unknown = sorted({int(label) for label in labels.tolist()} - set(self.classes))
            raise DataError(
                f"Labels {unknown} came, but the head knows {self.classes} only. Grow it before training on them."
            )
        return matches.int().argmax(dim=1)

    def labels(self, columns: Tensor) -> Tensor:
        """Return the label of each column number ``(B,)``."""
        return torch.tensor(self.classes, device=columns.device)[columns]

    def predictions(self, logits: Tensor, among: Iterable[int] | None = None) -> Tensor:
        """Return the label of the largest logit in each row, int64 ``(B,)``; -1 where no class is known yet.

        Args:
            logits: as `forward` returns them.
            among: the classes to choose from; None for all.
        """
        allowed = set(self.classes) if among is None else set(among)
        places = [column for column, label in enumerate(self.classes) if label in allowed]
        if not places:
            return logits.new_full((len(logits),), -1, dtype=torch.int64)
        chosen = torch.tensor(places, device=logits.device)
        return self.labels(chosen[logits[:, chosen].argmax(dim=1)])
