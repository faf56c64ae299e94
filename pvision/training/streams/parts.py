"""What `fit_stream` asks of a stream and of a module: small protocols, so that anybody's will do."""

from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
from torch import Tensor

from pvision.continual.experience import Experience

__all__ = [
    "ConsolidatesExperiences",
    "ExpandsForExperiences",
    "Forgets",
    "GivesFeatures",
    "HearsOfStreamEnd",
    "MaySkipTraining",
    "Retrains",
    "Stream",
]


class Stream(Protocol):
    """A data module that goes through experiences; `pvision.datamodules.TaskStream` is one."""

    experiences: list[Experience]
    current: int
    evaluated: list[int]
    training_set: str
    online: bool
    seed: int

    def prepare_data(self) -> None:
        """Fetch what is missing, once on each machine."""

    def setup(self, stage: str | None = None) -> None:
        """Read the data and make the experiences."""

    def begin(self, index: int) -> None:
        """Let the loaders serve the experience at ``index``."""

    def training_settings(self) -> dict[str, Any]:
        """Return what decides, beside the split, which batches training sees; plain values."""

    def consolidate(self, features: Any) -> None:
        """Take what is to be kept of the current experience, now that it is learned."""

    def val_dataloader(self) -> Any:
        """Return held-out records of the current experience; an empty list if there are none."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on: which experience is the current one, and what is kept."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; refuse that of another stream."""

    def manifest(self) -> Any:
        """Return what identifies the stream, with ``save(path)`` and ``digest``."""

    def in_order_loader(self, positions: Any) -> Any:
        """Return training records in order and without augmentation."""


@runtime_checkable
class ExpandsForExperiences(Protocol):
    """A LightningModule that prepares itself for an experience, for example by new outputs."""

    def before_experience(self, experience: Experience, stream: Any) -> None:
        """Prepare, on the device, on every process, before optimizers are made.

        Not called again where training goes on within the experience.
        """


@runtime_checkable
class MaySkipTraining(Protocol):
    """A LightningModule that learns some experiences in closed form, when it consolidates them."""

    def learns_by_gradient(self, experience: Experience) -> bool:
        """Return whether there is a fit for an experience; without one, the evaluation comes at once."""


@runtime_checkable
class ConsolidatesExperiences(Protocol):
    """A LightningModule that does something once an experience is learned."""

    def after_experience(self, experience: Experience, stream: Any) -> None:
        """Consolidate, on the device, on every process, before the evaluation."""


@runtime_checkable
class Forgets(Protocol):
    """A LightningModule that can remove what it learned from some records."""

    def forget_experience(self, experience: Experience, stream: Any) -> None:
        """Remove the influence of the records at ``experience.train``."""


@runtime_checkable
class Retrains(Protocol):
    """A LightningModule that can start every experience from its initial weights."""

    restart: bool


@runtime_checkable
class GivesFeatures(Protocol):
    """A LightningModule that can say what it sees in an image."""

    def features(self, image: Tensor) -> Tensor:
        """Return features ``(B, d)`` of normalised images ``(B, C, H, W)``."""


@runtime_checkable
class HearsOfStreamEnd(Protocol):
    """A callback that wants to know when a whole stream has ended, and how."""

    def on_stream_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, error: BaseException | None) -> None:
        """Note the end: ``error`` is what stopped the stream, None if it was learned to its end."""
