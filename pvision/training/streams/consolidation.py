"""What happens once an experience is learned, on the device and on every process, before it is evaluated."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from pvision.training.streams.parts import ConsolidatesExperiences, Forgets, GivesFeatures

__all__ = ["Consolidation"]


class Consolidation(Callback):
    """Let module and stream consolidate the experience, once, as the evaluation that follows it begins.

    Not when the fit ends: Lightning skips all hooks of a fit that has nothing left to train after a resumption, and
    calls the last ones when the module has left its device.

    Args:
        stream: the stream.

    Attributes:
        done: whether the current experience is consolidated.
    """

    def __init__(self, stream: Any) -> None:
        self.done = False
        self._stream = stream

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.done:
            return
        stream, experience = self._stream, self._stream.experiences[self._stream.current]
        # An evaluation forbids gradients; a module may want to train its classifier here.
        with torch.inference_mode(False), torch.enable_grad():
            if experience.kind == "forget" and isinstance(pl_module, Forgets):
                pl_module.forget_experience(experience, stream)
            if isinstance(pl_module, ConsolidatesExperiences):
                pl_module.after_experience(experience, stream)
            stream.consolidate(_Features(pl_module, stream) if isinstance(pl_module, GivesFeatures) else None)
        if trainer.world_size > 1:
            # What is kept must be the same everywhere, to the last record that two processes could rank differently.
            stream.load_state_dict(trainer.strategy.broadcast(stream.state_dict()))
        self.done = True


class _Features:
    """Features of training records, as the module sees them without augmentation."""

    def __init__(self, module: pl.LightningModule, stream: Any) -> None:
        self._module, self._stream = module, stream

    def __call__(self, positions: Any) -> Tensor:
        """Return the features ``(n, d)`` of the records at ``positions``, on the CPU."""
        module, training = self._module, self._module.training
        module.eval()
        try:
            with torch.no_grad():
                # Nobody converts these batches to the precision of the run.
                images = (
                    batch.image.to(module.device, module.dtype) for batch in self._stream.in_order_loader(positions)
                )
                return torch.cat([module.features(image).cpu() for image in images])  # type: ignore[operator]  # it is GivesFeatures
        finally:
            module.train(training)
