"""The one call that adapts a network."""

from collections.abc import Collection, Sequence

import torch
from torch import nn

from pvision.adapters.adapted import AdaptedModel
from pvision.adapters.adapter import AdapterMethod

__all__ = ["add_adapters"]


def add_adapters(
    model: nn.Module,
    method: AdapterMethod,
    *,
    name: str = "adapter",
    targets: str | Sequence[str] | None = None,
    blocks: Collection[int] | None = None,
    dtype: torch.dtype | None = None,
) -> AdaptedModel:
    """Freeze ``model`` and return it with one new trainable adapter at each place that ``targets`` names.

    Given an `AdaptedModel`, it stacks another adapter on those that are there, which are frozen.

    Args:
        model: any timm, torchvision or Hugging Face vision transformer, or any network with linear layers. It is
            changed in place: its parameters stop requiring gradients, and its layers call the adapters.
        method: the settings, for example ``LoRA(rank=8)``.
        name: what to call the adapter in files and in `AdaptedModel.activate`.
        targets: roles (``q``, ``k``, ``v``, ``qkv``, ``o``, ``fc1``, ``fc2``, ``mlp``, ``attention``), full names of
            places, or regular expressions that match whole names; None for the method's own choice.
        blocks: only these transformer blocks, counted from 0 at the input; None for all.
        dtype: of the new parameters; None for that of the weights they sit at.

    Raises:
        ConfigError: if no layer meets a target (the message lists those that exist), a setting does not fit a layer,
            the name is taken or no name, or the weights are not floating-point numbers.

    Example:
        >>> from pvision.adapters import LoRA
        >>> network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> adapted = add_adapters(network, LoRA(rank=2), targets="0")
        >>> sorted(adapted.trainable_parameters())
        ['0/adapter/down', '0/adapter/up']
    """
    adapted = model if isinstance(model, AdaptedModel) else AdaptedModel(model)
    adapted.add(method, name=name, targets=targets, blocks=blocks, dtype=dtype)
    return adapted
