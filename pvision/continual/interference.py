"""How far an update of a linear layer moves outputs for old inputs, from second moments alone.

For an update ΔW of a layer, Δb of its bias, and old inputs X (columns) with second moments G = XXᵀ:

- change: ‖ΔW X + Δb 1ᵀ‖_F, exactly; for Δb = 0 it is √tr(ΔW G ΔWᵀ)
- bound: ‖ΔW‖₂ ‖(I − MMᵀ)X‖_F, which the change cannot exceed if ΔW M = 0 and Δb = 0

both as fractions of ‖W X‖_F, W being the weights before the update, or as they are where that is 0. The bound holds for
each single input, too: see `token_margin`. It is about a layer by itself: where earlier layers change, later ones see
other inputs.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pvision.continual.feature_recorder import input_dim
from pvision.continual.features import Features
from pvision.errors import ConfigError, DataError

__all__ = ["Interference", "affine_map", "interference", "token_margin"]

_ROUNDING = 64  # in units of the weights' precision


class Interference(NamedTuple):
    """What an update does to the outputs of one layer for old inputs.

    Attributes:
        change: how far they moved, as a fraction of their norm.
        bound: how far they can move if the update leaves memory and bias alone, the same way.
        leak: the size of that part of the update which acts on the memory, ‖ΔW M‖_F / ‖W‖_F; 0 if it keeps to the
            complement.
        update: the size of the update, ‖ΔW‖_F / ‖W‖_F.
    """

    change: float
    bound: float
    leak: float
    update: float

    def holds(self, tolerance: float) -> bool:
        """Return whether the change exceeds the bound by at most ``tolerance``; not so where either is NaN."""
        return self.change <= self.bound + tolerance


def affine_map(layer: nn.Module) -> Tensor:
    """Return the weights and the bias of a layer, ``(out, in + 1)``, float64, however adapters change it.

    A plain `nn.Linear` is read; any other layer, and one with hooks, is asked for its outputs for the unit vectors and
    zero, in evaluation mode.

    Raises:
        ConfigError: if its outputs are no linear function of its inputs.
    """
    hooked = layer._forward_hooks or layer._forward_pre_hooks  # adapters can come as hooks
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward and not hooked:
        weight = _wide(layer.weight)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else _wide(layer.bias)
        return torch.cat([weight, bias[:, None]], dim=1)
    like: Tensor | None = next(iter(layer.parameters()), None)
    if like is None:
        raise ConfigError(f"{type(layer).__name__} has no parameters, so it has no weights to compare.")
    dim, training = input_dim(layer), {one: one.training for one in layer.modules()}
    unit = torch.eye(dim, dtype=like.dtype, device=like.device)
    mixed = torch.linspace(-1, 1, dim, dtype=like.dtype, device=like.device)
    probes = torch.cat([unit, torch.zeros_like(unit[:1]), mixed[None]])[:, None]
    layer.eval()
    try:
        with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
            outputs = _wide(layer(probes)[:, 0])
    finally:
        for one, mode in training.items():
            one.training = mode
    weights, bias = (outputs[:dim] - outputs[dim]).T, outputs[dim]
    expected = weights @ _wide(mixed) + bias
    allowed = _ROUNDING * dim * _eps(like) * _largest(outputs)
    # Outputs that are not finite tell nothing: `interference` says that training diverged.
    if bool(outputs.isfinite().all()) and not torch.allclose(outputs[-1], expected, rtol=0, atol=allowed):
        raise ConfigError(
            f"The outputs of {type(layer).__name__} are no linear function of its inputs, so no weights can be "
            "compared. Choose the linear layers inside it by pattern, or shut its gates while it is read."
        )
    return torch.cat([weights, bias[:, None]], dim=1)


def interference(before: Tensor, after: Tensor, old: Features, basis: Tensor) -> Interference:
    """Return what the update from ``before`` to ``after`` does to outputs for old inputs.

    Args:
        before: weights and bias as `affine_map` returns them, ``(out, in + 1)``.
        after: the same after the update.
        old: second moments of old inputs, each with a 1 appended; see ``FeatureRecorder(ones=True)``.
        basis: the memory M, orthonormal columns ``(in, rank)``.

    Raises:
        DataError: if the weights are not finite.
    """
    if not bool(before.isfinite().all() and after.isfinite().all()):
        raise DataError("The weights are NaN or infinite, so what the update did is unknown: training diverged.")
    root = old.root().to(before)
    inputs, used = root[:, :-1], basis.to(before)
    delta = after.to(before) - before
    weights = delta[:, :-1]
    size = float(torch.linalg.matrix_norm(inputs @ before[:, :-1].T))
    spectral = float(torch.linalg.matrix_norm(weights, 2))
    unused = float(torch.linalg.matrix_norm(inputs - inputs @ used @ used.T))
    norm = float(torch.linalg.matrix_norm(before[:, :-1]))
    return Interference(
        change=_ratio(float(torch.linalg.matrix_norm(root @ delta.T)), size),
        bound=_ratio(spectral * unused, size),
        leak=_ratio(float(torch.linalg.matrix_norm(weights @ used)), norm),
        update=_ratio(float(torch.linalg.matrix_norm(weights)), norm),
    )


def token_margin(before: Tensor, after: Tensor, inputs: Tensor, basis: Tensor) -> float:
    """Return the largest excess of change over bound among single inputs, as a fraction of the largest ‖Wx‖.

    Args:
        before: weights and bias before the update, ``(out, in + 1)``.
        after: the same after it.
        inputs: old inputs, ``(…, in)``.
        basis: the memory M, ``(in, rank)``.

    Returns:
        At most 0, up to rounding, if the update leaves memory and bias alone.
    """
    tokens, used = inputs.reshape(-1, inputs.shape[-1]).to(before), basis.to(before)
    delta = after.to(before) - before
    moved = torch.linalg.vector_norm(tokens @ delta[:, :-1].T + delta[:, -1], dim=1)
    unused = torch.linalg.vector_norm(tokens - tokens @ used @ used.T, dim=1)
    bound = torch.linalg.matrix_norm(delta[:, :-1], 2) * unused
    return _ratio(float((moved - bound).max()), float(torch.linalg.vector_norm(tokens @ before[:, :-1].T, dim=1).max()))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else part


def _wide(values: Tensor) -> Tensor:
    values = values.detach()
    return (values.cpu() if values.device.type == "mps" else values).to(torch.float64)


def _eps(values: Tensor) -> float:
    return float(torch.finfo(values.dtype).eps)


def _largest(values: Tensor) -> float:
    return max(float(values.abs().max()), 1e-30)
