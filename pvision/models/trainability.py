"""Which networks can be trained privately, and what to do about those that cannot.

A per-sample gradient is one record's own only if records never meet on their way through the network, and the residual
of a record's two views is zero only if nothing in the network is random.
"""

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from pvision.errors import PrivacyError
from pvision.models.norms import replace_batch_norm
from pvision.models.sample_crossing import behavioural_problems

__all__ = ["private_training_problems", "replace_batch_norm", "require_privately_trainable"]


def private_training_problems(model: nn.Module, *, sample: Tensor | None = None) -> list[str]:
    """Return everything in ``model`` that private training does not allow, one sentence each.

    Layers are judged in the mode in which ``model.train()`` leaves them; modes are given back afterwards.

    Args:
        model: any network.
        sample: two records or more, as ``model`` takes them; with it the network is run as well, which finds
            what layers of unknown kinds do.

    Returns:
        Problems with the path of the module or parameter, the reason and the remedy; empty if there are none.
        Parameters that several modules share are no problem.
    """
    problems = [*_parameter_problems(model), *_module_problems(model)]
    if sample is not None and not any(is_lazy(parameter) for parameter in model.parameters()):
        problems += behavioural_problems(model, sample)
    return problems


def require_privately_trainable(model: nn.Module, *, sample: Tensor | None = None) -> None:
    """Refuse a network that cannot be trained privately.

    Args:
        model: any network.
        sample: as in `private_training_problems`.

    Raises:
        PrivacyError: if there is any problem; its message lists all of them.
    """
    problems = private_training_problems(model, sample=sample)
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise PrivacyError(f"{type(model).__name__} cannot be trained privately as it is:{listed}")


def _module_problems(model: nn.Module) -> Iterator[str]:
    modes = [(module, module.training) for module in model.modules()]
    model.train()  # what a trainer does before the first step: only what stays in evaluation mode now is frozen
    try:
        for path, module in model.named_modules():
            for rule in _RULES:
                problem = rule(module)
                if problem:
                    yield f"{path or '(root)'} ({type(module).__name__}): {problem}"
    finally:
        for module, mode in modes:
            module.training = mode


def _parameter_problems(model: nn.Module) -> Iterator[str]:
    for path, parameter in model.named_parameters():
        if is_lazy(parameter):
            yield f"{path}: it has no size yet. Run one batch through the network first."
        elif parameter.requires_grad and not parameter.is_floating_point():
            yield f"{path}: it is {parameter.dtype}, and only real gradients are clipped. Use a float, or freeze it."


def _batch_statistics(module: nn.Module) -> str:
    if not isinstance(module, _BatchNorm):
        return ""
    if module.track_running_stats and not module.training and not _trains(module):
        return ""
    return (
        "it mixes the records of a batch. Put GroupNorm in its place (pvision.models.replace_batch_norm), "
        "or freeze it: evaluation mode that train() does not undo, and no trainable parameters."
    )


def _running_statistics(module: nn.Module) -> str:
    if isinstance(module, _InstanceNorm) and module.track_running_stats and (module.training or _trains(module)):
        return "its running statistics carry records into the model without noise. Set track_running_stats=False."
    return ""


def _dropout(module: nn.Module) -> str:
    probability = _drop_probability(module)
    if module.training and probability > 0:
        return f"it drops at random (p={probability}), differently in the two views of a record. Set it to 0."
    return ""


def _spectral_norm(module: nn.Module) -> str:
    hooked = any(type(hook).__name__ == "SpectralNorm" for hook in module._forward_pre_hooks.values())
    if module.training and (hooked or type(module).__name__ == "_SpectralNorm"):
        return "spectral normalisation changes its buffers in every forward pass. Remove it."
    return ""


def _renormalised_embedding(module: nn.Module) -> str:
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
        return "max_norm rewrites the rows that a batch uses, without noise. Set max_norm=None."
    return ""


def _function_without_vmap(module: nn.Module) -> str:
    if type(module).__name__ == "Swish" and type(module).__module__.startswith("pytorchvideo."):
        return "its autograd function cannot be vectorised over records. Put torch.nn.SiLU in its place."
    return ""


_RULES: tuple[Callable[[nn.Module], str], ...] = (
    _batch_statistics,
    _running_statistics,
    _dropout,
    _spectral_norm,
    _renormalised_embedding,
    _function_without_vmap,
)


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _drop_probability(module: nn.Module) -> float:
    """Return the probability of the kinds of dropout known by class, name or attribute; 0 for other modules."""
    if isinstance(module, _DropoutNd):
        return module.p
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return float(module.dropout)
    names = {kind.__name__ for kind in type(module).__mro__}
    if "StochasticDepth" in names:
        return float(getattr(module, "p", 0) or 0)
    if "DropPath" in names:
        return float(getattr(module, "drop_prob", 0) or 0)
    # Attention layers often keep the probability as an attribute and call the functional form.
    kept = [getattr(module, name, 0) for name in ("dropout", "attention_dropout", "attn_drop", "drop_prob")]
    return max((float(value) for value in kept if isinstance(value, int | float)), default=0.0)
