"""Weights from files: read without running code, loaded whole or not at all."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pvision.errors import ConfigError, DataError

__all__ = ["is_weights_path", "load_exactly", "load_with_own_head", "read_weights", "without_head"]

_PICKLES = (".pth", ".pt", ".pyth")
_WRAPPERS = ("model_state", "state_dict", "model")
_COUNTER = "num_batches_tracked"  # of BatchNorm: published files from before 2018 have none, and torch fills it in
_SHOWN = 6


def read_weights(path: str | Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a weights file, on the CPU.

    Args:
        path: a ``.safetensors`` file, or a ``.pth``, ``.pt`` or ``.pyth`` file that holds a state dict, bare or under
            ``model_state``, ``state_dict`` or ``model``. The latter is read with ``weights_only=True``.
        sha256: the checksum that the file must have; None to accept any.

    Raises:
        ConfigError: if there is no such file or its suffix is another one.
        DataError: if it is damaged, has another checksum, holds no state dict, or has NaN or infinity in it.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"weights: there is no file {str(path)!r}. Give the path of a .safetensors or .pth file.")
    if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise DataError(f"{path} is damaged: its SHA-256 is not {sha256}. Install pvision again.")
    if path.suffix not in {".safetensors", *_PICKLES}:
        raise ConfigError(f"weights must be a .safetensors, .pth, .pt or .pyth file, but {str(path)!r} came.")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    broken = sorted(name for name, value in state.items() if not value.isfinite().all())
    if broken:
        raise DataError(f"{path} has values that are not finite{_listed(' in', broken)}. Fetch or export it again.")
    return state


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load ``state`` into ``module`` if both agree in every name and shape, and change nothing otherwise.

    Only BatchNorm's counters may be missing.

    Args:
        module: what to fill.
        state: the tensors by name.
        source: what to call ``state`` in the message.

    Raises:
        ConfigError: if they disagree; it lists what each side has that the other has not.
    """
    own = module.state_dict()
    missing = [name for name in own.keys() - state.keys() if not name.endswith(_COUNTER)]
    differences = [
        _listed("only the network has", sorted(missing)),
        _listed(f"only {source} has", sorted(state.keys() - own.keys())),
        _listed("shapes differ (network, weights)", _other_shapes(own, state)),
    ]
    if any(differences):
        raise ConfigError(
            f"weights: {source} does not fit {type(module).__name__}: {'; '.join(filter(None, differences))}. "
            "Use weights of this very architecture, input size and norm, or leave `weights` out."
        )
    module.load_state_dict(state)


def load_with_own_head(module: nn.Module, state: Mapping[str, Tensor], *, head: str, source: str) -> None:
    """Load ``state`` as `load_exactly` does, but keep the module's own head where the classes are others.

    Args:
        module: what to fill.
        state: the tensors by name.
        head: the dotted name of the last linear layer.
        source: what to call ``state`` in the message.

    Raises:
        ConfigError: if they disagree in anything but the number of classes.
    """
    own = module.state_dict()
    names = [f"{head}.weight", f"{head}.bias"]
    if all(name in state and state[name].shape[1:] == own[name].shape[1:] for name in names) and (
        state[names[0]].shape != own[names[0]].shape
    ):
        state = {**state, **{name: own[name] for name in names}}
    load_exactly(module, state, source=source)


def without_head(state: Mapping[str, Tensor], head: str = "head") -> dict[str, Tensor]:
    """Return ``state`` without the classifier that it was published with.

    Args:
        state: the tensors by name.
        head: the classifier's dotted name.
    """
    return {name: value for name, value in state.items() if not name.startswith(f"{head}.")}


def is_weights_path(weights: str) -> bool:
    """Tell whether ``weights`` is meant as a file and not as a name."""
    return Path(weights).suffix in {".safetensors", *_PICKLES} or "/" in weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is no readable safetensors file ({error}). Fetch or export it again.") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise nearly anything
        raise DataError(
            f"{path} cannot be read as plain tensors ({type(error).__name__}): it is damaged, or it holds code, which "
            "is never run. Fetch it again, or convert it to safetensors."
        ) from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path} holds no state dict (a mapping of names to tensors). Save model.state_dict() in it.")
    return dict(content)


def _other_shapes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    both = sorted(own.keys() & state.keys())
    return [
        f"{name} {tuple(own[name].shape)} {tuple(state[name].shape)}"
        for name in both
        if own[name].shape != state[name].shape
    ]


def _listed(title: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{title} {', '.join(names[:_SHOWN])}{more}"
