"""Private training of somebody else's LightningModule, by three changed lines."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from pvision.callbacks._private_hooks import PrivateHooks
from pvision.callbacks._private_loader import EpochBatches, PrivateDataLoader, make_loader
from pvision.callbacks._private_run import Settings
from pvision.callbacks._private_statement import check_statement
from pvision.checks import one_of, positive_int, unit_rate
from pvision.errors import PrivacyError
from pvision.privacy import PrivacySpec
from pvision.privacy.step_gradients import ENGINES

__all__ = ["TrainPrivately"]


class TrainPrivately(PrivateHooks):
    """Make any LightningModule train privately: per-record gradients of its own ``training_step``, clipped and noised.

    During fit, ``training_step`` is replaced by one that runs the module's own for each record of a batch that the
    mechanism drew, releases the gradients by `GaussianMechanism` and hands them to the module's optimizer as if
    ``backward`` had made them. Under manual optimisation the module calls `backward` itself.

    An epoch has ``round(1 / sample_rate)`` steps, so that every unit comes once on average. Training ends with the
    Trainer's own limit, or when ``privacy.steps`` are spent.

    Args:
        privacy: everything that ε depends on. ``"residual"`` and ``"residual_shared_batch"`` need ``redact``;
            ``"redact_then_dp_sgd"`` is DP-SGD on weights that a fit before made from redacted records only.
        redact: takes a batch as ``training_step`` gets it and returns it without what is sensitive, record by record.
        engine: ``"vmap"`` takes the gradients of many records at once; ``"loop"`` one after the other: slower, and
            right for any ``training_step``.
        microbatch: records whose gradients are held in memory at once.
        public_batch_size: for ``"residual"``: records in each un-noised batch; as many as are drawn on average if None.
        residual_weight: for the residuals: λ in (0, 1], the noisy gradient's share in a step.
        log_unnoised: names that ``training_step`` may log, although they come from private records without noise.

    Attributes:
        privacy: the statement.

    Raises:
        ConfigError: if a value is outside its range.
        PrivacyError: here or at the start of fit, if the guarantee would not hold.

    Guarantee:
        That of `GaussianMechanism` for the weights, optimizer states and logs of the run. What ``training_step``
        prints or keeps on the module itself is not covered. Weights that are in the module before fit are taken for
        public: what it took to make them, in another process, is not added.

        ===========================================  ==============================================
        what happens                                 result
        ===========================================  ==============================================
        the module logs in ``training_step``         withheld with a warning, or named by the user
        another loader, a changed sampler            PrivacyError
        ``manual_backward``, an un-noised gradient   PrivacyError before the optimizer steps
        no release for a batch, or two               PrivacyError
        nobody drawn                                 noise is released and charged all the same
        resumed from a checkpoint                    goes on in its ledger; lost steps stay charged
        fit again without a checkpoint, or a copy    PrivacyError
        ===========================================  ==============================================

    Example:
        >>> import torch
        >>> spec = PrivacySpec(
        ...     mechanism="dp_sgd", unit="clip", mask="private", label="private", relation="add_remove", delta=1e-5,
        ...     max_grad_norm=1.0, sample_rate=0.1, steps=100, noise_multiplier=1.0,
        ... )
        >>> private = TrainPrivately(spec)
        >>> len(private.loader(torch.utils.data.TensorDataset(torch.zeros(50, 2))))
        10
    """

    def __init__(
        self,
        privacy: PrivacySpec,
        *,
        redact: Callable[[Any], Any] | None = None,
        engine: str = "vmap",
        microbatch: int = 32,
        public_batch_size: int | None = None,
        residual_weight: float = 1.0,
        log_unnoised: Sequence[str] = (),
    ) -> None:
        check_statement(privacy, redact=redact)
        settings = Settings(
            privacy=privacy,
            redact=redact,
            engine=one_of("engine", engine, ENGINES),
            microbatch=positive_int("microbatch", microbatch),
            public_batch_size=None
            if public_batch_size is None
            else positive_int("public_batch_size", public_batch_size),
            residual_weight=unit_rate("residual_weight", residual_weight),
            log_unnoised=tuple(log_unnoised),
        )
        super().__init__(settings)

    def loader(
        self,
        dataset: Any,
        *,
        units: Sequence[str] | None = None,
        population: Sequence[int] | None = None,
        **options: Any,
    ) -> PrivateDataLoader:
        """Return the loader to train on, in place of ``DataLoader(dataset, batch_size=…, shuffle=True)``.

        Args:
            dataset: with ``__getitem__`` and ``__len__``; an item is a record.
            units: for unit ``"video"`` or ``"subject"``: for each record the name of its video or person.
            population: for population ``"masked"``: positions of the records with a masked pixel; noisy steps draw
                from them only.
            options: further arguments of a DataLoader, such as ``collate_fn`` or ``num_workers``.

        Raises:
            ConfigError: for arguments that decide who is drawn.
        """
        batches = EpochBatches(self.privacy, lambda: iter(self._running().start(self._training_data()).batches))
        self._data = make_loader(dataset, batches, units=units, population=population, options=options)
        return self._data.loader

    def backward(self, module: pl.LightningModule, batch: Any, loss: Callable[[Any], Tensor]) -> None:
        """Set the gradients of all parameters, in place of ``self.manual_backward(loss)``; once in each step.

        Args:
            module: the LightningModule, ``self``.
            batch: the batch that ``training_step`` got.
            loss: takes a batch, of which it is given one record at a time, and returns its loss.
        """
        run = self._running()
        if run.step is None or run.module is not module:
            raise PrivacyError("private.backward belongs into training_step of the module that is being fitted.")
        gradients = run.step.gradients(loss, batch)
        for name, parameter in module.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].clone()
