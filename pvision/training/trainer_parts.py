"""Parts of a Trainer that Lightning's type stubs leave out, and changes to an object that are taken back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

__all__ = ["callbacks_of", "on_device", "replaced"]


def callbacks_of(trainer: pl.Trainer) -> list[Callback]:
    """Return the Trainer's callbacks."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector, not in __init__
    return callbacks


def on_device(trainer: pl.Trainer, batch: Any) -> Any:
    """Return a batch on this process' device, in the precision of the training."""
    return trainer.strategy.batch_to_device(trainer.strategy.precision_plugin.convert_input(batch))


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of one object for a while; afterwards its own, or its class', shows again."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
