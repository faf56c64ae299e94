"""CODA-Prompt: prompts as sums of components, weighted for each image by its features.

[0] Smith et al., "CODA-Prompt: COntinual Decomposed Attention-based Prompting for Rehearsal-Free Continual Learning",
    CVPR 2023, https://arxiv.org/abs/2211.13218
"""

from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.adapters.image_prefix import PrefixedNetwork
from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.data import ExperienceData
from pvision.adapters.methods.method import ContinualMethod
from pvision.adapters.places import find_places
from pvision.checks import positive_int
from pvision.continual.experience import Experience
from pvision.errors import ConfigError

__all__ = ["CODAPrompt", "PromptComponents"]

_BLOCKS = 5


class CODAPrompt(ContinualMethod):
    """Sum up a prompt for each image and layer, and let the attention of a frozen network take it as a prefix.

    An image's query q is what the network alone makes of it. In each prompted layer, a component has a prompt p, a key
    k and an attention a, and contributes with the weight α = cos(q ⊙ a, k). The first half of Σ α p are keys, the
    second values that all tokens of the image may attend to. Each experience trains components of its own, which start
    orthogonal to the older ones; those are frozen.

    Args:
        backbone: a vision transformer whose attention layers `pvision.adapters.Prefix` knows; it is frozen.
        pool: how many components there are for the whole stream, divided evenly among its experiences.
        length: half of it are keys, half values.
        blocks: the transformer blocks that are prompted, counted from 0 at the input; None for the first five, or all
            where there are fewer.
        classifier: the head's settings; by default each experience has a head of its own.

    Attributes:
        components: the components of each experience so far.

    Raises:
        ConfigError: if the backbone has no such attention layer, or a setting is out of range.

    Guarantee:
        What earlier experiences trained stays bit by bit as it was, under any optimizer.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        pool: int = 100,
        length: int = 8,
        blocks: Collection[int] | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__(backbone, classifier=Classifier(loss_over="current") if classifier is None else classifier)
        self.pool, self.length = positive_int("method.pool", pool), positive_int("method.length", length, low=2)
        if length % 2:
            raise ConfigError(f"method.length must be even, half keys and half values, but {length} came.")
        if pool > self.head.feature_dim:
            raise ConfigError(
                f"method.pool must be at most the backbone's feature_dim ({self.head.feature_dim}), so that components "
                f"can start orthogonal to each other, but {pool} came."
            )
        self.backbone = PrefixedNetwork(backbone, blocks=_first(backbone) if blocks is None else blocks)
        self.components = nn.ModuleList()

    def before_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Grow the head, freeze the components that are there, and draw those of the experience.

        Raises:
            ConfigError: if the pool has too few components for so many experiences, or the query too few entries for
                further ones to be orthogonal.
        """
        super().before_experience(experience, data)
        share = self._share(data.experiences)
        self.components.requires_grad_(False)
        older = list(self._slices())
        self._add(share).draw(older)

    def features(self, image: Tensor) -> Tensor:
        """Return the prompted features ``(B, feature_dim)`` of normalised images ``(B, C, H, W)``."""
        query = self.query(image)
        if not self.components:
            return query
        features: Tensor = self.backbone(image, self.prefixes(query))
        return features

    @torch.no_grad()
    def query(self, image: Tensor) -> Tensor:
        """Return what the network alone makes of images, ``(B, feature_dim)``; training never changes it."""
        plain: Tensor = self.backbone(image)
        return plain

    def weights(self, query: Tensor) -> Tensor:
        """Return α, ``(layers, B, components)``, for queries ``(B, feature_dim)``."""
        attention, keys = (
            torch.cat([getattr(one, name) for one in self._slices()], 1) for name in ("attention", "keys")
        )
        along = torch.einsum("bd,lmd->lbm", query, attention * F.normalize(keys, dim=2))
        squares = torch.einsum("bd,lmd->lbm", query.square(), attention.square())
        return along / squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()

    def prefixes(self, query: Tensor) -> Tensor:
        """Return keys and values ``(layers, 2, B, length / 2, width)`` for queries ``(B, feature_dim)``."""
        prompts = torch.cat([one.prompts for one in self._slices()], 1)
        keys, values = torch.einsum("lbm,lmsd->lbsd", self.weights(query), prompts).chunk(2, dim=2)
        return torch.stack([keys, values], dim=1)

    def state(self) -> dict[str, Any]:
        """Return how many components each experience has."""
        return {"sizes": self._sizes()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Make components for the tensors that come next; those of the last experience are trained."""
        if state["sizes"] != self._sizes():
            self.components = nn.ModuleList()
            for size in state["sizes"]:
                self._add(size)
        self.components.requires_grad_(False)
        if self.components:
            self.components[-1].requires_grad_(True)

    def _share(self, experiences: int) -> int:
        share, room = self.pool // experiences, self.head.feature_dim - sum(self._sizes())
        if share < 1:
            raise ConfigError(
                f"method.pool must have a component for each of the {experiences} experiences, but {self.pool} came."
            )
        if share > room:
            raise ConfigError(
                f"method.pool ({self.pool}) gives each experience {share} components, but only {room} can still be "
                f"orthogonal in {self.head.feature_dim} dimensions. Begin with a smaller method.pool."
            )
        return share

    def _slices(self) -> list["PromptComponents"]:
        return cast(list[PromptComponents], list(self.components))

    def _sizes(self) -> list[int]:
        return [one.keys.shape[1] for one in self._slices()]

    def _add(self, size: int) -> "PromptComponents":
        network = cast(PrefixedNetwork, self.backbone)
        shape = (len(network.places), size)
        made = PromptComponents(shape, query=self.head.feature_dim, prompt=(self.length, network.width))
        self.components.append(made.to(next(network.base.parameters())))
        return made


class PromptComponents(nn.Module):
    """The components of one experience in all prompted layers, as zeros until they are drawn.

    Args:
        shape: how many layers, and how many components in each.
        query: the size of a query.
        prompt: the length of a prompt, and its width.

    Attributes:
        attention: a, ``(layers, components, query)``.
        keys: k, ``(layers, components, query)``.
        prompts: p, ``(layers, components, length, width)``.
    """

    def __init__(self, shape: tuple[int, int], *, query: int, prompt: tuple[int, int]) -> None:
        super().__init__()
        self.attention = nn.Parameter(torch.zeros(*shape, query))
        self.keys = nn.Parameter(torch.zeros(*shape, query))
        self.prompts = nn.Parameter(torch.zeros(*shape, *prompt))

    @torch.no_grad()
    def draw(self, older: Collection["PromptComponents"]) -> None:
        """Draw unit vectors, orthogonal to each other and, in each layer, to those of older components."""
        for name, own in self.named_parameters():
            for layer, rows in enumerate(own):
                before = [getattr(one, name)[layer].flatten(1) for one in older]
                against = torch.cat([rows.new_zeros(0, rows[0].numel()), *before])
                rows.copy_(_orthogonal_rows(len(rows), against).view_as(rows))


def _orthogonal_rows(count: int, against: Tensor) -> Tensor:
    """Return random unit rows, orthogonal to each other and to those of ``against``, ``(any number, size)``.

    On the CPU, so that a seed means the same on every device.
    """
    drawn = torch.randn(against.shape[1], count, dtype=torch.float64)
    columns: Tensor = torch.linalg.qr(torch.cat([against.cpu().double().T, drawn], dim=1)).Q
    return columns[:, len(against) :].T


def _first(network: nn.Module) -> list[int] | None:
    blocks = {place.block for place in find_places(network) if place.kind == "attention" and place.block is not None}
    return sorted(blocks)[:_BLOCKS] or None
