"""What adapters a model has, as JSON: enough to rebuild them before their tensors are read."""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pvision.adapters.adapter import ADAPTER_KINDS, Adapter
from pvision.adapters.places import Place
from pvision.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pvision.adapters.stack import AdapterStack

__all__ = ["checked_description", "describe", "described", "new_adapters", "new_magnitudes", "rebuilt"]

_FORMAT = 1


def describe(adapted: "AdapterStack", names: Iterable[str]) -> dict[str, Any]:
    """Return the adapters of these names as plain values: where each part is, of which kind, with which settings."""
    chosen = list(names)
    parts = [
        {
            "adapter": name,
            "place": layer.name,
            "kind": adapter.kind,
            "dtype": str(next(adapter.parameters()).dtype).removeprefix("torch."),
            "factor": adapter.factor,
            "trainable": [key for key, parameter in adapter.named_parameters() if parameter.requires_grad],
            "settings": dict(adapter.settings()),
        }
        for layer in adapted.layers
        for name, adapter in layer.adapters.items()
        if name in chosen
    ]
    magnitudes = [
        {"adapter": name, "trainable": value.requires_grad}
        for name, value in adapted.magnitudes.items()
        if name in chosen
    ]
    return {
        "format": _FORMAT,
        "names": chosen,
        "active": [name for name in adapted.active if name in chosen],
        "magnitudes": magnitudes,
        "parts": parts,
    }


def described(adapted: "AdapterStack") -> Tensor:
    """Return the description of all adapters as a tensor of bytes: what reads a state dict expects tensors in it."""
    text = json.dumps(describe(adapted, adapted.names), sort_keys=True)
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def rebuilt(adapted: "AdapterStack", state: Tensor) -> None:
    """Give the model the adapters that the bytes describe; where it has them already, their parameters stay the same.

    Raises:
        ConfigError: if a place does not exist in this network.
    """
    wanted = json.loads(bytes(state.cpu().tolist()).decode())
    if _structure(wanted) != _structure(describe(adapted, adapted.names)):
        made = new_adapters(adapted, wanted)
        adapted.reset(wanted["names"])
        for place, name, adapter in made:
            adapted.sites.put(place, name, adapter)
        new_magnitudes(adapted, wanted)
    for layer in adapted.layers:
        for name, adapter in layer.adapters.items():
            _set_state(adapter, next(p for p in wanted["parts"] if (p["place"], p["adapter"]) == (layer.name, name)))
    for each in wanted["magnitudes"]:
        adapted.magnitudes[each["adapter"]].requires_grad_(each["trainable"])
    adapted.activate(*wanted["active"])


def checked_description(text: str, path: object) -> dict[str, Any]:
    """Return a description that was read from a file.

    Raises:
        DataError: if it is none, or of a format that this version does not know.
    """
    try:
        description = json.loads(text)
        format_ = description["format"]
        complete = _structure(description) is not None and isinstance(description["active"], list)
    except (ValueError, KeyError, TypeError):
        format_, complete = _FORMAT, False
    if format_ != _FORMAT:
        raise DataError(f"{path} has format {format_!r}, but this version reads {_FORMAT}. Update pvision.")
    if not complete:
        raise DataError(f"{path} is damaged: its header describes no adapters. Save the adapters again.")
    return dict(description)


def new_adapters(adapted: "AdapterStack", description: Mapping[str, Any]) -> list[tuple[Place, str, Adapter]]:
    """Return new adapters for all parts of a description, each with its place and its name, the oldest first.

    Raises:
        ConfigError: if a place does not exist in this network, or a kind of adapter is unknown.
    """
    places = {place.name: place for place in adapted.places}
    made = []
    for name in description["names"]:
        for part in (part for part in description["parts"] if part["adapter"] == name):
            place = places.get(part["place"])
            if place is None:
                lacking = f"there is an adapter for {part['place']}, which this network lacks"
                raise ConfigError(f"{lacking}. Use the network it was made for.")
            made.append((place, name, _new_adapter(place, part, like=adapted.sites.weight_at(place))))
    return made


def new_magnitudes(adapted: "AdapterStack", description: Mapping[str, Any]) -> None:
    """Give the adapters that a description tells of their magnitudes, whose values are then filled."""
    for each in description["magnitudes"]:
        adapted.put_magnitude(each["adapter"], 1.0)
        adapted.magnitudes[each["adapter"]].requires_grad_(each["trainable"])


def _new_adapter(place: Place, part: Mapping[str, Any], *, like: Tensor) -> Adapter:
    """Return the adapter that one part of a description tells of, its tensors not yet filled.

    Raises:
        ConfigError: if its kind is unknown, which happens when the module that defines it was not imported.
        DataError: if its settings are not those of its kind.
    """
    kind = ADAPTER_KINDS.get(str(part["kind"]))
    if kind is None:
        known = ", ".join(sorted(ADAPTER_KINDS))
        raise ConfigError(
            f"no adapter kind {part['kind']!r} is known ({known}). Import the module that defines it first."
        )
    try:
        adapter = kind.rebuild(place, part["settings"]).to(device=like.device, dtype=getattr(torch, str(part["dtype"])))
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        what = f"the settings of the {part['kind']} at {place.name} are damaged"
        raise DataError(f"{what} ({type(error).__name__}: {error}). Save the adapters again.") from None
    _set_state(adapter, part)
    return adapter


def _structure(description: Mapping[str, Any]) -> object:
    """Return what of a description shapes the tensors."""
    fixed = ("adapter", "place", "kind", "dtype", "settings")
    parts = [[part[key] for key in fixed] for part in description["parts"]]
    magnitudes = [each["adapter"] for each in description["magnitudes"]]
    return description["names"], magnitudes, sorted(parts, key=lambda part: part[:2])


def _set_state(adapter: Adapter, part: Mapping[str, Any]) -> None:
    adapter.factor = float(part["factor"])
    for key, parameter in adapter.named_parameters():
        parameter.requires_grad_(key in part["trainable"])
