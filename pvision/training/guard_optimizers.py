"""Optimizers that would step on more than noisy gradients, or more than once for each."""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from pvision.training.guard import Guard

__all__ = ["OPTIMIZER_GUARDS", "OptimizedNetwork"]


class OptimizedNetwork(NamedTuple):
    """A network and the optimizers of its noisy steps."""

    optimizers: tuple[Any, ...]
    network: nn.Module


def _bare(subject: OptimizedNetwork) -> list[Any]:
    return [one.optimizer if isinstance(one, LightningOptimizer) else one for one in subject.optimizers]


def _parameters(optimizer: Any) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _closure(subject: OptimizedNetwork) -> str:
    for optimizer in _bare(subject):
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            return f"The optimizer {type(optimizer).__name__} evaluates the loss several times a step"
        names = [kind.__name__.lower() for kind in type(optimizer).__mro__]
        if hasattr(optimizer, "first_step") or any(name.endswith("sam") for name in names):
            return f"The optimizer {type(optimizer).__name__} takes two gradients a step"
    return ""


def _foreign(subject: OptimizedNetwork) -> str:
    own = {id(parameter) for parameter in subject.network.parameters()}
    for optimizer in _bare(subject):
        count = sum(id(one) not in own and one.requires_grad for one in _parameters(optimizer))
        if count:
            return f"The optimizer {type(optimizer).__name__} holds {count} parameters that are not the network's"
    return ""


def _twice(subject: OptimizedNetwork) -> str:
    seen: set[int] = set()
    for optimizer in _bare(subject):
        for parameter in _parameters(optimizer):
            if id(parameter) in seen:
                return f"A parameter of shape {tuple(parameter.shape)} is optimized twice"
            seen.add(id(parameter))
    return ""


OPTIMIZER_GUARDS: tuple[Guard[OptimizedNetwork], ...] = (
    Guard(
        name="several_gradients",
        setting="LBFGS, SAM and others that need a closure",
        reason="each evaluation of the loss in a step would be a release, and only one is charged",
        remedy="Use an optimizer that takes one gradient a step, such as SGD or Adam.",
        finds=_closure,
    ),
    Guard(
        name="foreign_parameters",
        setting="an optimizer with parameters outside the network",
        reason="they would be learnt from private records without clipping and noise",
        remedy="Give the optimizer the network's parameters only, or make the others part of the network.",
        finds=_foreign,
    ),
    Guard(
        name="optimized_twice",
        setting="a parameter in two optimizers, or twice in one",
        reason="one of them would step on a gradient that was used already, or that is not the noisy one",
        remedy="Give each parameter to one optimizer of the noisy steps.",
        finds=_twice,
    ),
)
