"""Which places of a model are meant: by role, by name, or by a regular expression."""

import re
from collections.abc import Collection, Sequence

from pvision.adapters.places import Place
from pvision.checks import positive_int
from pvision.errors import ConfigError

__all__ = ["ROLES", "check_targets", "choose_places"]

ROLES = ("q", "k", "v", "qkv", "o", "fc1", "fc2", "mlp", "attention")
_SHOWN = 40


def check_targets(targets: str | Sequence[str]) -> tuple[str, ...]:
    """Return ``targets`` as a tuple of strings.

    Raises:
        ConfigError: if it holds something else or nothing.
    """
    chosen = (targets,) if isinstance(targets, str) else tuple(targets)
    if not chosen or not all(isinstance(target, str) and target for target in chosen):
        raise ConfigError(
            f"targets must be roles ({', '.join(ROLES)}), names of layers or regular expressions, but {targets!r} came."
        )
    return chosen


def choose_places(
    places: Sequence[Place], *, targets: str | Sequence[str], kind: str, blocks: Collection[int] | None = None
) -> list[Place]:
    """Return the places that ``targets`` names, in the order of the model.

    Args:
        places: all places of a model.
        targets: each a role, the full name of a place, or a regular expression that matches a whole name.
        kind: what can sit there: ``linear``, ``mlp`` or ``attention``.
        blocks: the blocks that are meant, counted from 0 at the input; None for all, and for places outside blocks.

    Raises:
        ConfigError: if a target is met by no place, is no regular expression, or a block does not exist; the message
            lists what exists.
    """
    offered = [place for place in places if place.kind == kind]
    if not offered:
        raise ConfigError(f"the model has no {_WHAT[kind]}, so no adapter of this kind can be added to it.")
    allowed = _in_blocks(offered, blocks)
    met: set[str] = set()
    for target in check_targets(targets):
        names = {place.name for place in allowed if _meets(place, target)}
        if not names:
            raise ConfigError(
                f"targets: no {_WHAT[kind]} meets {target!r}{_within(blocks)}. There are: {listed(allowed)}."
            )
        met |= names
    return [place for place in allowed if place.name in met]


_WHAT = {"linear": "linear layer", "mlp": "whole MLP", "attention": "attention layer"}


def _in_blocks(places: list[Place], blocks: Collection[int] | None) -> list[Place]:
    if blocks is None:
        return places
    existing = sorted({place.block for place in places if place.block is not None})
    wanted = {positive_int("blocks", block, low=0) for block in blocks}
    if not wanted or wanted - set(existing):
        span = f"0 to {existing[-1]}" if existing else "none"
        raise ConfigError(f"blocks must name transformer blocks of the model ({span}), but {sorted(wanted)} came.")
    return [place for place in places if place.block in wanted]


def _meets(place: Place, target: str) -> bool:
    if target in ROLES:
        return place.role == target and place.block is not None
    try:
        return place.name == target or re.fullmatch(target, place.name) is not None
    except re.error as error:
        raise ConfigError(f"targets: {target!r} is no regular expression ({error}).") from None


def _within(blocks: Collection[int] | None) -> str:
    return "" if blocks is None else f" in the blocks {sorted(blocks)}"


def listed(places: Sequence[Place]) -> str:
    """Return the names for a message, those that differ in their numbers written once, each with its role."""
    patterns: dict[tuple[str, str], int] = {}
    for place in places:
        key = (re.sub(r"(?<=[._])\d+(?=\.)", "*", place.name), place.role)
        patterns[key] = patterns.get(key, 0) + 1
    words = [f"{name} ({role}{f', {count} of them' if count > 1 else ''})" for (name, role), count in patterns.items()]
    return ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")
