"""What methods have in common that adapt a frozen network."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from torch import nn

from pvision.adapters.adapted import AdaptedModel
from pvision.adapters.lora import check_rank
from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.data import ExperienceData
from pvision.adapters.methods.method import ContinualMethod
from pvision.adapters.places import Place
from pvision.adapters.targets import choose_places
from pvision.continual.feature_recorder import FeatureRecorder
from pvision.continual.features import FeatureFactor
from pvision.errors import ConfigError

__all__ = ["AdaptingMethod"]


class AdaptingMethod(ContinualMethod):
    """A method whose backbone is frozen and holds adapters.

    Args:
        backbone: as for `ContinualMethod`; it is frozen, and changed in place.
        classifier: the head's settings.

    Attributes:
        adapted: the network with its adapters; ``backbone`` is the same.
    """

    def __init__(self, backbone: nn.Module, *, classifier: Classifier | None = None) -> None:
        super().__init__(backbone, classifier=classifier)
        self.backbone = AdaptedModel(backbone)

    @property
    def adapted(self) -> AdaptedModel:
        """The network with its adapters."""
        return cast(AdaptedModel, self.backbone)

    def linear_places(self, targets: str | Sequence[str], *, rank: int) -> list[Place]:
        """Return the linear places that ``targets`` names; see `add_adapters`.

        Raises:
            ConfigError: naming ``method.targets`` or ``method.rank``, if a target is met by no place, or a place is too
                small for the rank.
        """
        try:
            chosen = choose_places(self.adapted.places, targets=targets, kind="linear")
            for place in chosen:
                check_rank(rank, place)
        except ConfigError as error:
            named = str(error).startswith(("targets", "rank"))
            raise ConfigError(f"method.{error}" if named else f"method.targets: {error}") from None
        return chosen

    def read_inputs(self, places: Iterable[Place], data: ExperienceData, purpose: str) -> dict[str, FeatureFactor]:
        """Return the second moments of what goes into places of the network, of all processes together; a collective.

        Args:
            places: linear ones; thirds of a fused matrix share their input.
            data: the records, which the network sees as it is now.
            purpose: see `ExperienceData.batches`.

        Returns:
            For each place's module, by its name in the network, the second moments of the tokens that it sees.
        """
        modules: Mapping[str, nn.Module] = {
            name: self.adapted.base.get_submodule(name) for name in dict.fromkeys(place.module for place in places)
        }
        with self.reading(), FeatureRecorder(modules) as recorder:
            for batch in data.batches(purpose):
                self.features(batch.image)
        return recorder.together()
