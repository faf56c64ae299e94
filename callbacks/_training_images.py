"""Which images a run trains on, as far as it has come."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pvision.errors import ConfigError

__all__ = ["TrainingImages"]

Positions = npt.NDArray[np.int64]


class TrainingImages:
    """A random choice of a run's training images: of those that were given, or of those of its stream.

    The choice is made once for the whole run, so it is a uniform one of every experience.

    Args:
        given: the images, each ``(C, H, W)``; None to ask the stream.
        stream: the run's data module. A stream has ``train_source`` with ``image(position)``, ``experiences`` and
            ``current``; it may have ``preprocessing.eval(image)``.
        most: how many are chosen.

    Attributes:
        read: gives the image at a position.
        forms: what else may be stored of an image.
        total: how many images the training set has.

    Raises:
        ConfigError: if there are neither given images nor a stream.
    """

    def __init__(self, given: Tensor | Sequence[Tensor] | None, stream: Any, *, most: int) -> None:
        self._stream: Any = None
        self.forms: list[Callable[[Tensor], Tensor]] = []
        if given is not None:
            self.read: Callable[[int], Tensor] = lambda position: _as_bytes(given[position])
            everything = np.arange(len(given))
        elif hasattr(stream, "train_source") and hasattr(stream, "experiences"):
            self._stream = stream
            self.read = stream.train_source.image
            prepare = getattr(getattr(stream, "preprocessing", None), "eval", None)
            self.forms = [prepare] if prepare is not None else []
            everything = self._learned(len(stream.experiences))
        else:
            raise ConfigError(
                "ExemplarFree has to know the training images, but the data module is no stream of pvision. Give it "
                "images=, a tensor (N, C, H, W) or a sequence of (C, H, W)."
            )
        self.total = len(everything)
        self._chosen = np.sort(np.random.default_rng(0).permutation(everything)[:most])
        self._taken: Positions = np.empty(0, dtype=np.int64)

    def are_those_of(self, stream: Any) -> bool:
        """Return whether a run on ``stream`` trains on the same images."""
        return self._stream is None or self._stream is stream

    def new(self) -> list[int]:
        """Return the positions that training has reached since the last call."""
        reached = self._chosen
        if self._stream is not None:
            reached = np.intersect1d(self._chosen, self._learned(self._stream.current + 1))
        fresh = np.setdiff1d(reached, self._taken)
        self._taken = np.union1d(self._taken, fresh)
        return [int(position) for position in fresh]

    def _learned(self, events: int) -> Positions:
        learned = [event for event in self._stream.experiences[:events] if event.kind == "learn"]
        parts = [positions for event in learned for positions in (event.train, event.val)]
        return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *parts]))


def _as_bytes(image: Tensor) -> Tensor:
    """Return an image of multiples of 1/255, as torchvision makes them, as the uint8 that files hold."""
    if not isinstance(image, Tensor) or not image.is_floating_point():
        return image
    pixels = 255 * image.float()
    whole = pixels.round()
    exact = bool(((pixels - whole).abs() < 0.01).all() and (whole >= 0).all() and (whole <= 255).all())
    return whole.to(torch.uint8) if exact else image
