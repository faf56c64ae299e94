"""Proof that what must stay frozen stayed bit-identical, in any Lightning project."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from pvision.callbacks._frozen_faults import another_network, broken_freeze, listed, refuse_training, weights_changed
from pvision.callbacks._frozen_modules import HasFrozenModules, find_frozen, shared_weights
from pvision.callbacks._frozen_ranks import same_everywhere, stop_together
from pvision.callbacks._frozen_watch import FrozenWatch
from pvision.checks import positive_int
from pvision.errors import ConfigError

__all__ = ["FrozenGuard", "HasFrozenModules"]


class FrozenGuard(Callback):
    """Fail a run in which frozen modules do not stay bit for bit what they were.

    Freezing by ``requires_grad_(False)`` alone is not enough: in training mode BatchNorm moves its running statistics
    all the same. The guard puts the frozen modules into evaluation mode, when fit and each epoch begin, and refuses the
    run if

    - one of them is called, or found before or after a step, in training mode,
    - a frozen parameter takes gradients, is in an optimizer, or shares memory with one that is trained,
    - a parameter or buffer holds other bits: what is written in place or replaced is found after the step, anything
      else by a SHA-256 of all weights, when fit begins and ends, every ``every_n_steps`` optimizer steps, before a
      checkpoint is written, and when validation, test and prediction end,
    - the run is resumed, tested or fitted again with another frozen network: the hash travels in checkpoints.

    All processes check, must hold the same weights, and stop together. ``docs/frozen_guard.md`` says what it costs.

    Args:
        modules: attributes of the LightningModule, such as ``["detector", "model.backbone"]``; None asks its
            ``frozen_modules()``. If that names none, nothing is guarded and nothing reported.
        every_n_steps: optimizer steps between hashes.
        name: in the summary of the run, which gets ``NAME/frozen_sha256_before`` and ``NAME/frozen_sha256``; for one
            module they are its `pvision.weights_hash.weights_sha256`.

    Raises:
        ConfigError: for all of the above; and where a strategy divides weights among processes.

    Example:
        >>> FrozenGuard(["detector"], every_n_steps=500, name="detection").summary_metrics()
        {}
    """

    def __init__(self, modules: Sequence[str] | None = None, *, every_n_steps: int = 100, name: str = "frozen") -> None:
        if modules is not None and (isinstance(modules, str) or not modules):
            raise ConfigError(
                f"FrozenGuard(modules=…) must be a list of attributes such as ['detector'], but {modules!r} came; "
                "leave it out to ask the module's frozen_modules()."
            )
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ConfigError(f"FrozenGuard(name=…) may hold letters, digits, '_', '.' and '-', but {name!r} came.")
        self.modules = None if modules is None else tuple(modules)
        self.every_n_steps = positive_int("every_n_steps", every_n_steps)
        self.name = name
        self._guarded: pl.LightningModule | None = None
        self._before: str | None = None
        self._now: str | None = None
        self._failed = False
        self._hooks: list[RemovableHandle] = []
        self._close()

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(modules=self.modules, name=self.name)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._guarded is not pl_module:
            self._before = self._now = None  # another module is another run
        self._guarded = pl_module

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer, pl_module)
        if self._watch is None:
            return
        # What Lightning warns of is meant here; where other modules are in that mode too, it still warns.
        count = len({part for _, part in self._watch.parts})
        warnings.filterwarnings("ignore", message=rf"Found {count} module\(s\) in eval mode")
        for name, part in self._watch.parts:
            if part._buffers:
                self._hooks.append(part.register_forward_pre_hook(partial(refuse_training, name)))
        self._check(trainer, lambda: self._shared(pl_module) or self._broken(trainer))

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluate()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._check(trainer, lambda: self._broken(trainer))

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._check(trainer, lambda: self._broken(trainer))
        if trainer.global_step - self._hashed_at >= self.every_n_steps:
            self._check(trainer, lambda: self._changed(trainer))

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self._failed and trainer.global_step != self._hashed_at:
            self._check(trainer, lambda: self._changed(trainer))

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer, lambda: self._changed(trainer))

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._begin(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer, lambda: self._changed(trainer))

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer, pl_module)

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer, lambda: self._changed(trainer))

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer, pl_module)

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer, lambda: self._changed(trainer))

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._close()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._failed = True
        self._close()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"frozen_sha256": self._before}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict["frozen_sha256"]

    def summary_metrics(self) -> Mapping[str, float | str]:
        """Return the hash when the run began, and the last one; nothing before that or if nothing is frozen."""
        if self._before is None or self._now is None:
            return {}
        return {f"{self.name}/frozen_sha256_before": self._before, f"{self.name}/frozen_sha256": self._now}

    def _close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._watch: FrozenWatch | None = None
        self._frozen: dict[str, nn.Module] = {}
        self._hashed_at = 0

    def _begin(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Hash what is frozen, and refuse it if it is not what the run began with."""
        self._close()
        self._failed = False
        if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
            raise ConfigError(
                f"FrozenGuard needs whole weights on each process, but {type(trainer.strategy).__name__} divides them. "
                "Use the strategy 'ddp'."
            )
        self._frozen = find_frozen(module, self.modules)
        if not self._frozen:
            self._now = None  # so that no hash of an earlier fit stands in the summary of one that changes all
            rank_zero_info(f"FrozenGuard: {type(module).__name__} says that nothing is frozen, so nothing is guarded.")
            return
        self._evaluate()
        self._watch = FrozenWatch(self._frozen)
        self._now, self._hashed_at = self._watch.sha256, trainer.global_step
        self._before = self._before or self._now
        self._check(trainer, self._another)
        same_everywhere(self._now)

    def _evaluate(self) -> None:
        for one in self._frozen.values():
            one.eval()

    def _check(self, trainer: pl.Trainer, fault: Callable[[], str | None]) -> None:
        if self._watch is not None:
            stop_together(fault(), device=trainer.strategy.root_device)

    def _another(self) -> str | None:
        return None if self._now == self._before else another_network(before=self._before, now=self._now)

    def _shared(self, module: pl.LightningModule) -> str | None:
        other = shared_weights(module, self._frozen)
        if other is None:
            return None
        return (
            f"{other} is trained and shares its memory with {listed(list(self._frozen))}, which must stay frozen. "
            "Give it weights of its own: copy.deepcopy, or clone()."
        )

    def _broken(self, trainer: pl.Trainer) -> str | None:
        """Return what is wrong, as far as it is seen without reading the weights."""
        if self._watch is None:
            return None
        return broken_freeze(self._watch, trainer.optimizers) or self._told(self._watch.touched())

    def _changed(self, trainer: pl.Trainer) -> str | None:
        """Return what is wrong, after reading all weights."""
        if self._watch is None:
            return None
        self._now, self._hashed_at = self._watch.hash_now(), trainer.global_step
        return None if self._now == self._watch.sha256 else self._told(self._watch.changed())

    def _told(self, names: Sequence[str]) -> str | None:
        if not names or self._watch is None:
            return None
        self._now = self._watch.hash_now()
        return weights_changed(names, before=self._before, now=self._now)
