"""The one collective of a release: everybody's part added up, or everybody told that there is no release."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pvision.errors import PrivacyError
from pvision.privacy.ranks import Ranks

__all__ = ["agreed_sum"]

_MODULUS = 4096  # small whole numbers are added up without rounding in any dtype


def agreed_sum(
    own: Mapping[str, Tensor], *, refusal: Exception | None, state: Sequence[int], ranks: Ranks
) -> dict[str, Tensor]:
    """Return the sum of all ranks' parts, the same bits on each, by a single all-reduce.

    Args:
        own: this rank's part; all ranks have the same names and shapes, in the same order.
        refusal: why this rank takes no part, if it does not; its part does not matter then.
        state: whole numbers on which all ranks must agree, such as the number of the release.
        ranks: the processes.

    Raises:
        Exception: ``refusal``, if this rank refused.
        PrivacyError: if another rank refused, or the ranks disagree on ``state``.
    """
    if ranks.world_size == 1:
        if refusal is not None:
            raise refusal
        return dict(own)
    expected = [number % _MODULUS for number in state]
    some = next(iter(own.values()))
    control = some.new_tensor([float(refusal is not None), *expected])
    summed = ranks.add_up(torch.cat([control, *(value.flatten() for value in own.values())]))
    refused, *sums = summed[: len(control)].tolist()
    if refusal is not None:
        raise refusal
    if refused:
        raise PrivacyError("Another rank refused this release, so nothing was released; its own message says why.")
    if sums != [ranks.world_size * number for number in expected]:
        raise PrivacyError(
            f"The ranks are not at the same release (this one is at {list(state)}), so nothing was released. Every "
            "rank must iterate mechanism.batches equally often, and release every batch."
        )
    parts = torch.split(summed[len(control) :], [value.numel() for value in own.values()])
    return {name: part.reshape(value.shape) for (name, value), part in zip(own.items(), parts, strict=True)}
