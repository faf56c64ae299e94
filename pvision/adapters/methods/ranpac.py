"""RanPAC: ridge regression on random features of a network that is adapted once.

[0] McDonnell et al., "RanPAC: Random Projections and Pre-trained Models for Continual Learning", NeurIPS 2023,
    https://arxiv.org/abs/2307.02251
[1] https://github.com/RanPAC/RanPAC, commit 012927f
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from pvision.adapters.lora import LoRA
from pvision.adapters.methods.adapting import AdaptingMethod
from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.data import ExperienceData
from pvision.checks import open_unit, positive, positive_int
from pvision.continual._collectives import from_first
from pvision.continual.experience import Experience
from pvision.continual.ridge import RidgeSums, choose_ridge, ridge_weights
from pvision.errors import ConfigError, DataError

__all__ = ["RanPAC"]


class RanPAC(AdaptingMethod):
    """Adapt the network in the first experience; from then on, solve for the classifier.

    With random features h = ReLU(f W_rand) it keeps G = Σ h hᵀ and Q = Σ h yᵀ of all records so far, and predicts
    hᵀ (G + λI)⁻¹ Q. After the first experience nothing is trained, so nothing is forgotten, and the order of what comes
    then does not matter. A request to forget subtracts its records from G and Q.

    Args:
        backbone: as for `ContinualMethod`; it is frozen.
        projection: M, how many random features. M² numbers of 8 bytes are kept, twice where λ is chosen.
        ridge: λ; None to choose it from `RIDGES` after each experience, by the squared error on held-out records of
            all experiences so far.
        held_out: which part of the records these are; a record's place in the data set says whether it is one. They
            count in G and Q once λ is chosen.
        first_session: whether a LoRA and a linear head are trained in the first experience. It is then merged.
        rank: of the LoRA.
        alpha: its scaling is ``alpha / rank``; None for a scaling of 1.
        targets: where it sits, see `add_adapters`.
        seed: what W_rand is drawn from.
        classifier: settings of the linear head, which predicts until the first experience is over.

    Attributes:
        chosen_ridge: the λ of the present weights; None before there are any.

    Raises:
        ConfigError: if a setting is out of its range.
    """

    random: Tensor
    weights: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        projection: int = 10_000,
        ridge: float | None = None,
        held_out: float = 0.2,
        first_session: bool = True,
        rank: int = 8,
        alpha: float | None = None,
        targets: str | Sequence[str] = ("q", "v"),
        seed: int = 0,
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__(backbone, classifier=classifier)
        size = positive_int("method.projection", projection)
        self.ridge = None if ridge is None else positive("method.ridge", ridge)
        self.held_out = open_unit("method.held_out", held_out)
        scaling = None if alpha is None else positive("method.alpha", alpha)
        lora = LoRA(rank=positive_int("method.rank", rank), alpha=scaling)
        self.first_session, self.lora, self.targets = first_session, lora, targets
        if first_session:
            self.linear_places(targets, rank=rank)  # refuses what does not fit before anything is trained
        self.seed = positive_int("method.seed", seed, low=0)
        self.chosen_ridge: float | None = None
        like = self.head.get_buffer("_like")
        drawn = torch.randn(self.head.feature_dim, size, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("random", drawn.to(like))  # in checkpoints, as torch may draw differently one day
        self.register_buffer("weights", torch.zeros(size, 0).to(like), persistent=False)  # in `state`: they grow
        self._sums: list[RidgeSums] = []  # of the records, or of those that are not held out and of those that are
        self._known: list[int] = []  # the columns of classes that have a record

    @property
    def stored_bytes(self) -> int:
        """Bytes of what is kept of the records: no images, but the second moments of their features."""
        return sum(one.nbytes for one in self._sums)

    @property
    def unlearns(self) -> bool:
        """Whether requests to forget are met exactly: what was learned by gradients cannot be subtracted."""
        return not self.first_session

    def learns_by_gradient(self, experience: Experience) -> bool:
        """Return whether this is the first experience, and the network is adapted in it."""
        return self.first_session and experience.index == 0

    def before_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Make the first experience's LoRA; after that, let nothing require gradients."""
        super().before_experience(experience, data)
        if self.learns_by_gradient(experience):
            self.adapted.add(self.lora, name="first_session", targets=self.targets)
        else:
            self.head.requires_grad_(False)

    def after_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Add the records to the sums, or subtract those to forget, and solve for the weights.

        Raises:
            ConfigError: if records are to be forgotten that the LoRA was trained on, or λ is too small to solve.
            DataError: if features are not finite.
        """
        forget = experience.kind == "forget"
        if forget and not self.unlearns:
            raise ConfigError("RanPAC cannot forget what its LoRA has learned. Set method.first_session: false.")
        if self.adapted.names:
            self.adapted.absorb(*self.adapted.names)
            self.head.requires_grad_(False)
        new = self._read(data)
        old = self._sums or [RidgeSums.zeros(len(self.weights), 0, device=one.gram.device) for one in new]
        self._sums = [one.plus(other, sign=-1 if forget else 1) for one, other in zip(old, new, strict=True)]
        self.chosen_ridge = choose_ridge(*self._sums) if self.ridge is None else self.ridge
        total = reduce(RidgeSums.plus, self._sums)
        weights = ridge_weights(total, self.chosen_ridge)
        if weights is None:
            raise ConfigError(f"method.ridge {self.chosen_ridge:g} is too small to solve for the weights. Raise it.")
        self.weights = from_first(weights).to(self.random)
        self._known = total.count.gt(0.5).nonzero().flatten().tolist()

    def expand(self, features: Tensor) -> Tensor:
        """Return random features ``(B, projection)`` of features ``(B, feature_dim)``."""
        with torch.autocast(features.device.type, enabled=False):  # thousands of terms with two digits each
            return (features.to(self.random.dtype) @ self.random).relu()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits; those of classes without a record are the lowest number that there is."""
        features = self.features(image)
        if not self.weights.shape[1]:
            logits: Tensor = self.head(features)
            return logits
        with torch.autocast(features.device.type, enabled=False):
            scores = self.expand(features) @ self.weights
        logits = scores.new_full((len(scores), len(self.head.classes)), torch.finfo(scores.dtype).min)
        logits[:, self._known] = scores[:, self._known]
        return logits

    def state(self) -> dict[str, Any]:
        """Return the sums, the weights, λ and the seed of W_rand."""
        return {
            "sums": [one.state_dict() for one in self._sums],
            "weights": self.weights.cpu(),
            "known": list(self._known),
            "ridge": self.chosen_ridge,
            "seed": self.seed,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over sums and weights.

        Raises:
            ConfigError: if λ is to be chosen, and was not where the state comes from, or the other way round.
        """
        sums = [RidgeSums.from_state(one) for one in state["sums"]]
        if sums and len(sums) != self._parts:
            raise ConfigError("method.ridge is given here or where the checkpoint was written, but not in both. Agree.")
        self._sums, self._known = sums, list(state["known"])
        self.weights = state["weights"].to(self.random)
        self.chosen_ridge, self.seed = state["ridge"], int(state["seed"])

    @property
    def _parts(self) -> int:
        return 2 if self.ridge is None else 1

    def _read(self, data: ExperienceData) -> list[RidgeSums]:
        """Return the sums of an experience of all processes, those of held-out records apart; a collective."""
        device = torch.device("cpu") if self.random.device.type == "mps" else self.random.device  # no float64 there
        size, classes = len(self.weights), len(self.head.classes)
        sums = [RidgeSums.zeros(size, classes, device=device) for _ in range(self._parts)]
        with self.reading():
            for batch in data.batches("random features"):
                rows, columns = self.expand(self.features(batch.image)), self.head.columns(batch.label)
                part = _is_held_out(batch.position, self.held_out).long() if len(sums) == 2 else columns * 0
                for number, one in enumerate(sums):
                    one.add(rows[part == number], columns[part == number])
        together = [one.together() for one in sums]
        if not all(bool(one.gram.isfinite().all()) for one in together):
            raise DataError("Features must be finite, but NaN or infinity came. Lower the learning rate.")
        return together


def _is_held_out(position: Tensor, share: float) -> Tensor:
    """Return which records are held out, bool ``(B,)``; a multiplicative hash spreads them evenly over the data set."""
    return (position * 2654435761) % 2**32 < share * 2**32
