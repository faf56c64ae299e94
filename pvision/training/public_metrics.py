"""Which metrics may steer training."""

import re
from collections.abc import Collection

__all__ = ["is_public_metric"]

_PUBLIC = re.compile(r"(val|valid|validation|test)([/_.\-]|$)|privacy/|(epoch|step)$")


def is_public_metric(name: str, others: Collection[str] = ()) -> bool:
    """Tell whether a metric's name says that no private training record enters it without noise.

    Args:
        name: as it was logged.
        others: further names known to be public.

    Example:
        >>> is_public_metric("val/accuracy"), is_public_metric("train/loss"), is_public_metric("loss")
        (True, False, False)
    """
    return name in others or _PUBLIC.match(name) is not None
