"""Networks whose per-record gradients would not be each record's own, or not all that is learnt."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from pvision.models.trainability import private_training_problems
from pvision.training.guard import Guard

__all__ = ["NETWORK_GUARDS", "Network"]

_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PARAMETER_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_OTHERWISE_JUDGED = ("opacus.", "torch.nn.modules.lazy")
_DEPTH = 3  # how deep lists of lists are searched for layers


class Network(NamedTuple):
    """A network and what is known about how its gradients are taken."""

    module: nn.Module
    sample: Tensor | None = None
    allow_shared: bool = False


def _layers(network: Network) -> str:
    problems = private_training_problems(network.module, sample=network.sample)
    return f"The network has what private training does not allow ({' '.join(problems)})" if problems else ""


def _shared_parameters(network: Network) -> str:
    names: dict[int, list[str]] = {}
    for name, parameter in network.module.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(id(parameter), []).append(name)
    shared = [several for several in names.values() if len(several) > 1]
    return f"One parameter is {' and '.join(shared[0])}" if shared and not network.allow_shared else ""


def _shared_memory(network: Network) -> str:
    owners: dict[tuple[torch.device, int], str] = {}
    for name, parameter in network.module.named_parameters():
        if is_lazy(parameter) or not parameter.numel() or parameter.is_meta:
            continue
        place = (parameter.device, parameter.data_ptr())
        if place in owners:
            return f"The parameters {owners[place]} and {name} lie in one memory"
        owners[place] = name
    return ""


def _hidden_parameters(network: Network) -> str:
    registered = {id(parameter) for parameter in network.module.parameters()}
    for path, module in network.module.named_modules():
        for attribute, value in vars(module).items():
            if attribute in ("_parameters", "_modules"):
                continue
            for tensor in _learnable(value):
                if id(tensor) not in registered:
                    return (
                        f"{_dotted(path, attribute.removeprefix('_buffers'))} holds what is learnt but not registered"
                    )
    return ""


def _learnable(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    if isinstance(value, nn.Module):
        yield from (parameter for parameter in value.parameters() if parameter.requires_grad)
    elif isinstance(value, Tensor):
        if value.requires_grad and value.is_leaf:
            yield value
    elif depth and isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _learnable(item, depth - 1)


def _compiled(network: Network) -> str:
    for path, module in network.module.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            return f"{path or 'The network'} is a {type(module).__name__}"
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            return f"{path or 'The network'} is compiled"
    return ""


def _data_parallel(network: Network) -> str:
    for path, module in network.module.named_modules():
        sharded = type(module).__name__.startswith(("FSDP", "FullyShardedDataParallel"))
        if sharded or isinstance(module, DataParallel | DistributedDataParallel):
            return f"{path or 'The network'} is wrapped in {type(module).__name__}"
    return ""


def _module_hooks(network: Network) -> str:
    for path, module in network.module.named_modules():
        for kind in _FORWARD_HOOKS:
            for hook in _foreign(getattr(module, kind).values()):
                return f"{path or 'The network'} has the hook {_name(hook)}"
    return ""


def _parameter_hooks(network: Network) -> str:
    for path, parameter in network.module.named_parameters():
        for kind in _PARAMETER_HOOKS:
            for hook in _foreign((getattr(parameter, kind, None) or {}).values()):
                return f"The parameter {path} has the hook {_name(hook)}"
    return ""


def _foreign(hooks: Iterable[Callable[..., Any]]) -> Iterator[Callable[..., Any]]:
    """Leave out the hooks of Opacus' own engine, and of layers that `private_training_problems` names already."""
    for hook in hooks:
        bare = hook.func if isinstance(hook, partial) else hook
        home = getattr(bare, "__module__", None) or ""
        if not home.startswith(_OTHERWISE_JUDGED) and type(hook).__name__ != "SpectralNorm":
            yield hook


def _name(hook: Callable[..., Any]) -> str:
    return getattr(hook, "__qualname__", type(hook).__name__)


