"""LoRA adapters as PEFT sees them: one A and one B for a whole module."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pvision.adapters.adapted import AdaptedModel
from pvision.adapters.lora import LowRank
from pvision.adapters.places import Place
from pvision.errors import ConfigError

__all__ = ["Matrix", "Part", "peft_matrices", "peft_target", "taken_apart"]

# PEFT keeps an attention layer's out_proj under this name, inside the layer.
_OUT = "base_layer.out_proj"


class Part(NamedTuple):
    """What one place contributes: A, ``(rank, in)``, B, ``(out, rank)``, and what B A is multiplied with."""

    place: Place
    down: Tensor
    up: Tensor
    scaling: float


class Matrix(NamedTuple):
    """What PEFT keeps for one matrix of the network.

    Attributes:
        key: what the names of its tensors begin with.
        target: the module that PEFT adapts.
        down: A, ``(rank, in)``.
        up: B, ``(rows of the whole matrix, rank)``.
        scaling: what B A is multiplied with.
        thirds: the places that share it, each with its number of ranks, in the order of the rows of A; None if unknown.
    """

    key: str
    target: str
    down: Tensor
    up: Tensor
    scaling: float
    thirds: Sequence[tuple[str, int]] | None


def peft_matrices(adapted: AdaptedModel, names: Sequence[str], *, out_proj_times: int | None) -> list[Matrix]:
    """Return the sum of these adapters, one matrix for each that they change.

    Args:
        adapted: what holds them.
        names: which ones.
        out_proj_times: how often PEFT adds the change of a `torch.nn.MultiheadAttention`'s ``out_proj``.

    Raises:
        ConfigError: if one of them is not of low rank, or ``out_proj_times`` is needed and None.
    """
    parts: dict[str, list[Part]] = {}
    for layer in adapted.layers:
        for name, adapter in layer.adapters.items():
            if name in names:
                part = _part(layer.place, name, adapter)
                parts.setdefault(layer.place.module, []).append(part)
    found = [_shared_out(_stacked(adapted, module, group), out_proj_times) for module, group in parts.items()]
    attentions = [m.target for m in found if isinstance(adapted.base.get_submodule(m.target), nn.MultiheadAttention)]
    plain = [matrix for matrix in found if matrix.target not in attentions]
    return plain + [one for target in dict.fromkeys(attentions) for one in _paired(adapted, target, found)]


def peft_target(key: str) -> str:
    """Return the module that PEFT adapts where the names of tensors begin with ``key``."""
    return key.removesuffix(f".{_OUT}")


def taken_apart(adapted: AdaptedModel, matrix: Matrix, *, out_proj_times: int | None) -> list[Part]:
    """Return the parts of one of PEFT's matrices: its thirds, or where it names none, one on the whole.

    Raises:
        ConfigError: if the network has no such matrix, or ``out_proj_times`` is needed and None.
    """
    places = {place.name: place for place in adapted.places if place.kind == "linear"}
    name = matrix.key.replace(f".{_OUT}", ".out_proj")
    whole = places.get(f"{name}.in_proj", places.get(name))
    if whole is None:
        lacking = f"the folder has an adapter for {name}, which this network lacks or has as no linear layer"
        raise ConfigError(f"{lacking}. Use the network it was made for.")
    whole_up = matrix.up * _times(matrix.key, matrix.up, out_proj_times)
    parts: dict[Place, Part] = {}
    first = 0
    for third, rank in [(name, len(matrix.down))] if matrix.thirds is None else matrix.thirds:
        place, ranks = places.get(third, whole), slice(first, first + rank)
        rows = slice(place.first_row, place.first_row + place.out_features) if place != whole else slice(None)
        part = Part(place, matrix.down[ranks], whole_up[rows, ranks], matrix.scaling)
        parts[place] = part if place not in parts else _sum(parts[place], part)
        first += rank
    return list(parts.values())


def _sum(one: Part, other: Part) -> Part:
    """Return both parts of one place, which several adapters shared, as one."""
    return one._replace(down=torch.cat([one.down, other.down]), up=torch.cat([one.up, other.up], 1))


def _times(key: str, up: Tensor, out_proj_times: int | None) -> int:
    """Return how often PEFT adds this matrix' change.

    Raises:
        ConfigError: if that has to be said and was not.
    """
    if not key.endswith(f".{_OUT}") or not bool(up.any()):
        return 1
    if out_proj_times is None:
        raise ConfigError(
            f"PEFT up to 0.21.2 adds twice what an adapter changes at {peft_target(key)}.out_proj, a known defect "
            "(huggingface/peft#3774). Say how often the PEFT that shares this folder does: out_proj_times=2, or 1."
        )
    if out_proj_times not in (1, 2):
        raise ConfigError(f"out_proj_times must be 1 or 2, but {out_proj_times!r} came.")
    return out_proj_times


def _shared_out(matrix: Matrix, out_proj_times: int | None) -> Matrix:
    return matrix._replace(up=matrix.up / _times(matrix.key, matrix.up, out_proj_times))


def _part(place: Place, name: str, adapter: nn.Module) -> Part:
    if not isinstance(adapter, LowRank):
        kind = type(adapter).__name__
        raise ConfigError(
            f"{name!r} is a {kind} at {place.name}, and PEFT's format takes LoRA only. Name other adapters."
        )
    if not adapter.mergeable:
        raise ConfigError(f"{name!r} has a gate at {place.name}, which PEFT's format cannot hold. Switch it off first.")
    down, up = adapter.down_matrix().detach(), adapter.up_matrix().detach()
    return Part(place, down, up, adapter.scaling * float(adapter.multiplier))


def _stacked(adapted: AdaptedModel, module: str, parts: list[Part]) -> Matrix:
    """Return the sum of all parts of one module: their A above each other, their B side by side at their rows."""
    rows = _sides(adapted, module)[0]
    same = len({part.scaling for part in parts}) == 1
    scaling = parts[0].scaling if same else 1.0
    ups = []
    for part in parts:
        up = part.up.new_zeros(rows, part.up.shape[1])
        first = part.place.first_row
        up[first : first + part.place.out_features] = part.up if same else part.up * part.scaling
        ups.append(up)
    owner = module.rpartition(".")[0]
    inside = isinstance(adapted.base.get_submodule(owner), nn.MultiheadAttention)
    return Matrix(
        key=f"{owner}.{_OUT}" if inside else module,
        target=owner if inside else module,
        down=torch.cat([part.down for part in parts]),
        up=torch.cat(ups, 1),
        scaling=scaling,
        thirds=[(part.place.name, len(part.down)) for part in parts],
    )


def _paired(adapted: AdaptedModel, target: str, found: Sequence[Matrix]) -> list[Matrix]:
    """Return both matrices of an attention layer with one rank and one scaling, as PEFT wants them."""
    both = {matrix.key: matrix for matrix in found if matrix.target == target}
    like = next(iter(both.values()))
    for key, module in ((target, target), (f"{target}.{_OUT}", f"{target}.out_proj")):
        if key not in both:
            rows, columns = _sides(adapted, module)
            none = Matrix(key, target, like.down.new_zeros(0, columns), like.up.new_zeros(rows, 0), like.scaling, [])
            both[key] = none
    same = len({matrix.scaling for matrix in both.values()}) == 1
    rank = max(len(matrix.down) for matrix in both.values())
    return [
        matrix._replace(
            down=nn.functional.pad(matrix.down, (0, 0, 0, rank - len(matrix.down))),
            up=nn.functional.pad(matrix.up if same else matrix.up * matrix.scaling, (0, rank - len(matrix.down))),
            scaling=matrix.scaling if same else 1.0,
        )
        for matrix in both.values()
    ]


def _sides(adapted: AdaptedModel, module: str) -> tuple[int, int]:
    """Return rows and columns of a module's whole matrix."""
    whole = max(
        (place for place in adapted.places if place.module == module and place.kind == "linear"),
        key=lambda place: place.out_features,
    )
    return whole.out_features, whole.in_features
