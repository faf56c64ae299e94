"""What training and evaluation cost, beside what they achieve."""

import csv
import io
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from typing_extensions import override

from pvision.callbacks._batch_images import images_in
from pvision.callbacks._provenance import peak_memory
from pvision.callbacks._runs import copy_to_mlflow
from pvision.continual.cost import NOT_COUNTED, ForwardCost, forward_cost, tensor_bytes, tensors_in
from pvision.errors import ConfigError
from pvision.files import write_whole
from pvision.training.run_files import is_trial, run_folder

__all__ = ["TrainingCost"]


class TrainingCost(Callback):
    """Log parameters, bytes, GMACs, passes, memory and time for every experience.

    One ``trainer.fit`` is one experience, and ``trainer.test`` or ``trainer.validate`` after it evaluates it. All names
    begin with ``cost/``; the step of the logs is the experience's index.

    - ``parameters_trainable``, ``parameters_total``, ``parameters_stored``: elements with a gradient, of all
      parameters, and of the module's state
    - ``module_bytes``, ``optimizer_bytes``, ``replay_bytes``: what a checkpoint keeps of each
    - ``gmacs_per_image``, ``forwards_per_image``: 10⁹ multiplications, and passes through the backbone, in one
      prediction
    - ``fit_seconds``, ``evaluation_seconds``: wall time, of the slowest process
    - ``train_images_per_second``, ``evaluation_images_per_second``: of all processes, replayed images included
    - ``peak_memory_mib``, ``peak_gpu_memory_mib``: the most so far, of the process that held most

    GMACs and passes are measured by one further prediction, ``module.predict(image)`` or else ``module(image)``, of
    the first image of each evaluation; NaN and a warning where the module has neither. `pvision.continual.cost` says
    what is not counted. ``cost.csv`` and ``cost.json`` lie in the run's folder and in MLflow. The times travel in
    checkpoints, so that a resumed run adds up. Nothing happens under ``fast_dev_run``.

    Args:
        backbone: the submodule whose passes are counted; None for the module's ``backbone``, if it has one.

    Raises:
        ConfigError: when fit or evaluation starts, if the module has no such submodule.

    Example:
        >>> TrainingCost(backbone="encoder").summary_metrics()
        {}
    """

    def __init__(self, *, backbone: str | None = None) -> None:
        self.backbone = backbone
        self._rows: dict[int, dict[str, float]] = {}
        self._fits = 0
        self._fit, self._evaluation = _Watch(), _Watch()
        self._stage = ""

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stage = stage
        if stage == "fit":
            self._fit = _Watch()  # a fit that failed before does not count; one that is resumed is in the checkpoint

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._backbone_of(pl_module)
        self._fit.start()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._fit.images += _count(batch)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if is_trial(trainer):
            return
        index = _experience(trainer, self._fits)
        self._fits += 1
        measured = self._fit.stop(trainer, "fit_seconds", "train_images_per_second")
        measured |= _sizes(trainer, pl_module) | _memory(trainer)
        self._record(trainer, index, measured)

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._backbone_of(pl_module)
        self._evaluation = _Watch()
        self._evaluation.start()

    @override
    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == dataloader_idx == 0 and not is_trial(trainer):
            started = time.monotonic()
            cost = self._forward_cost(trainer, pl_module, batch)
            self._evaluation.measured = {"gmacs_per_image": cost.gmacs, "forwards_per_image": cost.forwards}
            self._evaluation.before -= time.monotonic() - started
        self._evaluation.images += _count(batch)

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        index = _experience(trainer, max(self._fits - 1, 0))
        measured = dict(self._evaluation.measured)
        measured |= self._evaluation.stop(trainer, "evaluation_seconds", "evaluation_images_per_second")
        self._record(trainer, index, measured | {"replay_bytes": _replay_bytes(trainer)} | _memory(trainer))

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.on_test_start(trainer, pl_module)

    @override
    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.state.fn == "validate":
            self.on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.on_test_end(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        rows = {str(index): dict(row) for index, row in self._rows.items()}
        return {"rows": rows, "fits": self._fits, "fit_seconds": self._fit.seconds, "fit_images": self._fit.images}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._stage not in ("", "fit"):  # nothing has begun yet, where a stream goes on after an experience
            return  # a checkpoint that is evaluated may be older than what this object has measured since
        self._rows = {int(index): dict(row) for index, row in state_dict["rows"].items()}
        self._fits = int(state_dict["fits"])
        self._fit = _Watch(before=float(state_dict["fit_seconds"]), images=int(state_dict["fit_images"]))

    def summary_metrics(self) -> Mapping[str, float]:
        """Return the last experience's values, and the sums of all experiences' seconds."""
        if not self._rows:
            return {}
        last = {f"cost/{name}": value for name, value in self._rows[max(self._rows)].items()}
        return last | {f"cost/{name}": value for name, value in self._totals().items()}

    def _totals(self) -> dict[str, float]:
        names = ("fit_seconds", "evaluation_seconds")
        return {f"total_{name}": sum(row.get(name, 0.0) for row in self._rows.values()) for name in names}

    def _backbone_of(self, module: pl.LightningModule) -> nn.Module | None:
        if self.backbone is None:
            own = getattr(module, "backbone", None)
            return own if isinstance(own, nn.Module) else None
        try:
            return module.get_submodule(self.backbone)
        except AttributeError as error:
            names = ", ".join(name for name, _ in module.named_children())
            raise ConfigError(
                f"TrainingCost(backbone={self.backbone!r}): {type(module).__name__} has no such submodule. It has "
                f"{names or 'none'}."
            ) from error

    def _forward_cost(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> ForwardCost:
        images = images_in(batch)
        if images is None:
            rank_zero_warn("TrainingCost found no tensor of images in the batch, so GMACs and passes are unknown.")
            return ForwardCost(math.nan, math.nan)
        call = getattr(module, "predict", None)
        try:
            with trainer.strategy.precision_plugin.forward_context():
                return forward_cost(call if callable(call) else module, images[:1], backbone=self._backbone_of(module))
        except Exception as error:  # whatever a module raises that cannot predict from an image alone
            rank_zero_warn(
                f"TrainingCost could not call {type(module).__name__} with one image ({type(error).__name__}: "
                f"{error}), so GMACs and passes are unknown. Give the module a forward(image) or predict(image)."
            )
            return ForwardCost(math.nan, math.nan)

    def _record(self, trainer: pl.Trainer, index: int, measured: Mapping[str, float]) -> None:
        if is_trial(trainer):
            return
        self._rows.setdefault(index, {}).update(measured)
        finite = {f"cost/{name}": value for name, value in measured.items() if math.isfinite(value)}
        for logger in trainer.loggers:
            logger.log_metrics(finite, step=index)
        if trainer.is_global_zero:
            self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        folder = run_folder(trainer)
        rows = [{"experience": index, **row} for index, row in sorted(self._rows.items())]
        table = io.StringIO()
        writer = csv.DictWriter(table, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        plain = [{name: value if math.isfinite(value) else None for name, value in row.items()} for row in rows]
        report = {"experiences": plain, **self._totals(), "gmacs_leave_out": NOT_COUNTED}
        write_whole(folder / "cost.csv", table.getvalue())
        write_whole(folder / "cost.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
        for name in ("cost.csv", "cost.json"):
            copy_to_mlflow(trainer, folder / name, tags={})


class _Watch:
    """Seconds and images of one fit or evaluation.

    Args:
        before: seconds that earlier processes spent on it.
        images: that they saw.
    """

    def __init__(self, *, before: float = 0.0, images: int = 0) -> None:
        self.before, self.images = before, images
        self.measured: dict[str, float] = {}
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        return self.before + (0.0 if self._started is None else time.monotonic() - self._started)

    def start(self) -> None:
        self._started = time.monotonic()

    def stop(self, trainer: pl.Trainer, seconds: str, rate: str) -> dict[str, float]:
        """Return the slowest process' seconds and all processes' images per second; then begin anew."""
        slowest = _reduced(trainer, [self.seconds], "max")[0]
        images = _reduced(trainer, [float(self.images)], "sum")[0]
        self.before, self.images, self._started = 0.0, 0, None
        return {seconds: slowest, rate: images / slowest if slowest > 0 else math.nan}


def _experience(trainer: pl.Trainer, fits: int) -> int:
    """Return the index of the stream's experience; elsewhere how many fits came before."""
    stream: Any = getattr(trainer, "datamodule", None)
    return int(stream.current) if hasattr(stream, "current") and hasattr(stream, "experiences") else fits


def _sizes(trainer: pl.Trainer, module: nn.Module) -> dict[str, float]:
    parameters = list(module.parameters())
    state = tensors_in(module.state_dict())
    optimizers = [tensor for one in trainer.optimizers for tensor in tensors_in(list(one.state.values()))]
    return {
        "parameters_trainable": float(sum(one.numel() for one in parameters if one.requires_grad)),
        "parameters_total": float(sum(one.numel() for one in parameters)),
        "parameters_stored": float(sum(one.numel() for one in state)),
        "module_bytes": float(tensor_bytes(state)),
        "optimizer_bytes": float(tensor_bytes(optimizers)),
        "replay_bytes": _replay_bytes(trainer),
    }


def _replay_bytes(trainer: pl.Trainer) -> float:
    return float(getattr(getattr(getattr(trainer, "datamodule", None), "replay", None), "nbytes", 0))


def _memory(trainer: pl.Trainer) -> dict[str, float]:
    found = peak_memory()
    held = [found.get("peak_memory_mb", 0.0), found.get("peak_gpu_memory_mb", 0.0)]
    most, most_gpu = _reduced(trainer, held, "max")
    return ({"peak_memory_mib": most} if most else {}) | ({"peak_gpu_memory_mib": most_gpu} if most_gpu else {})


def _reduced(trainer: pl.Trainer, values: list[float], operation: str) -> list[float]:
    device = trainer.strategy.root_device
    exact = torch.float32 if device.type == "mps" else torch.float64
    reduced: Any = trainer.strategy.reduce(torch.tensor(values, dtype=exact, device=device), reduce_op=operation)
    return [float(value) for value in reduced.tolist()]


def _count(batch: Any) -> int:
    images = images_in(batch)
    return 0 if images is None else len(images)