def _half_parameters(network: Network) -> str:
    for name, parameter in network.module.named_parameters():
        if parameter.requires_grad and parameter.dtype == torch.float16:
            return f"The parameter {name} is {parameter.dtype}"
    return ""


def _sparse_gradients(network: Network) -> str:
    for path, module in network.module.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse and module.weight.requires_grad:
            return f"{path or 'The network'} ({type(module).__name__}) has sparse gradients"
    return ""


def _no_parameters(network: Network) -> str:
    trained = any(parameter.requires_grad for parameter in network.module.parameters())
    return "" if trained else "The network has no trainable parameter"


def _dotted(*parts: str) -> str:
    return ".".join(part for part in parts if part)


NETWORK_GUARDS: tuple[Guard[Network], ...] = (
    Guard(
        name="layers",
        setting="BatchNorm, SyncBatchNorm, InstanceNorm with running statistics, dropout and stochastic depth, "
        "spectral norm, `max_norm` of embeddings, lazy or complex parameters; with a sample: any network whose "
        "records meet, whose output is random or whose buffers change",
        reason="a record's gradient would not be its own, or its two views would differ where nothing is masked",
        remedy="Do what stands in brackets; pvision.models.private_training_problems says it for any network.",
        finds=_layers,
    ),
    Guard(
        name="shared_parameters",
        setting="one parameter under two names",
        reason="engines with hooks or ghost norms may clip each use by itself, and a record's share exceeds the bound",
        remedy="Give each layer its own parameter, or use an engine that sums all uses first (allow_shared=True).",
        finds=_shared_parameters,
    ),
    Guard(
        name="shared_memory",
        setting="two parameters over one memory",
        reason="each step would write both noisy gradients over the same values",
        remedy="Give each its own memory: `b.data = a.data.clone()`.",
        finds=_shared_memory,
    ),
    Guard(
        name="hidden_parameters",
        setting="layers in a plain list or dict, tensors that learn and are no `nn.Parameter`",
        reason="the engine cannot see them, so they would be learnt without clipping and noise, or not at all",
        remedy="Use nn.ModuleList, nn.ModuleDict or nn.Parameter, or freeze them (requires_grad_(False)).",
        finds=_hidden_parameters,
    ),
    Guard(
        name="compiled",
        setting="`torch.compile`, TorchScript",
        reason="gradients of single records cannot be taken through a compiled graph",
        remedy="Train the plain network and compile the finished one.",
        finds=_compiled,
    ),
    Guard(
        name="data_parallel",
        setting="network wrapped in DataParallel, DistributedDataParallel or FSDP",
        reason="the wrapper reduces gradients between devices before they are clipped and noised",
        remedy="Hand over the bare network (`.module`); the mechanism sums over processes itself.",
        finds=_data_parallel,
    ),
    Guard(
        name="module_hooks",
        setting="forward or backward hooks on layers, legacy `weight_norm`",
        reason="a hook can keep state from record to record and change what is released",
        remedy="Remove it (`handle.remove()`), do its work in forward(), or use torch.nn.utils.parametrizations.",
        finds=_module_hooks,
    ),
    Guard(
        name="parameter_hooks",
        setting="hooks on parameters, such as `watch()` of an experiment logger",
        reason="a hook sees gradients before they are noised, and may log or change them",
        remedy="Remove it (`handle.remove()`); let loggers watch weights only.",
        finds=_parameter_hooks,
    ),
    Guard(
        name="half_parameters",
        setting="trainable float16 parameters",
        reason="gradients of single records overflow or vanish in float16, and with them their clipping",
        remedy="Keep parameters in float32 or bfloat16 (`network.float()`).",
        finds=_half_parameters,
    ),
    Guard(
        name="sparse_gradients",
        setting="`Embedding(sparse=True)`",
        reason="which rows have a gradient tells who was in the batch, and noise belongs on all of them",
        remedy="Set sparse=False.",
        finds=_sparse_gradients,
    ),
    Guard(
        name="no_parameters",
        setting="nothing left to train",
        reason="noisy steps would be charged for nothing",
        remedy="Free the layers that shall learn: `layer.requires_grad_(True)`.",
        finds=_no_parameters,
    ),
)
