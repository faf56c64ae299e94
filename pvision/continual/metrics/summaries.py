"""All metrics of one accuracy matrix at once, under the names by which they are logged."""

from collections.abc import Collection

import numpy.typing as npt

from pvision.continual.metrics._measurements import read
from pvision.continual.metrics.registry import all_definitions

__all__ = ["compatible", "summary"]


def summary(
    matrix: npt.ArrayLike,
    counts: npt.ArrayLike | None = None,
    baseline: npt.ArrayLike | None = None,
    reference: npt.ArrayLike | None = None,
    independent: npt.ArrayLike | None = None,
    *,
    forgotten: Collection[int] = (),
) -> dict[str, float]:
    """Return every metric in its default definition, and the micro averages where counts are known.

    Metrics that need something which is not given are missing; what is undefined is NaN.

    Args:
        matrix: R, ``(T, T)`` or with columns to come, fractions.
        counts: test records per experience, ``(T,)``: adds the micro averages.
        baseline: accuracy before any training, ``(T,)``: adds forward transfer.
        reference: accuracy of joint training, ``(T,)``: adds intransigence.
        independent: accuracy of models trained on one experience alone, ``(T,)``: adds the learning accuracy's gap.
        forgotten: columns that count nowhere, because those experiences were forgotten on request.

    Returns:
        Values under keys such as ``continual/forgetting``.

    Example:
        >>> values = summary([[0.9, 0.1], [0.7, 0.8]])
        >>> round(values["continual/average_accuracy"], 6), round(values["continual/forgetting"], 6)
        (0.75, 0.2)
    """
    measured = read(
        matrix, counts=counts, baseline=baseline, reference=reference, independent=independent, forgotten=forgotten
    )
    wanted = [definition for definition in all_definitions() if definition.default or definition.needs == "counts"]
    return {
        definition.key: definition.compute(measured)
        for definition in wanted
        if definition.needs is None or getattr(measured, definition.needs) is not None
    }


def compatible(matrix: npt.ArrayLike) -> dict[str, float]:
    """Return forgetting and transfer as other frameworks compute them.

    Args:
        matrix: R, ``(T, T)`` or with columns to come, fractions.

    Returns:
        Values under keys that contain the definition, such as ``continual/forgetting_mammoth``.
    """
    measured = read(matrix)
    others = [definition for definition in all_definitions() if not definition.default and definition.needs is None]
    return {definition.key: definition.compute(measured) for definition in others}
