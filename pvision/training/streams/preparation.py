"""What happens before an experience is learned: when there is a device and processes can talk, but no optimizer yet."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from pvision.training.streams.parts import ExpandsForExperiences
from pvision.training.streams.randomness import seed_experience

__all__ = ["Preparation"]


class Preparation(Callback):
    """Let the module prepare for the experience, once, as the first fit or evaluation of it is set up.

    Earlier there are no process groups: Lightning makes them when a fit begins. It comes before other callbacks, some
    of which copy the module in their ``setup``, and before the optimizers are made.

    Args:
        stream: the stream.

    Attributes:
        pending: whether the current experience is still to be prepared for.
    """

    def __init__(self, stream: Any) -> None:
        self.pending = False
        self._stream = stream

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not self.pending:
            return
        self.pending = False
        # Again: where Lightning starts several processes, it resets the generators on the way here.
        seed_experience(self._stream.seed, self._stream.current)
        if isinstance(pl_module, ExpandsForExperiences):
            pl_module.to(trainer.strategy.root_device)  # a method may want to look at the data
            pl_module.before_experience(self._stream.experiences[self._stream.current], self._stream)
