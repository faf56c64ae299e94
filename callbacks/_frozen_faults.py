"""What would let frozen modules change, in words; seen without reading their weights."""

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from pvision.callbacks._frozen_watch import FrozenWatch
from pvision.errors import ConfigError

__all__ = ["another_network", "broken_freeze", "listed", "refuse_training", "weights_changed"]

_SHOWN = 3


def broken_freeze(watch: FrozenWatch, optimizers: Sequence[Optimizer]) -> str | None:
    """Return which of the conditions of being frozen does not hold, tensors aside; None if all do."""
    if training := [name for name, part in watch.parts if part.training]:
        return _in_training(listed(training))
    trained = {id(weight) for one in optimizers for group in one.param_groups for weight in group["params"]}
    if found := [name for name, weight in watch.parameters if id(weight) in trained]:
        return (
            f"An optimizer has {listed(found)}, which must stay frozen; weight decay alone would change it. Give it "
            "the other parameters only."
        )
    if found := [name for name, weight in watch.parameters if weight.requires_grad]:
        return (
            f"{listed(found)} must stay frozen, but takes gradients. Call requires_grad_(False) on the frozen module; "
            "gradients still pass through it."
        )
    return None


def weights_changed(names: Sequence[str], *, before: str | None, now: str | None) -> str:
    """Return the message for tensors that hold other bits."""
    return (
        f"What must stay frozen has changed: {listed(names)}. frozen_sha256 was {before} and is {now}. Look for what "
        "writes there: code of a step, an optimizer of its own, load_state_dict, or a callback that averages weights."
    )


def another_network(*, before: str | None, now: str | None) -> str:
    """Return the message for a run that goes on with another frozen network."""
    return (
        f"The run began with another frozen network: frozen_sha256 was {before} in the run and is {now} now. Give the "
        "network that it began with, or begin a new run with a new FrozenGuard."
    )


def refuse_training(name: str, part: nn.Module, _inputs: object) -> None:
    """Stop a call in training mode before it moves running statistics; a hook, and a function so that it can be copied.

    Raises:
        ConfigError: if ``part`` is in training mode.
    """
    if part.training:
        raise ConfigError(_in_training(name))


def listed(names: Sequence[str]) -> str:
    """Return the first few of some names."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _in_training(names: str) -> str:
    return (
        f"{names} must stay frozen, but is in training mode, in which BatchNorm moves its statistics and Dropout "
        "draws. Do not call train() on it: override train() of the module around it, so that it stays in eval()."
    )
