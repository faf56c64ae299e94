"""Settings of the Trainer under which private training would not be private."""

from typing import NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.profilers import PyTorchProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from pvision.training.guard import Guard
from pvision.training.public_metrics import is_public_metric
from pvision.training.record_mixing import mixing_transforms

__all__ = ["TRAINER_GUARDS", "Settings"]

_EXACT_PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")
_KNOWN_PRECISIONS = (Precision, DoublePrecision, HalfPrecision, MixedPrecision)


class Settings(NamedTuple):
    """A Trainer, the module that it fits, and what may be monitored beyond what is known to be public."""

    trainer: pl.Trainer
    module: pl.LightningModule
    public_metrics: tuple[str, ...] = ()


def _precision(settings: Settings) -> str:
    precision, plugin = settings.trainer.precision, settings.trainer.precision_plugin
    scaler = getattr(plugin, "scaler", None)
    if precision in _EXACT_PRECISIONS and type(plugin) in _KNOWN_PRECISIONS and scaler is None:
        return ""
    means = type(plugin if scaler is None else scaler).__name__
    return f"trainer.precision is {precision!r} by {means}"


def _gradient_clip_val(settings: Settings) -> str:
    value = settings.trainer.gradient_clip_val
    return f"trainer.gradient_clip_val is {value}" if value else ""


def _accumulate_grad_batches(settings: Settings) -> str:
    value = settings.trainer.accumulate_grad_batches
    return "" if value == 1 else f"trainer.accumulate_grad_batches is {value}"


def _sync_batchnorm(settings: Settings) -> str:
    return "trainer.sync_batchnorm is True" if getattr(settings.trainer.strategy, "_layer_sync", None) else ""


def _strategy(settings: Settings) -> str:
    strategy = settings.trainer.strategy
    # Exactly these: their subclasses (DeepSpeed, XLA) treat gradients in their own way.
    allowed = type(strategy) in (SingleDeviceStrategy, DDPStrategy)
    return "" if allowed else f"trainer.strategy is {type(strategy).__name__}"


def _gradient_communication(settings: Settings) -> str:
    strategy = settings.trainer.strategy
    for name in ("_ddp_comm_hook", "_ddp_comm_wrapper", "_model_averaging_period"):
        if getattr(strategy, name, None) is not None:
            return f"{name[1:]} of DDPStrategy is set"
    return ""


def _overfit_batches(settings: Settings) -> str:
    value = settings.trainer.overfit_batches  # type: ignore[attr-defined]  # missing in its stubs
    return f"trainer.overfit_batches is {value}" if value else ""


def _use_distributed_sampler(settings: Settings) -> str:
    trainer = settings.trainer
    replaces = trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler
    return f"trainer.use_distributed_sampler is True with {trainer.world_size} processes" if replaces else ""


def _profiler(settings: Settings) -> str:
    profiler = settings.trainer.profiler  # type: ignore[attr-defined]  # missing in its stubs
    shapes = isinstance(profiler, PyTorchProfiler) and profiler._profiler_kwargs.get("record_shapes")
    return "trainer.profiler is a PyTorchProfiler with record_shapes" if shapes else ""


def _plateau(settings: Settings) -> str:
    for schedule in settings.trainer.lr_scheduler_configs:
        monitored = schedule.monitor
        if not isinstance(schedule.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            continue
        if monitored is None:
            return "ReduceLROnPlateau says no metric to monitor"
        if not is_public_metric(monitored, settings.public_metrics):
            return f"ReduceLROnPlateau monitors {monitored!r}"
    return ""


def _batch_augmentation(settings: Settings) -> str:
    data = getattr(settings.trainer, "datamodule", None)
    found = mixing_transforms(settings.module) or (mixing_transforms(data) if data is not None else [])
    return f"The module or its data module holds {', '.join(found)}" if found else ""


TRAINER_GUARDS: tuple[Guard[Settings], ...] = (
    Guard(
        name="precision",
        setting="`precision` 16-mixed, 16-true, transformer-engine; a gradient scaler",
        reason="a gradient scaler skips steps by looking at un-noised gradients, scaling factors of float8 remember "
        "other records, and float16 loses small gradients to zero",
        remedy="Use 32-true, bf16-mixed, bf16-true or 64-true.",
        finds=_precision,
    ),
    Guard(
        name="gradient_clip_val",
        setting="`gradient_clip_val`",
        reason="it clips the gradient of a whole batch, which bounds no record's share, or clips the noise",
        remedy="Leave it out; privacy.max_grad_norm bounds each record.",
        finds=_gradient_clip_val,
    ),
    Guard(
        name="accumulate_grad_batches",
        setting="`accumulate_grad_batches` other than 1",
        reason="batches would be summed past the mechanism: a record could enter one step several times",
        remedy="Set it to 1; a larger privacy.sample_rate makes larger batches, a smaller microbatch saves memory.",
        finds=_accumulate_grad_batches,
    ),
    Guard(
        name="sync_batchnorm",
        setting="`sync_batchnorm`",
        reason="batch normalisation mixes the records of all processes",
        remedy="Leave it out; put GroupNorm in the network (pvision.models.replace_batch_norm).",
        finds=_sync_batchnorm,
    ),
    Guard(
        name="strategy",
        setting="`strategy` fsdp, deepspeed, xla and other than single device and plain DDP",
        reason="it shards or reduces gradients before they are clipped and noised",
        remedy="Use one device, or strategy ddp, ddp_spawn or ddp_notebook.",
        finds=_strategy,
    ),
    Guard(
        name="gradient_communication",
        setting="`DDPStrategy` with `ddp_comm_hook`, `ddp_comm_wrapper` or `model_averaging_period`",
        reason="it changes or remembers un-noised gradients on their way between processes",
        remedy="Leave it out.",
        finds=_gradient_communication,
    ),
    Guard(
        name="overfit_batches",
        setting="`overfit_batches`",
        reason="Lightning replaces the sampler by one that repeats the first records in every epoch",
        remedy="Use trainer.limit_train_batches for a short run.",
        finds=_overfit_batches,
    ),
    Guard(
        name="use_distributed_sampler",
        setting="`use_distributed_sampler` (the default) with several processes",
        reason="Lightning replaces the mechanism's sampler by one that deals out each record once an epoch",
        remedy="Set trainer.use_distributed_sampler to False; the mechanism splits its batches between processes.",
        finds=_use_distributed_sampler,
    ),
    Guard(
        name="profiler",
        setting="`PyTorchProfiler(record_shapes=True)`",
        reason="its trace holds the size of every batch, and with it who was drawn",
        remedy="Leave record_shapes out, or profile a run without private records.",
        finds=_profiler,
    ),
    Guard(
        name="plateau_schedule",
        setting="`ReduceLROnPlateau` that monitors a training metric, or none",
        reason="the learning rate would follow what private records gave without noise",
        remedy="Let it monitor a metric of validation, whose records are not trained on, or use another schedule; "
        "public_metrics takes the names of further metrics that no private record enters.",
        finds=_plateau,
    ),
    Guard(
        name="batch_augmentation",
        setting="MixUp, CutMix, mosaic, copy-paste as part of the module or data module",
        reason="it mixes records, so that one record enters the gradients of others",
        remedy="Remove it from private training; augment each record by itself.",
        finds=_batch_augmentation,
    ),
)
