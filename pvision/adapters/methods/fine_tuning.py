"""Fine-tuning: train everything on whatever the stream serves."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pvision.adapters.lines import scale_training
from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.data import ExperienceData
from pvision.adapters.methods.lines import Lines
from pvision.adapters.methods.method import ContinualMethod
from pvision.checks import at_least
from pvision.continual.experience import Experience, ImageBatch
from pvision.errors import ConfigError

__all__ = ["FineTuning"]


class FineTuning(ContinualMethod):
    """Train the whole network and its head by cross entropy.

    What the stream serves makes the method: the current experience alone is the lower bound, which forgets; with
    ``data.replay`` it is experience replay; with ``data.training_set: seen`` it is joint training, from scratch where
    ``restart`` is set: the upper bound.

    Args:
        backbone: as for `ContinualMethod`.
        classifier: the head's settings.
        label_smoothing: of the cross entropy.
        restart: whether each experience starts from the initial weights. With ``data.training_set: seen`` this is
            training from scratch on all data so far: the reference of `intransigence`, and exact unlearning where the
            stream asks to forget.
        lines: scale what each experience changed in the network by depth, after it; None for not at all.

    Raises:
        ConfigError: if ``label_smoothing`` is not from 0 to below 1, or ``lines`` is set and the network has no
            transformer blocks.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        classifier: Classifier | None = None,
        label_smoothing: float = 0.0,
        restart: bool = False,
        lines: Lines | None = None,
    ) -> None:
        super().__init__(backbone, classifier=classifier)
        if at_least("method.label_smoothing", label_smoothing, 0) >= 1:
            raise ConfigError(f"method.label_smoothing must be below 1, but {label_smoothing} came.")
        self.label_smoothing, self.restart = label_smoothing, restart
        self.lines = lines
        if lines is not None:
            self._scaled(backbone.state_dict(), lines)  # refuses what has no blocks before anything is trained
        self._initial = _copy(backbone.state_dict()) if restart else {}
        self._before: dict[str, Tensor] = {}

    def before_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Grow the head; with ``restart``, go back to the initial weights."""
        super().before_experience(experience, data)
        if self.restart:
            self.backbone.load_state_dict(self._initial)
            self.head.reset_parameters()
        if self.lines is not None:
            self._before = _copy(self.backbone.state_dict())

    def after_experience(self, experience: Experience, data: ExperienceData) -> None:
        """Scale what changed by depth."""
        if self.lines is not None:
            self.backbone.load_state_dict(self._scaled(self._before, self.lines))
            self._before = {}

    def loss(self, batch: ImageBatch) -> Tensor:
        """Return the mean cross entropy."""
        logits = self.head(self.features(batch.image))
        return self.cross_entropy(logits, batch.label, label_smoothing=self.label_smoothing)

    def state(self) -> dict[str, Any]:
        """Return what ``restart`` starts from, and what ``lines`` compares with."""
        return {"initial": self._initial, "before": self._before}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Start from the run's initial weights: a new process may have drawn others."""
        if self.restart and state["initial"]:
            self._initial = _copy(state["initial"])
        like = self.backbone.state_dict()
        self._before = {name: tensor.to(like[name]) for name, tensor in _copy(state["before"]).items()}

    def _scaled(self, before: Mapping[str, Tensor], lines: Lines) -> dict[str, Tensor]:
        after = self.backbone.state_dict()
        return scale_training(self.backbone, before=before, after=after, alpha=lines.alpha, beta=lines.beta)


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
