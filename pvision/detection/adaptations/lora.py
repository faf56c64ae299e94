"""LoRA for detectors: updates of low rank for convolutions and linear layers.

[0] Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, https://arxiv.org/abs/2106.09685
"""

from collections.abc import Mapping
from math import sqrt

from torch import Tensor, nn
from torch.nn.utils import parametrize
from typing_extensions import override

from pvision.checks import positive, positive_int
from pvision.detection.adaptations.detector_adaptation import DetectorAdaptation, batch_norms, keep_statistics
from pvision.detection.detectors.detector import Detector

__all__ = ["DetectorLoRA", "LowRankUpdate"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class DetectorLoRA(DetectorAdaptation):
    """Train an update of low rank for each convolution and linear layer, and merge it when training has ended.

    The updates are part of the detector's state dict until they are merged. Checkpoints from before and after that
    both load into a detector that was attached. BatchNorm keeps its statistics.

    Args:
        in_channels: of the modality; made three as by `ZeroShot`.
        rank: of the updates; layers with fewer rows or columns take as many as they have.
        alpha: updates are scaled by ``alpha / rank``; None for a scaling of 1.

    Raises:
        ConfigError: if ``rank`` is no whole number above 0 or ``alpha`` no finite number above 0.
    """

    def __init__(self, in_channels: int = 1, *, rank: int = 4, alpha: float | None = None) -> None:
        super().__init__(in_channels)
        self.rank = positive_int("rank", rank)
        self.alpha = None if alpha is None else positive("alpha", alpha)

    @override
    def attach(self, detector: Detector) -> None:
        """Freeze all weights, and add updates of zero that take gradients."""
        detector.unfreeze().requires_grad_(False)
        for layer in batch_norms(detector).values():
            keep_statistics(layer)
        scaling = 1.0 if self.alpha is None else self.alpha / self.rank
        for layer in _adaptable(detector).values():
            if (update := _update_of(layer)) is None:
                _add_update(layer, rank=self.rank, scaling=scaling)
            else:
                update.requires_grad_(True)
        if _fit_to_checkpoint not in detector._load_state_dict_pre_hooks.values():
            detector.register_load_state_dict_pre_hook(_fit_to_checkpoint)  # type: ignore[no-untyped-call]  # torch's

    @override
    def changed_state(self, detector: Detector) -> dict[str, Tensor]:
        return {name: parameter for name, parameter in detector.named_parameters() if parameter.requires_grad}

    @override
    def after_training(self, detector: Detector) -> None:
        """Merge the updates into the weights, which then are ordinary ones again; a second call changes nothing."""
        for layer in _adaptable(detector).values():
            _merge_update(layer)


class LowRankUpdate(nn.Module):
    """Stand in for a weight: the weight plus ``scaling · up down``, in its shape.

    Args:
        weight: ``(out, …)``.
        rank: of the update, at most.
        scaling: what the product is multiplied with.
    """

    scaling: Tensor

    def __init__(self, weight: Tensor, *, rank: int, scaling: float) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        # As a linear layer draws its weights; the other factor is zero, so the detector starts as it was.
        self.down = nn.Parameter(weight.new_empty(rank, columns).uniform_(-1, 1) / sqrt(columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        self.register_buffer("scaling", weight.new_tensor(scaling))

    @override
    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scaling * (self.up @ self.down).reshape(weight.shape)


def _adaptable(detector: nn.Module) -> dict[str, nn.Module]:
    return {name: layer for name, layer in detector.named_modules() if isinstance(layer, _LAYERS)}


def _update_of(layer: nn.Module) -> LowRankUpdate | None:
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    chain = layer.parametrizations.weight  # type: ignore[union-attr]  # a ModuleDict, which torch types as a module
    last = chain[len(chain) - 1]  # type: ignore[index,arg-type]  # a list of modules, likewise
    return last if isinstance(last, LowRankUpdate) else None


def _add_update(layer: nn.Module, *, rank: int, scaling: float) -> None:
    weight = layer.weight
    update = LowRankUpdate(weight.detach(), rank=rank, scaling=scaling)  # type: ignore[operator]  # a tensor
    parametrize.register_parametrization(layer, "weight", update)


def _merge_update(layer: nn.Module) -> None:
    if _update_of(layer) is not None:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _fit_to_checkpoint(detector: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Merge updates that a checkpoint does not have, and add those that only it has, before it is loaded."""
    for name, layer in _adaptable(detector).items():
        key = f"{prefix}{name}.parametrizations.weight.0"
        if f"{key}.up" not in state:
            _merge_update(layer)
        elif _update_of(layer) is None:
            _add_update(layer, rank=state[f"{key}.up"].shape[1], scaling=float(state[f"{key}.scaling"]))
