"""Batches as other people's code makes them: tensors with a row for each record, in any nesting."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pvision.errors import ConfigError, PrivacyError

__all__ = ["BatchRedaction", "check_rows", "mapped", "rows_of", "tensors_of"]

Texts = list[str] | tuple[str, ...]


def mapped(
    batch: Any, change: Callable[[Tensor], Tensor], texts: Callable[[Texts], Texts] = lambda texts: texts
) -> Any:
    """Return a batch of the same structure with other tensors.

    Args:
        batch: tensors in mappings, lists, tuples and dataclasses; numbers, texts and None stay as they are.
        change: what becomes of each tensor.
        texts: what becomes of each list of texts.

    Raises:
        ConfigError: if the batch holds anything else, of which nobody knows what belongs to which record.
    """
    if isinstance(batch, Tensor):
        return change(batch)
    if batch is None or isinstance(batch, str | bytes | int | float | complex):
        return batch
    if isinstance(batch, Mapping):
        made: Any = copy.copy(batch)
        for key, value in batch.items():
            made[key] = mapped(value, change, texts)
        return made
    if isinstance(batch, list | tuple):
        if batch and all(isinstance(value, str | bytes) for value in batch):
            return texts(batch)
        parts = [mapped(value, change, texts) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        names = [field.name for field in dataclasses.fields(batch)]
        return dataclasses.replace(batch, **{name: mapped(getattr(batch, name), change, texts) for name in names})
    raise ConfigError(
        f"The batch holds a {type(batch).__name__}, which cannot be cut into records. Let collate_fn return tensors "
        "with a row for each record, in dicts, lists, tuples or dataclasses."
    )


def tensors_of(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch, in the order in which `mapped` meets them."""
    found: list[Tensor] = []
    mapped(batch, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]  # append is None
    return found


def rows_of(batch: Any, which: slice, *, records: int) -> Any:
    """Return the batch of some of a batch's records.

    Args:
        batch: see `mapped`; every tensor has a row for each record.
        which: the records.
        records: how many the whole batch has; lists of so many texts are cut too.
    """
    return mapped(batch, lambda tensor: tensor[which], lambda texts: texts[which] if len(texts) == records else texts)


def check_rows(batch: Any, *, records: int) -> None:
    """Refuse a batch in which a tensor does not have one row for each record.

    Raises:
        PrivacyError: such a tensor could carry one record into the gradients of others.
    """
    tensors = tensors_of(batch)
    if not tensors:
        raise ConfigError("The batch holds no tensor, so it cannot be cut into records. Let collate_fn return tensors.")
    for tensor in tensors:
        if not tensor.dim() or len(tensor) != records:
            raise PrivacyError(
                f"A tensor of shape {tuple(tensor.shape)} came in a batch of {records} records: each tensor must have "
                "one row for each record, or records would meet in it. Change collate_fn, or the hook that made it."
            )


class BatchRedaction:
    """The user's redaction of a batch, which sees a copy and is checked on the first records that come.

    Args:
        redact: takes a batch, returns it without what is sensitive.

    Raises:
        PrivacyError: if what it returns could not be the same for a record whose sensitive content is gone.
    """

    def __init__(self, redact: Callable[[Any], Any]) -> None:
        self._redact = redact
        self._checked = False

    def __call__(self, batch: Any, *, records: int) -> Any:
        """Return the redacted view of a batch; the batch stays as it is."""
        redacted = self._run(batch)
        shapes = [(tensor.shape, tensor.dtype) for tensor in tensors_of(redacted)]
        if shapes != [(tensor.shape, tensor.dtype) for tensor in tensors_of(batch)]:
            raise PrivacyError(
                "redact returned tensors of other shapes or dtypes than came. Return the same structure, with the "
                "sensitive content replaced by a constant or by what surrounds it."
            )
        if records and not self._checked:
            self._check(batch, redacted, records=records)
            self._checked = True
        return redacted

    def _check(self, batch: Any, redacted: Any, *, records: int) -> None:
        if not _equal(self._run(redacted), redacted):
            raise PrivacyError(
                "redact is not idempotent: redacting what is redacted already changes it, so a record without its "
                "sensitive content would still have a residual. Fill with a constant, and let it draw no random number."
            )
        alone = self._run(rows_of(batch, slice(0, 1), records=records))
        if not _equal(alone, rows_of(redacted, slice(0, 1), records=records)):
            raise PrivacyError(
                "redact gives a record another view when it comes alone than in its batch, so one record's content "
                "reaches others' views. Let it treat each record by itself."
            )

    def _run(self, batch: Any) -> Any:
        with torch.no_grad():
            return self._redact(mapped(batch, torch.clone))


def _equal(one: Any, other: Any) -> bool:
    pairs = zip(tensors_of(one), tensors_of(other), strict=True)
    return all(torch.equal(first.nan_to_num(), second.nan_to_num()) for first, second in pairs)
