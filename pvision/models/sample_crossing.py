"""Find out by running a network whether records meet in it, whatever its layers are called."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pvision.errors import ConfigError

__all__ = ["behavioural_problems", "crosses_samples"]


def crosses_samples(model: nn.Module, sample: Tensor) -> bool:
    """Tell whether one record's output changes when another record of its batch does.

    The network runs in training mode, on batches of equal shape, and is left as it was.

    Args:
        model: any network.
        sample: two records at least, as ``model`` takes them, ``(B, …)``.

    Raises:
        ConfigError: if there are fewer than two records.
    """
    _check(sample)
    with _undisturbed(model, sample):
        return _crosses(model, sample[:2])


def behavioural_problems(model: nn.Module, sample: Tensor) -> list[str]:
    """Return what running the network in training mode shows against training it privately.

    Args:
        model: any network; it is left as it was.
        sample: two records at least, as ``model`` takes them, ``(B, …)``.

    Returns:
        One sentence for each of: outputs that depend on other records, randomness, buffers that a forward pass
        changes, and, if none of these was seen, no way to vectorise the gradient over records. An empty list proves
        nothing for inputs that were not tried.

    Raises:
        ConfigError: if there are fewer than two records.
    """
    _check(sample)
    pair, problems = sample[:2], []
    with _undisturbed(model, pair):
        if _crosses(model, pair):
            problems.append(
                "a record's output changes when another record of the batch does. "
                "Normalise each record by itself (GroupNorm, LayerNorm)."
            )
        if not _same(_run(model, pair, seed=0), _run(model, pair, seed=1)):
            problems.append("its output is random in training mode. Set every dropout probability to 0.")
    changed = _changed_buffers(model, pair)
    if changed:
        problems.append(
            f"a forward pass in training mode changes the buffers {', '.join(changed)}, which carry records into the "
            "model without noise. Replace the layers that own them, or freeze them in evaluation mode."
        )
    if not problems:
        problems += _unvectorisable(model, pair)
    return [f"(root) ({type(model).__name__}): {problem}" for problem in problems]


def _check(sample: Tensor) -> None:
    if len(sample) < 2:
        raise ConfigError(f"sample must hold two records at least, but {len(sample)} came.")


def _crosses(model: nn.Module, pair: Tensor) -> bool:
    reference = _run(model, pair, seed=0)
    for kept in (0, 1):
        for other in (1 - pair[1 - kept], 1000 * (pair[1 - kept] + 1)):  # within the usual range, and far outside
            changed = pair.clone()
            changed[1 - kept] = other
            if not _same(_run(model, changed, seed=0)[kept], reference[kept]):
                return True
    return False


def _changed_buffers(model: nn.Module, pair: Tensor) -> list[str]:
    with _undisturbed(model, pair):
        before = {key: buffer.clone() for key, buffer in model.named_buffers()}
        _run(model, pair, seed=0)
        return [key for key, buffer in model.named_buffers() if not _same(buffer, before.get(key))]


def _unvectorisable(model: nn.Module, pair: Tensor) -> list[str]:
    trainable = {key: value.detach() for key, value in model.named_parameters() if value.requires_grad}

    def total(parameters: dict[str, Tensor], record: Tensor) -> Tensor:
        output: Tensor = functional_call(model, parameters, (record.unsqueeze(0),)).sum()
        return output

    try:
        with _undisturbed(model, pair), torch.enable_grad():
            vmap(grad(total), in_dims=(None, 0))(trainable, pair)
    except Exception as error:  # whatever its layers raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return [
            f"its gradient cannot be vectorised over records ({reason}) Avoid autograd functions without "
            "setup_context, operations in place and control flow that depends on values."
        ]
    return []


def _run(model: nn.Module, batch: Tensor, *, seed: int) -> Tensor:
    torch.manual_seed(seed)
    output: Tensor = model(batch)
    return output


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


@contextmanager
def _undisturbed(model: nn.Module, sample: Tensor) -> Iterator[None]:
    """Run in training mode; give back modes, buffers, parameters and random state afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    # A head that starts at zero would hide all that happens before it.
    zeros = [parameter for parameter in model.parameters() if not parameter.any()]
    devices = [sample.device] if sample.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(0)
            for parameter in zeros:
                parameter.normal_()
            model.train()
            yield
    finally:
        with torch.no_grad():
            for parameter in zeros:
                parameter.zero_()
            for module, name, buffer, value in buffers:
                if buffer is not None and value is not None:
                    buffer.copy_(value)
                module._buffers[name] = buffer
        for module, mode in modes:
            module.training = mode
