"""GroupNorm where published networks have BatchNorm: batch statistics let records meet."""

from torch import nn

__all__ = ["group_norm", "groups_for", "replace_batch_norm"]

_MOST_GROUPS = 32
_LEAST_CHANNELS = 4  # with one channel a group, maps of one pixel would be normalised to zero


def groups_for(channels: int) -> int:
    """Return the largest number of groups, at most 32, that divides ``channels`` and leaves 4 channels in each.

    Example:
        >>> groups_for(64), groups_for(54), groups_for(7)
        (16, 9, 1)
    """
    most = max(1, min(_MOST_GROUPS, channels // _LEAST_CHANNELS))
    return max(groups for groups in range(1, most + 1) if channels % groups == 0)


def group_norm(num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> nn.GroupNorm:
    """Return a GroupNorm for a place where BatchNorm was meant.

    Args:
        num_features: channels.
        eps: added to the variance.
        momentum: of BatchNorm's running statistics; GroupNorm has none, the argument only keeps its signature.
    """
    del momentum
    return nn.GroupNorm(groups_for(num_features), num_features, eps=eps)


def replace_batch_norm(model: nn.Module) -> nn.Module:
    """Put GroupNorm in the place of every BatchNorm, in ``model`` itself.

    Scale and shift are kept, running statistics are not: a trained network has to be trained on, and its published
    accuracy is gone.

    Args:
        model: any network.

    Returns:
        ``model``, or a GroupNorm if it was a BatchNorm itself.
    """
    if isinstance(model, nn.modules.batchnorm._BatchNorm):
        return _as_group_norm(model)
    for name, child in model.named_children():
        replacement = replace_batch_norm(child)
        if replacement is not child:
            setattr(model, name, replacement)
    return model


def _as_group_norm(norm: nn.modules.batchnorm._BatchNorm) -> nn.GroupNorm:
    replacement = group_norm(norm.num_features, norm.eps)
    if norm.affine:
        replacement.weight, replacement.bias = norm.weight, norm.bias
    else:
        replacement.affine = False
        replacement.register_parameter("weight", None)
        replacement.register_parameter("bias", None)
    return replacement.train(norm.training)
