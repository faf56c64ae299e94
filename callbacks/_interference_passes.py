"""A pass over the records of an experience that has been learned, to see what goes into the layers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pvision.callbacks._batch_images import images_in
from pvision.callbacks._forgetting_stream import IsStream
from pvision.errors import ConfigError
from pvision.training.trainer_parts import on_device

__all__ = ["Forward", "batches_of", "evaluating", "run_images"]

Forward = Callable[[pl.LightningModule, Any], Any]


@contextmanager
def evaluating(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Let the module see records as in an evaluation, without gradients; modes and generators stay as they were."""
    training = {one: one.training for one in module.modules()}
    generators = {one: one.get_state() for one in _generators_of(trainer)}
    module.eval()
    try:
        # What is kept must not be bound to the inference mode of Lightning's evaluations.
        precision = trainer.strategy.precision_plugin
        with torch.inference_mode(False), torch.no_grad(), isolate_rng(), precision.forward_context():
            yield
    finally:
        for one, mode in training.items():
            one.training = mode
        for generator, state in generators.items():
            generator.set_state(state)


def _generators_of(trainer: pl.Trainer) -> Iterator[torch.Generator]:
    """Yield the generators that belong to the training loaders: a further pass must not change what comes next."""
    for loader in tree_leaves(trainer.train_dataloader):
        for owner in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                yield generator


def batches_of(trainer: pl.Trainer, stream: IsStream | None, *, most: int | None) -> Iterator[Any]:
    """Yield this process' batches of the training records, on its device.

    Of a stream they come in order and without augmentation, each once; elsewhere as the training loader gives them.

    Raises:
        ConfigError: if there is no training loader.
    """
    if stream is not None and hasattr(stream, "in_order_loader"):
        everyones = stream.in_order_loader(stream.experiences[stream.current].train)
        loader: Any = islice(everyones, trainer.global_rank, None, trainer.world_size)
    elif trainer.train_dataloader is None:
        raise ConfigError(
            "InterferenceCertificate needs the training loader of the fit that has ended, but it is gone."
        )
    else:
        loader = (batch for batch, _, _ in CombinedLoader(trainer.train_dataloader, "sequential"))
    for batch in islice(loader, most):
        yield on_device(trainer, batch)


def run_images(module: pl.LightningModule, batch: Any, forward: Forward | None) -> None:
    """Let the module see a batch.

    Raises:
        ConfigError: if no images are found in it, or the module cannot be called with them.
    """
    if forward is not None:
        forward(module, batch)
        return
    images = batch if isinstance(batch, Tensor) else images_in(batch)
    if images is None:
        raise ConfigError(
            f"InterferenceCertificate found no tensor of images in a batch ({type(batch).__name__}). Say how the "
            "module sees it: forward=lambda module, batch: module(batch[...])."
        )
    try:
        module(images)
    except NotImplementedError as error:
        raise ConfigError(
            f"{type(module).__name__} has no forward. Say how it sees a batch: forward=lambda module, batch: …"
        ) from error
