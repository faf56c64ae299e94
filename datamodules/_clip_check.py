"""The look at every clip before training, so that the number of records is fixed and faults are known by their path."""

import logging
from collections.abc import Callable, Sequence

from tqdm import tqdm

from pvision.datamodules.listing import Row
from pvision.datamodules.mask_source import Footage
from pvision.errors import DataError

__all__ = ["MAX_SKIPPED", "check_clips"]

MAX_SKIPPED = 0.01
"""A larger part than this, of more than one clip, stops the run: then the data set is at fault, not a file."""

_SHOWN = 20
_log = logging.getLogger(__name__)


def check_clips(
    rows: Sequence[Row], inspect: Callable[[Row], Footage], *, skip: bool
) -> tuple[list[tuple[Row, Footage]], list[tuple[str, str]]]:
    """Inspect all clips, with a progress bar.

    Args:
        rows: the clips.
        inspect: opens one clip and its mask, and raises `DataError` if something is wrong with them.
        skip: leave such clips out and count them, instead of raising the error.

    Returns:
        The good clips in their order, and path and reason of each that was left out.

    Raises:
        DataError: if a clip is bad and ``skip`` is False, or more than 1 % and more than one are.
    """
    good: list[tuple[Row, Footage]] = []
    skipped: list[tuple[str, str]] = []
    for row in tqdm(rows, desc="Checking clips", unit="clip", disable=None, leave=False):
        try:
            good.append((row, inspect(row)))
        except DataError as error:
            if not skip:
                raise
            skipped.append((str(row.path), str(error)))
    if len(skipped) > max(1, MAX_SKIPPED * len(rows)):
        raise DataError(
            f"{len(skipped)} of {len(rows)} clips cannot be used, more than the 1 % that `on_error: skip` may leave "
            f"out. Mend or remove them:\n{_listed(skipped)}"
        )
    if skipped:
        _log.warning("%d of %d clips were left out:\n%s", len(skipped), len(rows), _listed(skipped))
    return good, skipped


def _listed(skipped: Sequence[tuple[str, str]]) -> str:
    lines = [f"  {reason}" for _, reason in skipped[:_SHOWN]]
    if len(skipped) > _SHOWN:
        lines.append(f"  and {len(skipped) - _SHOWN} more")
    return "\n".join(lines)
