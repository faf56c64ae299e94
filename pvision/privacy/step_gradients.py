"""Per-record gradients of a loss that somebody else wrote: any function of a batch, over any network.

The function only ever sees batches of one record, so that records cannot meet in it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pvision.checks import one_of, positive_int
from pvision.errors import ConfigError, PrivacyError, UserError
from pvision.privacy.gradients import DenseGradients
from pvision.privacy.record_batches import BatchRedaction, check_rows, mapped, rows_of, tensors_of

__all__ = ["ENGINES", "BatchLoss", "StepGradients", "gradients_of", "trained_parameters"]

ENGINES = ("vmap", "loop")

Notes = dict[str, Tensor]
BatchLoss = Callable[[Any], tuple[Tensor, Notes]]
"""Takes a batch; gives its loss, a scalar, and further values to be kept, by name."""


def trained_parameters(network: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that learn, by name, without their history."""
    return {name: one.detach() for name, one in network.named_parameters() if one.requires_grad}


class StepGradients:
    """The per-record gradients of one batch, in pieces that fit into memory; computed while one iterates.

    Args:
        network: holds the parameters; ``loss`` calls it, or methods of it, and finds other tensors in their place.
        loss: the loss of a batch, of which it is given one record at a time.
        batch: tensors with a row for each record, in any nesting; may be empty.
        records: how many records it has.
        redact: then a record's gradient is that of its loss minus the loss of its redacted view.
        engine: ``"vmap"`` takes all records of a piece at once, where torch can vectorise ``loss``; ``"loop"`` one
            after the other, which is slower and always right.
        microbatch: records in a piece.

    Attributes:
        noted: for each piece that was computed, the values that ``loss`` gave beside the loss, ``(B,)``.

    Raises:
        ConfigError: while one iterates, if ``loss`` cannot be vectorised.
        PrivacyError: while one iterates, if records would meet, a buffer changed or the two views were run differently.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: BatchLoss,
        batch: Any,
        *,
        records: int,
        redact: BatchRedaction | None = None,
        engine: str = "vmap",
        microbatch: int = 32,
    ) -> None:
        self.noted: list[Notes] = []
        self._one = _OneRecord(network, loss)
        self._batch, self._records, self._redact = batch, records, redact
        self._rows = {"vmap": self._vectorised, "loop": self._looped}[one_of("engine", engine, ENGINES)]
        self._microbatch = positive_int("microbatch", microbatch)
        self._trained = {f"network.{name}": value for name, value in trained_parameters(network).items()}
        self._buffers = {f"network.{name}": value for name, value in network.named_buffers()}

    def __iter__(self) -> Iterator[DenseGradients]:
        check_rows(self._batch, records=self._records)
        for start in range(0, self._records, self._microbatch):
            size = min(self._microbatch, self._records - start)
            piece = rows_of(self._batch, slice(start, start + size), records=self._records)
            redacted = None if self._redact is None else self._redact(piece, records=size)
            buffers = {name: value.clone() for name, value in self._buffers.items()}
            # Under autocast torch cannot vectorise some layers; and a gradient has the dtype of its parameter.
            with torch.autocast(next(iter(self._trained.values())).device.type, enabled=False):
                rows, noted = self._rows(piece, redacted, size, buffers)
            self._check_buffers(buffers)
            self.noted.append({name: value.detach() for name, value in noted.items()})
            yield DenseGradients({name.removeprefix("network."): value for name, value in rows.items()})

    def _vectorised(self, piece: Any, redacted: Any, size: int, buffers: Notes) -> tuple[Notes, Notes]:
        def loss(parameters: Notes, full: list[Tensor], public: list[Tensor]) -> tuple[Tensor, Notes]:
            value, noted = self._one.of(parameters | buffers, _record(piece, full, size))
            if redacted is not None:
                residual = value - self._one.of(parameters | buffers, _record(redacted, public, size))[0]
                value = residual * _differ(full, public)
            return value, noted

        # In one view, chance may differ from record to record; with two, both would have to draw the same.
        chance = "different" if redacted is None else "error"
        gradients = vmap(grad(loss, has_aux=True), in_dims=(None, 0, 0), randomness=chance)
        try:
            rows: tuple[Notes, Notes] = gradients(self._trained, tensors_of(piece), tensors_of(redacted))
        except UserError:
            raise
        except Exception as error:  # whatever the user's layers and torch raise
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ConfigError(
                f"The loss cannot be vectorised over records ({reason}). Use engine='loop', which takes one record "
                "after the other; or avoid .item(), branches that depend on values, and metrics inside the step."
            ) from error
        return rows

    def _looped(self, piece: Any, redacted: Any, size: int, buffers: Notes) -> tuple[Notes, Notes]:
        trained = {name: value.clone().requires_grad_() for name, value in self._trained.items()}
        rows, notes = [], []
        for index in range(size):
            before = _chance()
            full = _only(piece, index, size)
            value, noted = self._one.of(trained | buffers, full)
            if redacted is not None:
                public = _only(redacted, index, size)
                residual = value - self._one.of(trained | buffers, public)[0]
                value = residual * _differ(tensors_of(full), tensors_of(public))
                _check_chance(before)
            rows.append(gradients_of(value, trained))
            notes.append(noted)
        return _stacked(rows), _stacked(notes)

    def _check_buffers(self, buffers: Notes) -> None:
        for name, value in self._buffers.items():
            if not torch.equal(value.nan_to_num(), buffers[name].nan_to_num()):
                raise _changed(name.removeprefix("network."))


class _OneRecord(nn.Module):
    """Calls the loss while the network's tensors are exchanged."""

    def __init__(self, network: nn.Module, loss: BatchLoss) -> None:
        super().__init__()
        self.network = network
        self._loss = loss

    def of(self, tensors: Notes, record: Any) -> tuple[Tensor, Notes]:
        result: tuple[Tensor, Notes] = functional_call(self, tensors, (record,))
        return result

    def forward(self, record: Any) -> tuple[Tensor, Notes]:
        before = dict(self.network.named_buffers())
        result = self._loss(record)
        for name, value in self.network.named_buffers():
            if before.get(name) is not value:
                raise _changed(name)
        return result


