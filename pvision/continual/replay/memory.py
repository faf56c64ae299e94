"""What every replay memory does: hold images, take in an experience, forget, and be saved."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from pvision.checks import positive_int
from pvision.continual.experience import Experience
from pvision.errors import ConfigError, DataError

__all__ = ["Candidates", "Choice", "Features", "ReplayMemory"]

Integers = npt.NDArray[np.int64]
Ranks = npt.NDArray[np.float64]
Features = Callable[[Integers], Tensor | None]


@dataclass(frozen=True)
class Candidates:
    """The records of one experience, as a memory chooses among them.

    Attributes:
        experience: the experience's index in the stream.
        labels: ``(n,)``.
        positions: ``(n,)``, in the training set.
        draws: ``(n,)``, one uniform number in [0, 1) for each record, a function of seed and experience alone.
        features: asks for the features ``(n, d)`` of given positions; None if there is nothing to ask.
    """

    experience: int
    labels: Integers
    positions: Integers
    draws: Ranks
    features: Features | None

    def __len__(self) -> int:
        return len(self.labels)


class Choice(NamedTuple):
    """What a memory holds from now on.

    Attributes:
        items: ``(m,)``; below ``len(memory)`` what it held, from there on ``len(memory) + i`` for candidate i. In the
            order in which the memory keeps them.
        ranks: ``(m,)``, what the memory has to know about each of them when it chooses next time.
        bound: the smallest rank that was ever turned away, where that matters.
    """

    items: Integers
    ranks: Ranks
    bound: float = math.inf


class ReplayMemory(ABC):
    """Up to ``size`` training images, kept as the uint8 pixels that the data set gave.

    A pure function of its state, the arguments and the seed: ranks that call it alike hold the same images.
    Records that an experience holds out for validation (``experience.val``) are never kept.

    Guarantee:
        After `forget` no tensor of this memory holds a pixel of a forgotten image: each image has a storage of its own,
        which is overwritten before it is released. Copies that were handed out before (in batches, in loader workers,
        in checkpoints) are beyond its reach.

    Args:
        size: how many images it may hold.

    Attributes:
        size: how many images it may hold.
        images: uint8 ``(C, H, W)`` each.
        labels: int64 ``(n,)``.
        experiences: int64 ``(n,)``, the index of the experience that each came from.
        positions: int64 ``(n,)``, of each in the training set.
    """

    def __init__(self, size: int) -> None:
        self.size = positive_int("size", size)
        self.images: list[Tensor] = []
        self.labels, self.experiences, self.positions = (np.empty(0, dtype=np.int64) for _ in range(3))
        self._ranks: Ranks = np.empty(0)
        self._bound = math.inf
        self._learned: list[int] = []

    @property
    def nbytes(self) -> int:
        """Bytes of pixels and of their int64 labels."""
        return sum(image.numel() for image in self.images) + 8 * len(self.images)

    def __len__(self) -> int:
        return len(self.images)

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size})"

    def update(
        self,
        experience: Experience,
        *,
        labels: Integers,
        image: Callable[[int], Tensor],
        features: Features | None = None,
        seed: int,
    ) -> None:
        """Choose anew among what is held and the records of an experience that was learned.

        Args:
            experience: an experience of kind ``learn`` that this memory has not taken in yet.
            labels: ``(n,)``, of the records ``experience.train``.
            image: reads the image at a position of the training set, uint8 ``(C, H, W)``.
            features: gives the features of positions, float ``(n, d)``; only herding asks.
            seed: the same on every rank.

        Raises:
            ConfigError: if the experience asks to forget, or the seed is negative.
            DataError: if labels or images are not as above, or the experience was taken in before.
        """
        candidates = self._candidates(experience, np.asarray(labels), features, seed)
        choice = self._choose(candidates)
        fresh = choice.items[choice.items >= len(self)] - len(self)
        images = self.images + [_own_pixels(image, int(candidates.positions[item])) for item in fresh]
        # From here on nothing can fail, so a failed update leaves the memory as it was.
        place = {len(self) + int(item): len(self) + place for place, item in enumerate(fresh)}
        self.images = [images[place.get(int(item), int(item))] for item in choice.items]
        self.labels = np.concatenate([self.labels, candidates.labels])[choice.items]
        self.positions = np.concatenate([self.positions, candidates.positions])[choice.items]
        came_from = np.full(len(candidates), experience.index, dtype=np.int64)
        self.experiences = np.concatenate([self.experiences, came_from])[choice.items]
        self._ranks, self._bound = np.asarray(choice.ranks, dtype=np.float64), choice.bound
        self._learned.append(experience.index)

    def forget(self, *, positions: Iterable[int] | None = None, classes: Iterable[int] | None = None) -> int:
        """Drop every image at these positions of the training set, and every image of these classes.

        Returns:
            How many images were dropped.

        Raises:
            ConfigError: if neither is given.
        """
        if positions is None and classes is None:
            raise ConfigError("forget() needs positions= or classes=, but neither came. Name what to forget.")
        gone = np.isin(self.positions, _integers(positions)) | np.isin(self.labels, _integers(classes))
        for index in np.flatnonzero(gone):
            self.images[index].zero_()
        kept = np.flatnonzero(~gone)
        self.images = [self.images[index] for index in kept]
        self.labels, self.experiences = self.labels[kept], self.experiences[kept]
        self.positions, self._ranks = self.positions[kept], self._ranks[kept]
        return int(gone.sum())

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` images uniformly, without replacement as long as there are enough.

        Beyond that every image comes ⌊n / len⌋ times or once more.

        Returns:
            Indices into ``images``, int64 ``(n,)``.

        Raises:
            DataError: if the memory is empty and ``n`` is not 0.
        """
        n = positive_int("n", n, low=0)
        if n and not len(self):
            raise DataError(f"{n} images to replay were asked for, but the memory is empty. Learn an experience first.")
        rounds = [torch.randperm(len(self), generator=generator) for _ in range(-(-n // max(len(self), 1)))]
        return torch.cat(rounds)[:n] if rounds else torch.empty(0, dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of everything, as tensors and plain values that ``torch.load(weights_only=True)`` takes."""
        flat = [image.flatten() for image in self.images]
        return {
            "kind": type(self).__name__,
            "size": self.size,
            "pixels": torch.cat(flat) if flat else torch.empty(0, dtype=torch.uint8),
            "shapes": torch.tensor([list(image.shape) for image in self.images], dtype=torch.int64).reshape(-1, 3),
            "labels": torch.tensor(self.labels),
            "experiences": torch.tensor(self.experiences),
            "positions": torch.tensor(self.positions),
            "ranks": torch.tensor(self._ranks),
            "bound": self._bound,
            "learned": list(self._learned),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become, bit for bit, the memory that gave ``state``.

        Raises:
            ConfigError: if the state is that of another kind of memory or of another size.
            DataError: if it is damaged.
        """
        came = f"{state.get('kind')}(size={state.get('size')})"
        if came != repr(self):
            raise ConfigError(
                f"The replay memory is {self}, but the saved state is that of {came}. Use the configuration it was "
                "saved with."
            )
        try:
            shapes = [tuple(shape) for shape in state["shapes"].tolist()]
            flat = state["pixels"].split([channels * height * width for channels, height, width in shapes])
            parts = [state[name].numpy().copy() for name in ("labels", "experiences", "positions", "ranks")]
            learned, bound = [int(index) for index in state["learned"]], float(state["bound"])
        except (KeyError, RuntimeError, AttributeError, TypeError, ValueError) as error:
            raise DataError(f"The saved state of {self} is damaged ({error}). Use an earlier checkpoint.") from error
        if any(len(part) != len(shapes) for part in parts):
            raise DataError(f"The saved state of {self} is damaged (its lengths differ). Use an earlier checkpoint.")
        # One copy each: a view would keep the pixels of all images alive after one of them is forgotten.
        self.images = [pixels.reshape(shape).clone() for pixels, shape in zip(flat, shapes, strict=True)]
        self.labels, self.experiences, self.positions, self._ranks = parts
        self._learned, self._bound = learned, bound

    @abstractmethod
    def _choose(self, candidates: Candidates) -> Choice:
        """Return what to hold from now on; changes nothing."""

    def _candidates(
        self, experience: Experience, labels: npt.NDArray[Any], features: Features | None, seed: int
    ) -> Candidates:
        positive_int("seed", seed, low=0)
        if experience.kind != "learn":
            raise ConfigError(f"update() takes what was learned, but {experience.name!r} asks to forget: use forget().")
        if experience.index in self._learned:
            raise DataError(
                f"Experience {experience.index} ({experience.name!r}) is in the replay memory already. Give each "
                "experience once, and a new stream a new memory."
            )
        if labels.shape != experience.train.shape:
            raise DataError(
                f"labels must be those of the {len(experience.train)} records of experience {experience.index}, but "
                f"their shape is {labels.shape}."
            )
        if len(labels) and not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"labels must be whole numbers, but {labels.dtype} came. Convert them to int64.")
        open_ = ~np.isin(experience.train, experience.val)
        draws = np.random.default_rng([seed, experience.index]).random(len(labels))
        return Candidates(
            experience=experience.index,
            labels=labels[open_].astype(np.int64),
            positions=experience.train[open_].astype(np.int64),
            draws=draws[open_],
            features=features,
        )


def _own_pixels(image: Callable[[int], Tensor], position: int) -> Tensor:
    """Return a copy of the image at ``position`` that shares memory with nothing."""
    pixels = image(position)
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 3:
        came = f"{pixels.dtype} {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
        raise DataError(
            f"image({position}) must be a uint8 tensor (C, H, W), but {came} came. Replay keeps pixels as they are "
            "stored, before normalisation."
        )
    return pixels.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _integers(values: Iterable[int] | None) -> Integers:
    return np.asarray([] if values is None else list(values), dtype=np.int64)
