"""What a network costs: parameters, bytes, multiplications and passes for one image."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["NOT_COUNTED", "ForwardCost", "forward_cost", "tensor_bytes", "tensors_in"]

NOT_COUNTED = (
    "everything but matrix products, convolutions and attention: biases, activations, normalisation, softmax, pooling, "
    "embeddings, distances, vector products; LSTM on CPU, and parts of other fused recurrent layers; kernels of other "
    "libraries"
)
"""What `forward_cost` leaves out of the multiplications, as the field does."""


class ForwardCost(NamedTuple):
    """The cost of one image.

    Attributes:
        gmacs: 10⁹ multiplications with addition.
        forwards: how often an image passes through the backbone; NaN if no backbone was named.
    """

    gmacs: float
    forwards: float


def forward_cost(call: Callable[[Tensor], Any], image: Tensor, *, backbone: nn.Module | None = None) -> ForwardCost:
    """Return what ``call(image)`` costs, by calling it once.

    Attention is counted alike on all devices: it is computed by its formula meanwhile, and torch's fused encoder
    layers, which hide it, are switched off. Random generators are left as they were.

    Args:
        call: predicts.
        image: a batch of one, ``(1, …)``.
        backbone: the submodule whose passes are counted, in images: one pass of a batch of five crops counts as five.

    Example:
        >>> forward_cost(torch.nn.Linear(1000, 500), torch.ones(1, 1000)).gmacs
        0.0005
    """
    passed: list[int] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and one.ndim), None)
        passed.append(1 if given is None else len(given))

    fused = torch.backends.mha.get_fastpath_enabled()
    handle = backbone.register_forward_pre_hook(note, with_kwargs=True) if backbone is not None else None
    devices = [image.device] if image.device.type == "cuda" else []
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        counter = FlopCounterMode(display=False)
        with torch.random.fork_rng(devices), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            call(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        if handle is not None:
            handle.remove()
    forwards = float("nan") if backbone is None else sum(passed) / len(image)
    return ForwardCost(counter.get_total_flops() / 2e9 / len(image), forwards)


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of all elements; a tensor that occurs twice, as a tied weight does, counts once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _distinct(tensors))


def tensors_in(state: Any) -> list[Tensor]:
    """Return the tensors of a nested state, each one once."""
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, dict):
        return _distinct(tensor for item in state.values() for tensor in tensors_in(item))
    if isinstance(state, list | tuple):
        return _distinct(tensor for item in state for tensor in tensors_in(item))
    return []


def _distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    def place(tensor: Tensor) -> tuple[int, ...]:
        # Tensors without elements or data all lie at address 0.
        return (tensor.data_ptr() or id(tensor), tensor.numel(), tensor.element_size())

    return list({place(tensor): tensor for tensor in tensors}.values())
