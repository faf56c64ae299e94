"""Refuse to run where the stated ε would not hold: the entry points, and the table of all guards.

``docs/privacy_guards.md`` shows this table; a test holds the two together.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.optim import Optimizer

from pvision.training.guard import Guard, refuse
from pvision.training.guard_callbacks import CALLBACK_GUARDS
from pvision.training.guard_loader import LOADER_GUARDS, TrainingLoader
from pvision.training.guard_network import NETWORK_GUARDS, Network
from pvision.training.guard_optimizers import OPTIMIZER_GUARDS, OptimizedNetwork
from pvision.training.guard_trainer import TRAINER_GUARDS, Settings
from pvision.training.unnoised_logging import LOGGING_GUARDS

__all__ = [
    "GUARDS",
    "refuse_unsafe_loader",
    "refuse_unsafe_network",
    "refuse_unsafe_optimizers",
    "refuse_unsafe_trainer",
]

GUARDS: dict[str, tuple[Guard[Any], ...]] = {
    "trainer": TRAINER_GUARDS,
    "callbacks": CALLBACK_GUARDS,
    "network": NETWORK_GUARDS,
    "optimizers": OPTIMIZER_GUARDS,
    "loader": LOADER_GUARDS,
    "logging": LOGGING_GUARDS,
}


def refuse_unsafe_trainer(
    trainer: pl.Trainer, module: pl.LightningModule, *, public_metrics: Sequence[str] = ()
) -> None:
    """Refuse settings, callbacks and schedules of a Trainer that void the guarantee of private training.

    Call it in ``setup("fit")``, before anything costs time, and again in ``on_fit_start``, when the schedules exist.

    Args:
        trainer: as it will fit ``module``.
        module: the LightningModule; itself and its data module are searched for augmentations that mix records.
        public_metrics: names of further metrics that may be monitored, because they do not depend on private
            records. Those of validation and test (``val…``, ``valid…``, ``validation…``, ``test…``), ``privacy/…``,
            ``epoch`` and ``step`` may be without being named.

    Raises:
        PrivacyError: naming every such setting, why it is refused and the remedy.
    """
    refuse((*TRAINER_GUARDS, *CALLBACK_GUARDS), Settings(trainer, module, tuple(public_metrics)))


def refuse_unsafe_network(network: nn.Module, *, sample: Tensor | None = None, allow_shared: bool = False) -> None:
    """Refuse a network whose per-record gradients would not be each record's own, or not be all that is learnt.

    Args:
        network: what the noisy steps train.
        sample: two records or more, as ``network`` takes them; with it the network is run as well.
        allow_shared: whether the engine is known to sum all uses of a shared parameter before it clips, as
            `pvision.privacy.record_gradients` does.

    Raises:
        PrivacyError: naming every problem, why it is refused and the remedy.
    """
    refuse(NETWORK_GUARDS, Network(network, sample, allow_shared))


def refuse_unsafe_optimizers(optimizers: Optimizer | Sequence[Any], network: nn.Module) -> None:
    """Refuse optimizers that would step on more than noisy gradients, or more than once for each.

    Args:
        optimizers: those of the noisy steps, wrapped by Lightning or not; not those of un-noised phases.
        network: what the noisy steps train.

    Raises:
        PrivacyError: naming every problem, why it is refused and the remedy.
    """
    several = optimizers if isinstance(optimizers, Sequence) else [optimizers]
    refuse(OPTIMIZER_GUARDS, OptimizedNetwork(tuple(several), network))


def refuse_unsafe_loader(
    loader: Any,
    expected_batches: Iterable[Sequence[int]],
    *,
    num_records: int | None = None,
    items: Sequence[Any] | None = None,
) -> None:
    """Refuse a training loader that is not driven by the mechanism's sampler, or that mixes records.

    Args:
        loader: what the Trainer will iterate.
        expected_batches: the mechanism's ``batches``; the very object.
        num_records: records for which the mechanism was made; with it the data set's length is compared.
        items: two items of the data set or more, different from each other; with them the collate function is run.

    Raises:
        PrivacyError: naming every problem, why it is refused and the remedy.
    """
    refuse(
        LOADER_GUARDS, TrainingLoader(loader, expected_batches, num_records, None if items is None else tuple(items))
    )
