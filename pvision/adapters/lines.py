"""LiNeS: scale what training changed by the depth of the layer, less near the input.

[0] Wang et al., "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging", ICLR 2025,
    https://arxiv.org/abs/2410.17146
[1] https://github.com/wang-kee/LiNeS, commit 43a7bdd
"""

from collections.abc import Mapping

from torch import Tensor, nn

from pvision.adapters.places import find_places
from pvision.checks import at_least, positive_int
from pvision.errors import ConfigError

__all__ = ["lines_factors", "scale_training"]


def lines_factors(depth: int, *, alpha: float, beta: float) -> tuple[float, ...]:
    """Return λ = alpha + beta · ℓ / (depth - 1) for each block ℓ from the input on.

    Args:
        depth: how many blocks; where there is one only, its λ is alpha + beta.
        alpha: the factor at the input, and of all that is outside the blocks; at least 0.
        beta: what is added to it up to the output; at least 0. [0] takes 1 - alpha for a single fine-tuning.

    Raises:
        ConfigError: if ``depth`` is no whole number above 0, or ``alpha`` or ``beta`` is below 0 or not finite.

    Example:
        >>> lines_factors(3, alpha=0.5, beta=0.5)
        (0.5, 0.75, 1.0)
    """
    alpha, beta = at_least("alpha", alpha, 0), at_least("beta", beta, 0)
    if positive_int("depth", depth) == 1:
        return (alpha + beta,)
    return tuple(alpha + beta * (block / (depth - 1)) for block in range(depth))


def scale_training(
    network: nn.Module, *, before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float, beta: float
) -> dict[str, Tensor]:
    """Return the weights ``before + λ · (after - before)`` of a fully fine-tuned network.

    Of adapters, `AdaptedModel.scale` does the same without a copy.

    Args:
        network: the network that the weights belong to; its blocks are found by their names. It is not changed.
        before: a state dict of it from before training.
        after: one from after it.
        alpha: λ at the input, and of all that is outside the blocks.
        beta: what is added to it up to the output.

    Returns:
        A state dict. Where λ is 1 and where a tensor does not hold floating-point numbers, it is that of ``after``.

    Raises:
        ConfigError: if the two differ in names or shapes, the network has no blocks, or alpha or beta is wrong.
    """
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in (before, after)]
    if shapes[0] != shapes[1]:
        differing = sorted(name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
        raise ConfigError(f"before and after must have the same names and shapes, but they differ in {differing[:4]}.")
    prefixes = _block_prefixes(network)
    factors = lines_factors(len(prefixes), alpha=alpha, beta=beta)
    scaled = {}
    for name, tuned in after.items():
        inside = [factor for prefix, factor in zip(prefixes, factors, strict=True) if name.startswith(prefix)]
        factor = inside[0] if inside else at_least("alpha", alpha, 0)
        still = factor == 1 or not tuned.is_floating_point()
        scaled[name] = tuned.clone() if still else before[name] + factor * (tuned - before[name])
    return scaled


def _block_prefixes(network: nn.Module) -> list[str]:
    """Return what the names of each block's parameters begin with, from the input on."""
    tops: dict[int, str] = {}
    for place in find_places(network):
        if place.block is not None and place.role in {"attention", "mlp"}:
            tops.setdefault(place.block, place.module.rpartition(".")[0] + ".")
    if not tops:
        raise ConfigError(
            f"no transformer blocks were found in {type(network).__name__}, so nothing can be scaled by depth."
        )
    return [tops[block] for block in sorted(tops)]
