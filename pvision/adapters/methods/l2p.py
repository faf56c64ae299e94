"""L2P: prompts from a shared pool, chosen for each image by its features.

[0] Wang et al., "Learning to Prompt for Continual Learning", CVPR 2022, https://arxiv.org/abs/2112.08654
"""

from typing import Protocol, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.method import ContinualMethod
from pvision.checks import positive, positive_int
from pvision.continual.experience import ImageBatch
from pvision.errors import ConfigError

__all__ = ["L2P", "PromptedNetwork"]


class L2P(ContinualMethod):
    """Choose ``top_k`` prompts of a pool for each image, and let a frozen network read them beside the image's patches.

    Each prompt has a key k. An image's query q is what the network alone makes of it, and the prompts whose keys are
    closest to q in angle go between class token and patches. The loss is the cross entropy plus ``pull`` times the sum
    of 1 - cos(q, k) over the chosen keys. The whole pool is trained in every experience: only the choice protects old
    prompts.

    Args:
        backbone: a vision transformer with ``embed`` and ``encode``, as those of `pvision.models`; it is frozen.
        pool: how many prompts there are.
        length: tokens of a prompt.
        top_k: how many prompts an image gets.
        pull: the weight of the pull of keys towards queries.
        classifier: the head's settings; by default each experience has a head of its own.

    Attributes:
        keys: ``(pool, feature_dim)``.
        prompts: ``(pool, length, feature_dim)``.

    Raises:
        ConfigError: if the backbone lacks ``embed`` or ``encode``, or a setting is out of range.

    Guarantee:
        What is predicted for an image depends on that image only, not on the batch it comes in.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        pool: int = 10,
        length: int = 5,
        top_k: int = 5,
        pull: float = 0.5,
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__(backbone, classifier=Classifier(loss_over="current") if classifier is None else classifier)
        self.backbone = PromptedNetwork(backbone)
        pool, length = positive_int("method.pool", pool), positive_int("method.length", length)
        self.top_k = positive_int("method.top_k", top_k)
        if top_k > pool:
            raise ConfigError(f"method.top_k must be at most method.pool ({pool}), but {top_k} came.")
        self.pull = positive("method.pull", pull)
        like = next(backbone.parameters())
        self.keys = nn.Parameter(torch.empty(pool, self.head.feature_dim).uniform_(-1, 1).to(like))
        self.prompts = nn.Parameter(torch.empty(pool, length, self.head.feature_dim).uniform_(-1, 1).to(like))

    def features(self, image: Tensor) -> Tensor:
        """Return the prompted features ``(B, feature_dim)`` of normalised images ``(B, C, H, W)``."""
        _, chosen = self.choose(self.query(image))
        return self.prompted(image, chosen)

    def loss(self, batch: ImageBatch) -> Tensor:
        """Return the mean cross entropy plus the pull of the chosen keys."""
        cosines, chosen = self.choose(self.query(batch.image))
        logits = self.head(self.prompted(batch.image, chosen))
        return self.cross_entropy(logits, batch.label) + self.pull * (1 - cosines).sum(1).mean()

    @torch.no_grad()
    def query(self, image: Tensor) -> Tensor:
        """Return what the network alone makes of images, ``(B, feature_dim)``; training never changes it."""
        plain: Tensor = self.backbone(image)
        return plain

    def choose(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosines of the closest keys and which ones they are, both ``(B, top_k)``, the closest first."""
        cosines, chosen = F.cosine_similarity(query[:, None], self.keys[None], dim=2).topk(self.top_k, dim=1)
        return cosines, chosen

    def prompted(self, image: Tensor, chosen: Tensor) -> Tensor:
        """Return the features of images that are read with these prompts, numbers ``(B, top_k)``."""
        features: Tensor = self.backbone(image, self.prompts[chosen].flatten(1, 2))
        return features


class _EmbedsAndEncodes(Protocol):
    def embed(self, image: Tensor) -> Tensor: ...

    def encode(self, tokens: Tensor) -> Tensor: ...


class PromptedNetwork(nn.Module):
    """A frozen network that takes tokens of each image's own between its class token and its patches.

    The network stays in evaluation mode: dropout in it would make which prompts an image gets a matter of chance.

    Args:
        base: a vision transformer with ``embed`` and ``encode``; it is frozen.

    Raises:
        ConfigError: if it has not both.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        lacking = [name for name in ("embed", "encode") if not callable(getattr(base, name, None))]
        if lacking:
            raise ConfigError(
                f"model.backbone ({type(base).__name__}) must have embed(image) and encode(tokens), so that prompts "
                f"can be put between, but it has no {lacking[0]}. Use VisionTransformer, GlyphViT or TimmBackbone."
            )
        self.base = base.requires_grad_(False)

    def forward(self, image: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Return features ``(B, feature_dim)`` of images, with or without prompts ``(B, n, width)``."""
        if prompts is None:
            plain: Tensor = self.base(image)
            return plain
        base = cast(_EmbedsAndEncodes, self.base)
        tokens = base.embed(image)
        return base.encode(torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], dim=1))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what is trained around the network; the network itself stays as it is evaluated."""
        super().train(mode)
        self.base.eval()
        return self
