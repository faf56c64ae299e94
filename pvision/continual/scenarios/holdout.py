"""Validation records, held out of the training records of each experience."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pvision.continual.experience import Experience, Positions

__all__ = ["hold_out"]


def hold_out(experiences: Sequence[Experience], labels: Positions, *, fraction: float, seed: int) -> list[Experience]:
    """Hold records of each class of each experience out for validation.

    Args:
        experiences: to learn.
        labels: int64 ``(N,)``, of all training records.
        fraction: part of the records to hold out, rounded for each class; one record at least stays for training.
        seed: draws the records.

    Returns:
        The experiences with ``val`` filled, and ``train`` without those records; both are in order.
    """
    if fraction == 0:
        return list(experiences)
    held = []
    for experience in experiences:
        random = np.random.RandomState([seed % 2**32, seed // 2**32, experience.index])
        val = [
            _draw(experience.train[labels[experience.train] == label], fraction, random) for label in experience.classes
        ]
        chosen = np.sort(np.concatenate(val))
        held.append(replace(experience, train=np.setdiff1d(experience.train, chosen), val=chosen))
    return held


def _draw(records: Positions, fraction: float, random: np.random.RandomState) -> Positions:
    return random.permutation(records)[: min(round(len(records) * fraction), len(records) - 1)]
