"""Per-record gradients: the reference engine, and two ways to hold them.

The engine is `torch.func`: slow, obvious and right for any network whose samples do not meet. Norms and sums are taken
in float64, where the device has it: in float32 the square of 1e-25 is 0 and passes every clipping bound, and the
rounding of a sum over thousands of records moves it by more than one record may.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from pvision.privacy.views import TwoViews

__all__ = [
    "DenseGradients",
    "OuterGradients",
    "RecordGradients",
    "full_view_loss",
    "record_gradients",
    "residual_loss",
    "wide",
]

Parameters = dict[str, Tensor]
RecordLoss = Callable[[Parameters, Tensor, Tensor, Tensor], Tensor]


class RecordGradients(Protocol):
    """Gradients of some records, one per record, held in whatever form is cheapest."""

    def __len__(self) -> int:
        """Return the number of records, B."""

    def norms(self) -> Tensor:
        """Return the L2 norm of each record's gradient over all parameters together, `wide`, ``(B,)``."""

    def weighted_sum(self, weights: Tensor) -> Parameters:
        """Return the sum of the gradients times ``weights``, `wide`; weight 0 leaves a record out, NaN or not."""

    def rows(self) -> Parameters:
        """Return the gradients themselves, for each parameter ``(B, *shape)``."""


class DenseGradients:
    """Gradients with one row per record.

    Args:
        rows: for each parameter its gradients, ``(B, *shape)``.
    """

    def __init__(self, rows: Mapping[str, Tensor]) -> None:
        self._rows = dict(rows)

    def __len__(self) -> int:
        return len(next(iter(self._rows.values())))

    def norms(self) -> Tensor:
        """Return the norm over all parameters together, ``(B,)``."""
        parts = [torch.linalg.vector_norm(_flat(rows), dim=1, dtype=wide(rows)) for rows in self._rows.values()]
        norms: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        return norms

    def weighted_sum(self, weights: Tensor) -> Parameters:
        """Return the weighted sum for each parameter."""
        return {name: _weighted_sum(rows, weights) for name, rows in self._rows.items()}

    def rows(self) -> Parameters:
        """Return the gradients as they came."""
        return self._rows


class OuterGradients:
    """Gradients of one matrix that are outer products, as those of a linear head are; nothing is expanded.

    Args:
        name: the parameter.
        error: gradient of the loss in the outputs, ``(B, out)``.
        features: inputs of the head, ``(B, in)``.
    """

    def __init__(self, name: str, error: Tensor, features: Tensor) -> None:
        self._name = name
        self._error, self._features = error.to(wide(error)), features.to(wide(features))

    def __len__(self) -> int:
        return len(self._error)

    def norms(self) -> Tensor:
        """Return the norms, ``(B,)``: an outer product's is the product of its factors'."""
        norms: Tensor = torch.linalg.vector_norm(self._error, dim=1) * torch.linalg.vector_norm(self._features, dim=1)
        return norms

    def weighted_sum(self, weights: Tensor) -> Parameters:
        """Return the weighted sum, as one matrix product."""
        out = weights == 0
        error = _without(self._error, out) * weights.unsqueeze(1)
        return {self._name: error.T @ _without(self._features, out)}

    def rows(self) -> Parameters:
        """Return the outer products."""
        return {self._name: self._error.unsqueeze(2) * self._features.unsqueeze(1)}


def residual_loss(network: nn.Module, frozen: Parameters) -> RecordLoss:
    """Return the scalar whose gradient is one record's residual, ℓ(x) − ℓ(π(x)): exactly zero where x = π(x).

    Args:
        network: maps float clips ``(B, 3, T, H, W)`` to logits.
        frozen: its buffers and the parameters that are not trained.
    """

    def loss(parameters: Parameters, full: Tensor, public: Tensor, label: Tensor) -> Tensor:
        residual = _loss(network, parameters | frozen, full, label) - _loss(network, parameters | frozen, public, label)
        # Autograd adds up the uses of a layer in any order, so equal gradients need not cancel to the last bit; what
        # is left grows with the gradient, not with the clipping bound. The guarantee needs exactly 0.
        return residual * (full != public).any()

    return loss


def full_view_loss(network: nn.Module, frozen: Parameters) -> RecordLoss:
    """Return one record's ordinary loss on the full view, for DP-SGD; arguments as for `residual_loss`."""

    def loss(parameters: Parameters, full: Tensor, public: Tensor, label: Tensor) -> Tensor:
        return _loss(network, parameters | frozen, full, label)

    return loss


def record_gradients(
    loss: RecordLoss, parameters: Parameters, views: TwoViews, *, microbatch: int, fixed_size: int = 0
) -> Iterator[DenseGradients]:
    """Yield the per-record gradients of a batch, in pieces that fit into memory.

    They are computed in the dtype of the parameters, autocast or not: under it, torch cannot vectorise some layers.

    Args:
        loss: the loss of one record; see `residual_loss` and `full_view_loss`.
        parameters: the trained parameters by name.
        views: the batch, as floats in [0, 1]; may be empty.
        microbatch: records whose gradients are held at once.
        fixed_size: records to compute on even if the batch has fewer, filled up with blank ones whose gradients are
            left out: then the network sees one shape only, and every batch takes the same work.
    """
    # randomness="error": a layer that draws random numbers would draw others for each view.
    per_record = vmap(grad(loss), in_dims=(None, 0, 0, 0), randomness="error")
    records = len(views.full)
    for start in range(0, max(records, fixed_size), microbatch):
        piece = slice(start, start + microbatch)
        inputs = [column[piece] for column in (views.full, views.public.video, views.label)]
        if fixed_size:
            inputs = [_filled(column, microbatch) for column in inputs]
        with torch.autocast(views.full.device.type, enabled=False):
            rows = per_record(parameters, *inputs)
        yield DenseGradients({name: value[: max(0, records - start)] for name, value in rows.items()})


def _loss(network: nn.Module, state: Parameters, clip: Tensor, label: Tensor) -> Tensor:
    logits = functional_call(network, state, (clip.unsqueeze(0),))
    return F.cross_entropy(logits, label.unsqueeze(0))


def wide(like: Tensor) -> torch.dtype:
    """Return the dtype of norms, sums and noise: float64, or float32 on Apple's devices, which have no float64."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def _filled(column: Tensor, size: int) -> Tensor:
    missing = size - len(column)
    return torch.cat([column, column.new_zeros(missing, *column.shape[1:])]) if missing else column


def _flat(rows: Tensor) -> Tensor:
    return rows.unsqueeze(-1).flatten(1)  # a scalar parameter has nothing to flatten


def _weighted_sum(rows: Tensor, weights: Tensor) -> Tensor:
    # In the dtype of the rows, a weight could round up by more than the clipping bound allows.
    factors = weights.to(wide(rows)).reshape(-1, *[1] * (rows.dim() - 1))
    return (_without(rows, weights == 0) * factors).sum(0)


def _without(rows: Tensor, out: Tensor) -> Tensor:
    return rows.masked_fill(out.reshape(-1, *[1] * (rows.dim() - 1)), 0)
