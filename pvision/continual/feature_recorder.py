"""Hooks that collect what goes into the linear layers of a network."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pvision.continual.features import FeatureFactor, FeatureGram
from pvision.errors import ConfigError, DataError

__all__ = ["FeatureRecorder", "InputRecorder", "find_linears", "input_dim", "record_features"]

Kept = TypeVar("Kept", FeatureFactor, FeatureGram)


def find_linears(network: nn.Module, patterns: Iterable[str] = ("*",)) -> dict[str, nn.Module]:
    """Return the linear layers whose names match one of the patterns, in the order of the network.

    A layer is linear if it has ``in_features``, ``out_features`` and a matrix ``weight``, as torch's and those that
    wrap it with adapters. What lies inside such a layer belongs to it.

    Args:
        network: any module.
        patterns: shell patterns of full names, as ``"blocks.*.attn.qkv"``.

    Raises:
        ConfigError: if a pattern matches none.

    Example:
        >>> list(find_linears(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), ["2"]))
        ['2']
    """
    linears: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        if _is_linear(module) and not any(name.startswith(f"{outer}.") for outer in linears):
            linears[name] = module
    chosen = set()
    for pattern in patterns:
        matching = {name for name in linears if fnmatchcase(name, pattern)}
        if not matching:
            there = ", ".join(linears) or "none"
            raise ConfigError(f"layers has the pattern {pattern!r}, which no linear layer matches. There are: {there}.")
        chosen |= matching
    return {name: module for name, module in linears.items() if name in chosen}


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    sized = all(isinstance(getattr(module, name, None), int) for name in ("in_features", "out_features"))
    return sized and isinstance(weight, Tensor) and weight.ndim == 2


def input_dim(layer: nn.Module) -> int:
    """Return the entries of an input of a layer from `find_linears`, or of the queries of an attention layer."""
    if isinstance(layer, nn.MultiheadAttention):
        return int(layer.embed_dim)
    return int(layer.in_features)  # type: ignore[arg-type]  # find_linears chose it for having them


class InputRecorder:
    """While it is entered, keep the inputs of layers themselves.

    Args:
        layers: by name, as `find_linears` returns them.

    Attributes:
        inputs: for each layer that was called, what it was called with.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.layers = dict(layers)
        self.inputs: dict[str, list[Tensor]] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, layer in self.layers.items():
            self._handles.append(layer.register_forward_pre_hook(self._hook(name), with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def take(self, name: str, features: Tensor) -> None:
        """Take one input of one layer."""
        self.inputs.setdefault(name, []).append(features.detach().clone())

    def _hook(self, name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), None)
            if given is None:
                raise DataError(f"The layer {name!r} was called without a tensor, so its features are unknown.")
            self.take(name, given)

        return hook


class FeatureRecorder(InputRecorder, Generic[Kept]):
    """While it is entered, add the inputs of layers to their second moments.

    Args:
        layers: by name, as `find_linears` returns them.
        kind: how second moments are held.
        ones: append a 1 to each input, so that what a bias does is seen too.

    Attributes:
        features: second moments for each layer.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> with FeatureRecorder(find_linears(network)) as recorder:
        ...     _ = network(torch.ones(5, 4))
        >>> {name: features.count for name, features in recorder.together().items()}
        {'0': 5, '1': 5}
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        *,
        kind: type[Kept] = FeatureFactor,  # type: ignore[assignment]  # a default for a type variable
        ones: bool = False,
    ) -> None:
        super().__init__(layers)
        self.features: dict[str, Kept] = {name: kind(input_dim(layer) + ones) for name, layer in layers.items()}
        self._ones = ones

    def take(self, name: str, features: Tensor) -> None:
        """Add one input of one layer."""
        if self._ones:
            features = torch.cat([features, features.new_ones(*features.shape[:-1], 1)], dim=-1)
        self.features[name].add(features)

    def together(self) -> dict[str, Kept]:
        """Return the second moments of all processes together; a collective.

        Raises:
            ConfigError: if a layer was not called on any of them.
        """
        joined = {name: features.together() for name, features in self.features.items()}
        silent = [name for name, features in joined.items() if not features.count]
        if silent:
            raise ConfigError(
                f"The layers {', '.join(silent)} were never called, so nothing is known of their inputs. torch's "
                "MultiheadAttention, for one, uses the weights of its layers directly: choose others by pattern."
            )
        return joined


def record_features(
    network: nn.Module,
    layers: Iterable[str],
    batches: Iterable[Any],
    *,
    forward: Callable[[Any], object] | None = None,
) -> dict[str, FeatureFactor]:
    """Return the second moments of what goes into some layers while the network sees all batches; a collective.

    The network runs in evaluation mode and without gradients; its modes are put back afterwards. Each process passes
    batches of its own, and gets the moments of all.

    Args:
        network: any module.
        layers: shell patterns of linear layers, as for `find_linears`. A third of a fused layer has the inputs of the
            whole: ``blocks.0.attn.qkv`` for ``blocks.0.attn.qkv.q``.
        batches: what the network is called with, on its device.
        forward: how it sees a batch; None calls ``network(batch)``.

    Raises:
        ConfigError: if a pattern matches no layer, or a layer was not called on any process.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        >>> seen = record_features(network, ["2"], torch.ones(6, 4).split(2))
        >>> seen["2"].count, seen["2"].dim
        (6, 3)
    """
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with FeatureRecorder(find_linears(network, layers)) as recorder, torch.no_grad():
            for batch in batches:
                (forward or network)(batch)
    finally:
        for module, mode in training.items():
            module.training = mode
    return recorder.together()
