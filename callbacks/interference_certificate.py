"""How far each update of each linear layer moves what the model computed before, in any Lightning project."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from pvision.callbacks._forgetting_stream import stream_of
from pvision.callbacks._interference_passes import Forward, batches_of, evaluating, run_images
from pvision.callbacks._interference_promises import (
    HasLinearPart,
    HasSubspaceMemory,
    claims_privacy,
    linear_part_of,
    promised_bases,
)
from pvision.callbacks._interference_report import Row, largest, metrics_of, write_files
from pvision.callbacks._runs import copy_to_mlflow
from pvision.callbacks.privacy_accounting import PrivacyAccounting
from pvision.callbacks.train_privately import TrainPrivately
from pvision.checks import at_least, positive_int, unit_rate
from pvision.continual.feature_recorder import FeatureRecorder, InputRecorder, find_linears, input_dim
from pvision.continual.features import FeatureFactor
from pvision.continual.interference import affine_map, interference, token_margin
from pvision.continual.subspace import SubspaceMemory
from pvision.errors import ConfigError, PrivacyError
from pvision.training.run_files import is_trial, run_folder, run_loggers
from pvision.training.streams.consolidation import Consolidation
from pvision.training.trainer_parts import callbacks_of, on_device

__all__ = ["HasLinearPart", "HasSubspaceMemory", "InterferenceCertificate"]


class InterferenceCertificate(Callback):
    """Certify, for each linear layer and experience, how far an update moves outputs for old inputs.

    One ``trainer.fit`` is one experience. When it has ended, one pass over its training records adds the layers' inputs
    to their second moments; no record is kept. On them the next fit's update ΔW is measured: the change ‖ΔW X‖ that it
    makes, and the bound ‖ΔW‖₂ ‖(I − MMᵀ)X‖ that holds if it leaves the memory M and the bias alone; see
    `pvision.continual.interference`. M is the module's own, if it has a ``subspace_memory``; otherwise one with
    ``energy`` of the inputs, made here.

    All loggers get ``certificate/change``, ``/bound``, ``/leak`` and ``/excess``, the largest over all layers, and
    change and bound of each layer; the step is the experience's index. ``interference.csv`` and ``interference.json``
    in the run's folder, and in MLflow, hold all rows. The state travels with checkpoints. Nothing happens under
    ``fast_dev_run``.

    Args:
        layers: shell patterns of the names of linear layers in the module.
        energy: share of the inputs' energy that the memory made here holds; 1 for all directions but rounding.
        tolerance: by how much the change may exceed its bound, before the run fails; 1e-9 suits float64 weights, 1e-5
            float32. None reports only: right for methods that promise nothing.
        max_batches: batches of each process and experience that are looked at; None for all.
        images: ``(N, C, H, W)`` of earlier experiences: for what the layers get of them after the update, the bound
            is checked input by input, too.
        forward: how the module sees a batch; None calls ``module(images)`` with the first images in it.

    Raises:
        ConfigError: if an argument is outside its range, a pattern matches no layer, a layer is not linear, or a
            promise was broken.
        PrivacyError: if the module trains privately: what this callback writes comes from records without noise.

    Example:
        >>> InterferenceCertificate(layers=["backbone.blocks.*.qkv"], tolerance=1e-4).summary_metrics()
        {}
    """

    def __init__(
        self,
        *,
        layers: Sequence[str] = ("*",),
        energy: float = 0.99,
        tolerance: float | None = None,
        max_batches: int | None = None,
        images: Tensor | None = None,
        forward: Forward | None = None,
    ) -> None:
        if isinstance(layers, str) or not layers or not all(isinstance(one, str) for one in layers):
            raise ConfigError(f"interference_certificate.layers must be a list of patterns, but {layers!r} came.")
        self.layers = tuple(layers)
        self.energy = unit_rate("interference_certificate.energy", energy)
        self.tolerance = None if tolerance is None else at_least("interference_certificate.tolerance", tolerance, 0)
        self.max_batches = (
            None if max_batches is None else positive_int("interference_certificate.max_batches", max_batches)
        )
        self._images, self._forward = images, forward
        self.rows: list[Row] = []
        self._old: dict[str, FeatureFactor] = {}
        self._weights: dict[str, Tensor] = {}
        self._memory = SubspaceMemory({}, compact=True)
        self._promised: dict[str, Tensor] = {}
        self._fits, self._concluded, self._stage = 0, -1, ""

    def summary_metrics(self) -> Mapping[str, float]:
        """Return the largest change, bound, leak and excess of all experiences."""
        return largest(self.rows)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "fits": self._fits,
            "concluded": self._concluded,
            "rows": [dict(vars(row)) for row in self.rows],
            "old": {name: features.state_dict() for name, features in self._old.items()},
            "weights": dict(self._weights),
            "memory": self._memory.state_dict(),
            "promised": dict(self._promised),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._stage not in ("", "fit") and self._concluded >= 0:
            return  # a checkpoint that is evaluated may be older than what this object has seen since
        self._fits, self._concluded = state_dict["fits"], state_dict["concluded"]
        self.rows = [Row(**row) for row in state_dict["rows"]]
        self._weights, self._promised = dict(state_dict["weights"]), dict(state_dict["promised"])
        self._old = {}
        for name, state in state_dict["old"].items():
            self._old[name] = FeatureFactor(state["factor"].shape[1])
            self._old[name].load_state_dict(state)
        self._memory = SubspaceMemory({}, compact=True)
        self._memory.load_state_dict(state_dict["memory"])

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stage = stage
        if any(map(_is_private, callbacks_of(trainer))) or claims_privacy(pl_module):
            raise PrivacyError(
                "InterferenceCertificate writes numbers and second moments that come from training records without "
                "noise, so it would void the guarantee of private training. Leave it out."
            )

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        layers = find_linears(pl_module, self.layers)
        with evaluating(trainer, pl_module), linear_part_of(pl_module):
            for layer in layers.values():
                affine_map(layer)  # refuses what is not linear before hours of training
        self._promised = promised_bases(pl_module, list(layers))

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not _consolidates(trainer):
            self._conclude(trainer, pl_module)

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Along a stream, what a method does once the experience is learned belongs to its update.
        stream = stream_of(trainer)
        if _consolidates(trainer) and stream is not None and stream.current != self._concluded:
            self._conclude(trainer, pl_module)

    def _conclude(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if is_trial(trainer):
            return
        stream = stream_of(trainer)
        index = self._fits if stream is None else stream.current
        layers = find_linears(module, self.layers)
        with evaluating(trainer, module):
            with linear_part_of(module):
                weights = {name: affine_map(layer).cpu() for name, layer in layers.items()}
            comparable = self._comparable(weights)
            inputs = self._inputs_of_images(trainer, module, {name: layers[name] for name in comparable})
            rows = [self._row(index, name, weights[name], inputs.get(name)) for name in comparable]
            rows = trainer.strategy.broadcast(rows)
            if stream is None or stream.experiences[index].kind == "learn":
                self._remember(trainer, module, layers)
        self._weights, self._concluded, self._fits = weights, index, self._fits + 1
        self._promised = promised_bases(module, list(layers))  # not every event of a stream begins with a fit
        self._publish(trainer, index, rows)

    def _comparable(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Return the layers of which old inputs are known, and forget those that are no more what they were."""
        for name, before in self._weights.items():
            if name in self._old and (name not in weights or weights[name].shape != before.shape):
                rank_zero_warn(f"InterferenceCertificate: {name} is gone or has another shape, so it is not compared.")
                del self._old[name]
        return [name for name in weights if name in self._old]

    def _inputs_of_images(
        self, trainer: pl.Trainer, module: pl.LightningModule, layers: Mapping[str, nn.Module]
    ) -> dict[str, Tensor]:
        if self._images is None or not layers:
            return {}
        with InputRecorder(layers) as recorded:
            run_images(module, on_device(trainer, self._images), self._forward)
        flat = {name: [one.flatten(0, -2) for one in given] for name, given in recorded.inputs.items()}
        return {name: torch.cat(given).cpu() for name, given in flat.items()}

    def _row(self, index: int, name: str, after: Tensor, inputs: Tensor | None) -> Row:
        before, old = self._weights[name], self._old[name]
        basis = self._promised[name] if name in self._promised else self._memory[name].basis()
        found = interference(before, after, old, basis)
        return Row(
            experience=index,
            layer=name,
            **found._asdict(),
            rank=basis.shape[1],
            dim=len(basis),
            inputs=old.count,
            token_margin=None if inputs is None else token_margin(before, after, inputs, basis),
        )

    def _remember(self, trainer: pl.Trainer, module: pl.LightningModule, layers: Mapping[str, nn.Module]) -> None:
        """Add the inputs of all layers to what is known of old inputs."""
        with FeatureRecorder(layers, ones=True) as recorder:
            for batch in batches_of(trainer, stream_of(trainer), most=self.max_batches):
                run_images(module, batch, self._forward)
        for name, own in recorder.features.items():
            seen, dim = own.together(), input_dim(layers[name])
            if not seen.count:
                rank_zero_warn(f"InterferenceCertificate: {name} is never called in a forward pass, so it is left out.")
                continue
            if name not in self._old:
                self._old[name] = FeatureFactor(dim + 1)
                self._memory.drop(name)
                self._memory.add(name, dim)
            self._old[name].merge(seen)
            self._memory[name].update(seen.leading(dim), energy=self.energy)

    def _publish(self, trainer: pl.Trainer, index: int, rows: Sequence[Row]) -> None:
        if not rows:
            return
        self.rows = [row for row in self.rows if row.experience != index] + list(rows)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in largest(rows).items()})
        if trainer.is_global_zero:
            for logger in run_loggers(trainer):
                logger.log_metrics(metrics_of(rows), step=index)
                logger.save()
            settings = {"energy": self.energy, "tolerance": self.tolerance}
            for path in write_files(self.rows, settings, folder=run_folder(trainer)):
                copy_to_mlflow(trainer, path, tags={})
        worst = max(rows, key=lambda row: row.excess)
        if self.tolerance is not None and not worst.excess <= self.tolerance:
            raise ConfigError(
                f"The update of experience {index} broke its promise: it moved outputs of {worst.layer} for old inputs "
                f"by {worst.change:.3g} of their norm, where {worst.bound:.3g} was the bound (leak {worst.leak:.1e}). "
                "Train coordinates in the complement of the memory instead of projecting gradients; tolerance=None "
                "reports only."
            )


def _is_private(callback: pl.Callback) -> bool:
    """Whether a callback trains privately or accounts for it; `pvision fit` adds an accountant to every run."""
    if isinstance(callback, PrivacyAccounting):
        return callback.delta is not None or callback.budget is not None
    return isinstance(callback, TrainPrivately)


def _consolidates(trainer: pl.Trainer) -> bool:
    return any(isinstance(one, Consolidation) for one in callbacks_of(trainer))