def _changed(name: str) -> PrivacyError:
    return PrivacyError(
        f"A private step changes the buffer {name}, which would carry records into the model without noise. Freeze the "
        "layer that owns it in evaluation mode, or exchange it (GroupNorm in place of BatchNorm)."
    )


def _record(batch: Any, rows: list[Tensor], size: int) -> Any:
    remaining = iter(rows)

    def texts(column: Any) -> Any:
        if len(column) == size:
            raise ConfigError(
                "The batch holds texts, which cannot be vectorised over records. Use engine='loop', or leave them out."
            )
        return column

    return mapped(batch, lambda _: next(remaining).unsqueeze(0), texts)


def _only(batch: Any, index: int, size: int) -> Any:
    return rows_of(batch, slice(index, index + 1), records=size)


def _differ(full: list[Tensor], public: list[Tensor]) -> Tensor:
    """Return whether a record's two views differ: where not, its residual is to be 0 to the last bit."""
    return torch.stack([(one != other).any() for one, other in zip(full, public, strict=True)]).any()


def gradients_of(value: Tensor, trained: Mapping[str, Tensor]) -> Notes:
    """Return the gradient of a loss in each of the parameters, zeros in those that it does not use.

    Raises:
        ConfigError: if it uses none.
    """
    if not value.requires_grad:
        raise ConfigError(
            "The loss of a record depends on no parameter that learns, so there is no gradient. Return the loss "
            "itself, not a detached copy."
        )
    found = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    pairs = zip(trained.items(), found, strict=True)
    return {name: torch.zeros_like(like) if gradient is None else gradient for (name, like), gradient in pairs}


def _stacked(rows: list[Notes]) -> Notes:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _chance() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return states


def _check_chance(before: list[Tensor]) -> None:
    if not all(map(torch.equal, before, _chance())):
        raise PrivacyError(
            "The step draws random numbers, and would draw others for each of a record's two views: its residual would "
            "not be zero where nothing is masked. Set every dropout probability to 0."
        )
