"""Callbacks that void the guarantee of private training."""

from lightning.fabric.utilities.spike import SpikeDetection
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    ThroughputMonitor,
)

from pvision.training.guard import Guard
from pvision.training.guard_trainer import Settings
from pvision.training.public_metrics import is_public_metric
from pvision.training.trainer_parts import callbacks_of

__all__ = ["CALLBACK_GUARDS"]

_PUBLIC_REMEDY = (
    "Monitor a metric of validation, whose records are not trained on; public_metrics takes the names of further "
    "metrics that no private record enters."
)


def _callbacks(settings: Settings) -> list[Callback]:
    return callbacks_of(settings.trainer)


def _present(settings: Settings, kind: type) -> str:
    return next(
        (f"The callback {type(one).__name__} is set" for one in _callbacks(settings) if isinstance(one, kind)), ""
    )


def _monitored(settings: Settings, callbacks: list[Callback]) -> str:
    for callback in callbacks:
        name = getattr(callback, "monitor", None)
        if isinstance(name, str) and not is_public_metric(name, settings.public_metrics):
            return f"The callback {type(callback).__name__} monitors {name!r}"
    return ""


def _weight_averaging(settings: Settings) -> str:
    present = _present(settings, StochasticWeightAveraging)
    if not present or not StochasticWeightAveraging.pl_module_contains_batch_norm(settings.module):
        return ""
    return f"{present} on a network with BatchNorm"


def _early_stopping(settings: Settings) -> str:
    return _monitored(settings, [one for one in _callbacks(settings) if isinstance(one, EarlyStopping)])


def _checkpoint(settings: Settings) -> str:
    return _monitored(settings, [one for one in _callbacks(settings) if isinstance(one, ModelCheckpoint)])


def _other_monitor(settings: Settings) -> str:
    known = (EarlyStopping, ModelCheckpoint)
    return _monitored(settings, [one for one in _callbacks(settings) if not isinstance(one, known)])


CALLBACK_GUARDS: tuple[Guard[Settings], ...] = (
    Guard(
        name="early_stopping",
        setting="`EarlyStopping` that monitors a training metric",
        reason="when training ends would tell what private records gave without noise",
        remedy=_PUBLIC_REMEDY,
        finds=_early_stopping,
    ),
    Guard(
        name="checkpoint_choice",
        setting="`ModelCheckpoint` that monitors a training metric",
        reason="which weights are kept would tell what private records gave without noise",
        remedy=f"{_PUBLIC_REMEDY} Or leave monitor out, to keep the last weights.",
        finds=_checkpoint,
    ),
    Guard(
        name="monitor",
        setting="any other callback whose `monitor` is a training metric",
        reason="it would act on what private records gave without noise",
        remedy=_PUBLIC_REMEDY,
        finds=_other_monitor,
    ),
    Guard(
        name="learning_rate_finder",
        setting="`LearningRateFinder`, `Tuner.lr_find`",
        reason="it trains on private records before the run and chooses by their un-noised loss",
        remedy="Choose the learning rate on public records, and leave the callback out.",
        finds=lambda settings: _present(settings, LearningRateFinder),
    ),
    Guard(
        name="batch_size_finder",
        setting="`BatchSizeFinder`, `Tuner.scale_batch_size`",
        reason="it trains on private records before the run, in batches that the mechanism did not draw",
        remedy="Leave it out; privacy.sample_rate decides the batches, the module's microbatch the memory.",
        finds=lambda settings: _present(settings, BatchSizeFinder),
    ),
    Guard(
        name="accumulation_schedule",
        setting="`GradientAccumulationScheduler`",
        reason="batches would be summed past the mechanism: a record could enter one step several times",
        remedy="Leave it out; raise privacy.sample_rate for larger batches.",
        finds=lambda settings: _present(settings, GradientAccumulationScheduler),
    ),
    Guard(
        name="spike_detection",
        setting="`SpikeDetection`",
        reason="it skips batches by their un-noised loss",
        remedy="Leave it out; clipping already bounds what one batch can do.",
        finds=lambda settings: _present(settings, SpikeDetection),
    ),
    Guard(
        name="throughput_monitor",
        setting="`ThroughputMonitor`",
        reason="it logs how many records each batch held, and with it who was drawn",
        remedy="Leave it out; DeviceStatsMonitor and the progress bar show the pace.",
        finds=lambda settings: _present(settings, ThroughputMonitor),
    ),
    Guard(
        name="finetuning",
        setting="`BackboneFinetuning` and other `BaseFinetuning`",
        reason="it frees parameters during the run that were never checked, and hands them to the optimizer",
        remedy="Freeze or free parameters (requires_grad_) before fit, and leave the callback out.",
        finds=lambda settings: _present(settings, BaseFinetuning),
    ),
    Guard(
        name="weight_averaging",
        setting="`StochasticWeightAveraging` where the network holds BatchNorm, even a frozen one",
        reason="it gathers statistics of private records in one more epoch, without noise",
        remedy="Put GroupNorm in the network (pvision.models.replace_batch_norm), or use EMAWeightAveraging.",
        finds=_weight_averaging,
    ),
    Guard(
        name="pruning",
        setting="`ModelPruning`",
        reason="it exchanges the network's parameters during the run for others that were never checked",
        remedy="Prune the finished weights: that costs no privacy.",
        finds=lambda settings: _present(settings, ModelPruning),
    ),
)
