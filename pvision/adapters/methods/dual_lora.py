"""DualLoRA: one adapter that earlier experiences cannot feel, and one for each that opens for its own images.

[0] Chen et al., "Replay-Free Continual Low-Rank Adaptation with Dynamic Memory" (v1: "Dual Low-Rank Adaptation for
    Continual Learning with Pre-Trained Models"), https://arxiv.org/abs/2411.00623. There is no public code, and details
    that the abstract leaves open are ours: docs/methods/dual_lora.md says which.
[1] Liang & Li, "InfLoRA", CVPR 2024, https://arxiv.org/abs/2404.00228 (how the energy threshold rises)
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pvision.adapters.energy_gated import EnergyGatedLoRA
from pvision.adapters.lora import LoRA
from pvision.adapters.methods._residual_space import coming_bases, last_bases
from pvision.adapters.methods._task_identity import ClassTokens, EnergyIdentity, FeatureIdentity, mixed, raised
from pvision.adapters.methods.adapting import AdaptingMethod
from pvision.adapters.methods.alignment import ClassifierAlignment, add_class_statistics
from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.data import ExperienceData
from pvision.checks import at_least, one_of, positive, positive_int, unit_rate
from pvision.continual.class_statistics import ClassStatistics
from pvision.continual.experience import Experience
from pvision.continual.subspace import SubspaceMemory
from pvision.errors import ConfigError

__all__ = ["DualLoRA"]

_log = logging.getLogger(__name__)
_ORTHOGONAL = "orthogonal"
_ALIGNMENT = ClassifierAlignment()
_NONE = torch.empty(0)


class DualLoRA(AdaptingMethod):
    """Learn with an orthogonal adapter O and residual adapters R_τ beside frozen weights W₀; our reconstruction of [0].

    A layer gives ``W₀ x + B C Nᵀ x + Σ_τ ω_τ(x) B_τ C_τ Φ_τᵀ x``. N spans what no earlier experience's inputs use, Φ_τ
    what experience τ brought; ω_τ(x) is the share of the class token's energy in the span of Φ_τ. The first, O, merges
    into W₀ after each experience; the others, R_τ, stay and are frozen.

    Args:
        backbone: a vision transformer; it is frozen, and changed in place.
        rank: of O, or as many directions as are free.
        residual_rank: of each R_τ, or as many as Φ_τ has.
        alpha: both are scaled by ``alpha`` by their rank; None for a scaling of 1.
        targets: roles or names of linear layers.
        energy: share of the inputs' energy that the memory holds after the first experience.
        energy_final: to what that rises, linearly, towards the end of the stream; None to leave it.
        residual_space: ``own`` trains R_t on what experience t brings, ``previous`` on what the one before brought,
            ``none`` makes no R.
        identity: how an image's experience is told: by the ``energy`` of its tokens in each Φ_τ [0], by final
            ``features`` (ours), or not at all (``none``).
        shrinkage: of ``features``: share of the covariance of all classes in each class's, from 0 to 1.
        calibration_scale: s in p(τ|x) ∝ exp(s · score); higher is more confident.
        calibration_threshold: log p(τ|x) is added to logits where the largest p exceeds it.
        alignment: how the head learns to tell all classes apart after each experience (ours); None for not at all.
        classifier: the head's settings; by default a head per experience.

    Attributes:
        subspace_memory: the subspace of each adapted layer, by the name of the module whose inputs they are.
        statistics: of the features of each class, where they are needed.

    Guarantee:
        While ``energy`` is 1 and ``residual_space`` not ``previous``, features of records that the memory has seen stay
        what they were after their experience, up to rounding. Below 1 each adapted layer keeps `interference`'s bound.

    Raises:
        ConfigError: if a setting is outside its range, or no layer meets ``targets``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        rank: int = 10,
        residual_rank: int = 10,
        alpha: float | None = None,
        targets: Sequence[str] = ("v",),
        energy: float = 0.999,
        energy_final: float | None = None,
        residual_space: Literal["own", "previous", "none"] = "own",
        identity: Literal["energy", "features", "none"] = "features",
        shrinkage: float = 0.3,
        calibration_scale: float = 1.0,
        calibration_threshold: float = 0.0,
        alignment: ClassifierAlignment | None = _ALIGNMENT,
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__(backbone, classifier=classifier or Classifier(loss_over="current"))
        self.rank = positive_int("method.rank", rank)
        self.residual_rank = positive_int("method.residual_rank", residual_rank)
        self.alpha = None if alpha is None else positive("method.alpha", alpha)
        self.energy = unit_rate("method.energy", energy)
        self.energy_final = self.energy if energy_final is None else unit_rate("method.energy_final", energy_final)
        if self.energy_final < self.energy:
            raise ConfigError(
                f"method.energy_final must be at least method.energy ({energy}), but {energy_final} came."
            )
        self.residual_space = one_of("method.residual_space", residual_space, ("own", "previous", "none"))
        self.how = one_of("method.identity", identity, ("energy", "features", "none"))
        if at_least("method.shrinkage", shrinkage, 0) > 1:
            raise ConfigError(f"method.shrinkage must be at most 1, but {shrinkage} came.")
        self.shrinkage = shrinkage
        self.calibration_scale = positive("method.calibration_scale", calibration_scale)
        if at_least("method.calibration_threshold", calibration_threshold, 0) >= 1:
            raise ConfigError(f"method.calibration_threshold must be below 1, but {calibration_threshold} came.")
        self.calibration_threshold = calibration_threshold
        self.alignment = alignment
        self.targets = self.linear_places(targets, rank=max(self.rank, self.residual_rank))
        self.subspace_memory = SubspaceMemory({place.module: place.in_features for place in self.targets})
        self.statistics = ClassStatistics(self.head.feature_dim)
        self.learned: list[int] = []
        self.identity: EnergyIdentity | FeatureIdentity | None = None
        self._told = False

    def before_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Add O in what is free, and R_t."""
        super().before_experience(experience, data)
        self._merge_orthogonal()
        bases = self._residual_bases(data)
        self.identity = None
        names = [*self._add_orthogonal(), *self._add_residual(f"residual_{experience.index}", bases)]
        self.adapted.train_only(*names)

    def after_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Merge O, remember what the inputs of the layers are now, and align the head."""
        super().after_experience(experience, data)
        self._merge_orthogonal()
        self.adapted.train_only()
        self.subspace_memory.update(
            self.read_inputs(self.targets, data, "subspace memory"), energy=self._energy_now(data)
        )
        if self.alignment is not None or self.how == "features":
            add_class_statistics(self.statistics, self, data)
        if self.alignment is not None:
            self.alignment.align(self.head, self.statistics, seed=experience.index)
        self.learned.append(experience.index)
        self._make_identity()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, number of classes seen)``, calibrated by the experience that is told, in one pass."""
        features, log_tasks = self._read(image)
        logits: Tensor = self.head(features)
        if log_tasks is None:
            return logits
        tasks = [self.classes_of[index] for index in self.learned]
        member = torch.tensor([[label in task for label in self.head.classes] for task in tasks], device=logits.device)
        # Heads that never saw each other's classes have no common scale: `mixed` takes what they say within theirs.
        calibrate = mixed if self.how == "features" else raised
        sure = log_tasks.amax(1, keepdim=True).exp() > self.calibration_threshold
        return torch.where(sure, calibrate(logits, log_tasks, member), logits)

    def task_probabilities(self, image: Tensor) -> Tensor:
        """Return p(τ|x), ``(B, experiences learned)``.

        Raises:
            ConfigError: if no experience was learned yet, or ``identity`` is ``none``.
        """
        log_tasks = self._read(image)[1]
        if log_tasks is None:
            raise ConfigError(
                "The experience of an image is told between experiences, with method.identity energy or features."
            )
        return log_tasks.exp()

    @contextmanager
    def linear_part(self) -> Iterator[None]:
        """Within the block leave out R, whose gates are not linear: `InterferenceCertificate` bounds the rest."""
        active = self.adapted.active
        self.adapted.activate(*(name for name in active if name == _ORTHOGONAL))
        try:
            yield
        finally:
            self.adapted.activate(*active)

    def _read(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        watched = self.subspace_memory if isinstance(self.identity, EnergyIdentity) else ()
        with ClassTokens({name: self.adapted.base.get_submodule(name) for name in watched}) as tokens:
            features = self.features(image)
        return features, None if self.identity is None else self.identity(features, tokens.inputs)

    def _residual_bases(self, data: ExperienceData) -> dict[str, Tensor]:
        """Return by module the directions in which R_t is trained."""
        if self.residual_space == "own":
            features = self.read_inputs(self.targets, data, "residual bases")
            return coming_bases(self.subspace_memory, features, energy=self._energy_now(data))
        return last_bases(self.subspace_memory) if self.residual_space == "previous" and self.learned else {}

    def _merge_orthogonal(self) -> None:
        """Merge O for good; before an experience there is one only if the last was not consolidated."""
        if _ORTHOGONAL in self.adapted.names:
            self.adapted.absorb(_ORTHOGONAL)

    def _add_orthogonal(self) -> list[str]:
        made, short = [], []
        for place in self.targets:
            weight, free = self.adapted.sites.weight_at(place), self.subspace_memory[place.module].complement()
            rank = min(self.rank, free.shape[1])
            short += [place.name] * (rank < self.rank)
            if rank:
                adapter = LoRA(rank=rank, alpha=self.alpha).build(place, weight)
                if self.subspace_memory[place.module].rank:
                    adapter.confine_to(free)
                made.append((place, adapter))
        if short and not self._told:
            self._told = True
            _log.warning(
                "DualLoRA: %s has fewer free directions than method.rank (%d), so the orthogonal adapter is smaller "
                "there, or missing. Lower method.energy to leave more free.",
                ", ".join(short),
                self.rank,
            )
        if made:
            self.adapted.stack(_ORTHOGONAL, made)
        return [_ORTHOGONAL] if made else []

    def _add_residual(self, name: str, bases: Mapping[str, Tensor]) -> list[str]:
        there = {place.name: bases[place.module] for place in self.targets if bases.get(place.module, _NONE).numel()}
        if not there:
            return []
        self.adapted.add(
            EnergyGatedLoRA(rank=self.residual_rank, alpha=self.alpha, bases=there), name=name, targets=list(there)
        )
        return [name]

    def _energy_now(self, data: ExperienceData) -> float:
        part = min(len(self.learned) / max(data.experiences, 1), 1.0)
        return self.energy + (self.energy_final - self.energy) * part

    def _make_identity(self) -> None:
        network = next(self.adapted.base.parameters())
        like = torch.empty(0, dtype=torch.promote_types(network.dtype, torch.float32), device=network.device)
        if self.how == "energy":
            self.identity = EnergyIdentity(self.subspace_memory, scale=self.calibration_scale, like=like)
        elif self.how == "features":
            tasks = [self.classes_of[index] for index in self.learned]
            self.identity = FeatureIdentity(
                self.statistics, tasks, scale=self.calibration_scale, shrinkage=self.shrinkage, like=like
            )

    def state(self) -> dict[str, Any]:
        """Return the memory, the class statistics, and which experiences are learned."""
        return {
            "memory": self.subspace_memory.state_dict(),
            "statistics": self.statistics.state_dict(),
            "learned": list(self.learned),
            "identity": self.identity is not None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them over."""
        self.subspace_memory.load_state_dict(state["memory"])
        self.statistics.load_state_dict(state["statistics"])
        self.learned = list(state["learned"])
        self.identity = None
        if state["identity"]:
            self._make_identity()
