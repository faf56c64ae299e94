"""Validation records of streams in which a record can come in several experiences."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pvision.continual.experience import Experience, Positions

__all__ = ["hold_out_for_good"]


def hold_out_for_good(experiences: Sequence[Experience], *, fraction: float, seed: int) -> list[Experience]:
    """Hold records of each experience out for validation, so that none of them is trained in any experience.

    Whether a record is held out is decided in the first experience that has it. Later ones draw among the records that
    are new to them, as many as bring the held-out share to ``fraction``.

    Args:
        experiences: to learn.
        fraction: part of each experience's records to hold out, rounded; one record at least stays for training.
        seed: draws the records.

    Returns:
        The experiences with ``val`` filled, and ``train`` without those records; both are in order.
    """
    if fraction == 0:
        return list(experiences)
    held, trained = _none(), _none()
    divided = []
    for experience in experiences:
        random = np.random.RandomState([seed % 2**32, seed // 2**32, experience.index])
        records = experience.train
        new = np.setdiff1d(records, np.union1d(held, trained))
        wanted = min(round(len(records) * fraction), len(records) - 1) - np.isin(records, held).sum()
        held = np.union1d(held, random.permutation(new)[: max(0, wanted)])
        val = np.intersect1d(records, held)
        rest = np.setdiff1d(records, val)
        trained = np.union1d(trained, rest)
        divided.append(replace(experience, train=rest, val=val))
    return divided


def _none() -> Positions:
    return np.empty(0, dtype=np.int64)
