"""What a network does in training, without what training does to it.

The detectors of torchvision, and those written like them, return their loss only where ``module.training`` is true. The
same flag makes batch normalisation move its statistics and dropout drop. Here it is set where a loss is chosen, and
nowhere else.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from pvision.errors import ConfigError

__all__ = ["as_evaluation", "loss_branches", "unmoved_buffers"]


@contextmanager
def _restored_flags(network: nn.Module) -> Iterator[None]:
    before = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def loss_branches(network: nn.Module, names: Sequence[str] = ()) -> Iterator[None]:
    """Set ``training`` on the network and on the parts named, not on what they contain.

    Every flag is as before afterwards, an exception or not.

    Args:
        network: a detector.
        names: of parts that choose their loss by their own flag, for example ``("rpn", "roi_heads")``.
    """
    with _restored_flags(network):
        for module in (network, *(network.get_submodule(name) for name in names)):
            module.training = True
        yield


@contextmanager
def as_evaluation(network: nn.Module) -> Iterator[None]:
    """Put the whole network into evaluation mode, without gradients, and every flag back afterwards."""
    with _restored_flags(network), torch.no_grad():
        network.eval()
        yield


@contextmanager
def unmoved_buffers(network: nn.Module) -> Iterator[None]:
    """Refuse a network that moves buffers of its parts in evaluation mode; they are put back first.

    Raises:
        ConfigError: naming the buffer.
    """
    resting = [(path, module) for path, module in network.named_modules() if not module.training]
    before = [
        (path, module, name, buffer.clone())
        for path, module in resting
        for name, buffer in module.named_buffers(recurse=False)
    ]
    yield
    moved = []
    for path, module, name, value in before:
        if not _same(getattr(module, name), value):
            setattr(module, name, value)
            moved.append(f"{path}.{name}".lstrip("."))
    if moved:
        raise ConfigError(
            f"The network moved its buffer {moved[0]!r} while its loss was computed in evaluation mode, so it cannot "
            "be kept frozen. Let the buffer move only where its own module's `training` is true, as in batch "
            "normalisation."
        )


def _same(now: object, before: torch.Tensor) -> bool:
    # A statistic that is not a number, and was none before, has not moved.
    if not isinstance(now, torch.Tensor) or now.shape != before.shape or now.dtype != before.dtype:
        return False
    return torch.equal(now, before) or bool(((now == before) | (now.isnan() & before.isnan())).all())
