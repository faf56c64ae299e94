"""InfLoRA: low-rank updates in directions that earlier experiences do not use.

[0] Liang & Li, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning", CVPR 2024,
    https://arxiv.org/abs/2404.00228; code liangyanshuo/InfLoRA, commit e08b00e.
[1] Liang & Li, "Adaptive Plasticity Improvement for Continual Learning", CVPR 2023, https://arxiv.org/abs/2302.11865
    (DualGPM, the memory).
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, Self

from torch import Tensor, nn

from pvision.adapters.lora import LoRA, LowRank
from pvision.adapters.methods.adapting import AdaptingMethod
from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.data import ExperienceData
from pvision.adapters.places import Place
from pvision.checks import positive_int, unit_rate
from pvision.continual.experience import Experience
from pvision.continual.subspace import SubspaceMemory

__all__ = ["InfLoRA"]


class InfLoRA(AdaptingMethod):
    """Add ``B_t A_t`` to keys and values, where A_t is designed before experience t and only B_t is trained.

    The rows of A_t are the ``rank`` strongest directions of the experience's inputs outside the memory M of earlier
    ones, divided by √3. Once the experience is learned, the update becomes part of the network for good, and the memory
    grows until it holds a share ``energy + (1 - energy) · t / T`` of the energy of the experience's inputs.

    Args:
        backbone: as for `ContinualMethod`; it is frozen, and changed in place.
        rank: rows of A_t; fewer where fewer directions are free, and none where none is.
        energy: what share of the energy of an experience's inputs the memory holds at least.
        targets: which layers, as for `add_adapters`.
        classifier: the head's settings; by default a head for each experience.

    Attributes:
        subspace_memory: the directions in use, by the name of the module whose inputs they are.

    Guarantee:
        With ``energy=1`` the features of the training images of earlier experiences stay as they were, whatever the
        optimizer: to 1e-12 in float64, without augmentation. With less energy `InterferenceCertificate` bounds, layer
        by layer, how far they move. The memory describes training images and has no noise: it keeps nothing private.

    Raises:
        ConfigError: if a setting is out of range, or no layer meets a target.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        rank: int = 10,
        energy: float = 0.95,
        targets: str | Sequence[str] = ("k", "v"),
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__(backbone, classifier=Classifier(loss_over="current") if classifier is None else classifier)
        self.rank = positive_int("method.rank", rank)
        self.energy = unit_rate("method.energy", energy)
        self.chosen = self.linear_places(targets, rank=self.rank)
        self.subspace_memory = SubspaceMemory({place.module: place.in_features for place in self.chosen}, compact=True)

    def before_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Design A_t for every layer; a collective."""
        super().before_experience(experience, data)
        inputs = self.read_inputs(self.chosen, data, "designing adapters")
        free = {name: self.subspace_memory[name].strongest_outside(seen, self.rank) for name, seen in inputs.items()}
        made = [
            (place, self.designed(place, free[place.module])) for place in self.chosen if free[place.module].numel()
        ]
        if made:
            self.adapted.stack(f"experience_{experience.index}", made)

    def designed(self, place: Place, directions: Tensor) -> LowRank:
        """Return the adapter of a place whose A is fixed to these directions, orthonormal columns ``(dim, rank)``."""
        adapter = LoRA(rank=directions.shape[1]).build(place, self.adapted.sites.weight_at(place))
        adapter.fix_down(directions.T / sqrt(3))
        return adapter

    def train(self, mode: bool = True) -> Self:
        """Train without dropout and the like: what the memory holds are inputs as an evaluation sees them."""
        super().train(mode)
        self.backbone.eval()
        return self

    def after_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Make the update part of the network, and remember what the network is then given; a collective."""
        super().after_experience(experience, data)
        self.adapted.absorb(*self.adapted.names)
        inputs = self.read_inputs(self.chosen, data, "remembering inputs")
        self.subspace_memory.update(inputs, energy=self.energy_at(experience.index, data.experiences))

    def energy_at(self, index: int, experiences: int) -> float:
        """Return what share of energy the memory holds of the experience at ``index`` of so many."""
        return self.energy + (1 - self.energy) * min(index / experiences, 1)

    def state(self) -> dict[str, Any]:
        """Return the memory."""
        return {"memory": self.subspace_memory.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the memory."""
        self.subspace_memory.load_state_dict(state["memory"])
