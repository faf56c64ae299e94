"""Keep what private records gave without noise out of the logs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger

from pvision.errors import PrivacyError
from pvision.training.guard import Guard
from pvision.training.trainer_parts import replaced

__all__ = ["LOGGING_GUARDS", "Logged", "refuse_unnoised_logging"]

_RELEASED = "privacy/"
_WITHOUT_RECORDS = ("epoch", "step")


class Logged(NamedTuple):
    """A metric, the hook that logs it, and the names that the user allowed."""

    name: str
    hook: str
    allowed: tuple[str, ...] = ()


def _unnoised(logged: Logged) -> str:
    if logged.name.startswith(_RELEASED) or logged.name in (*_WITHOUT_RECORDS, *logged.allowed):
        return ""
    return f"{logged.name!r} is logged in {logged.hook}"


LOGGING_GUARDS: tuple[Guard[Logged], ...] = (
    Guard(
        name="unnoised_metric",
        setting='`self.log("train/loss", …)` and any other metric logged while private steps run',
        reason="it is computed from un-noised private records, or can be, and ε does not cover it",
        remedy="Do not log it, or name it in log_unnoised to log it all the same: ε then says nothing of the log.",
        finds=_unnoised,
    ),
)


@contextmanager
def refuse_unnoised_logging(
    trainer: pl.Trainer, *, log_unnoised: Sequence[str] = (), while_private: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Refuse metrics of training for as long as the context lasts; those of validation stay free.

    ``log`` and ``log_dict`` of the module and of callbacks are watched in every hook of training, and the loggers'
    own ``log_metrics`` in ``training_step``. What is printed, returned, or written by a logger's ``experiment`` cannot
    be seen.

    Args:
        trainer: in ``fit``, from ``on_fit_start`` on.
        log_unnoised: names that the user allows in spite of all.
        while_private: whether the step at hand is a private one; where un-noised public epochs come first, their
            metrics are free.

    Raises:
        PrivacyError: inside the context, at the first metric that is not allowed.
    """

    def check(name: str, hook: str) -> None:
        if while_private():
            for guard in LOGGING_GUARDS:
                if problem := guard.problem(Logged(name, hook, tuple(log_unnoised))):
                    raise PrivacyError(problem)

    with ExitStack() as stack:
        stack.enter_context(_watched_results(trainer, check))
        for logger in trainer.loggers:
            stack.enter_context(_watched_logger(trainer, logger, check))
        yield


@contextmanager
def _watched_results(trainer: pl.Trainer, check: Callable[[str, str], None]) -> Iterator[None]:
    # The one collection through which all metrics of training pass, whoever logs them; validation has its own.
    results: Any = trainer.fit_loop.epoch_loop._results
    original = results.log

    def log(fx: str, name: str, *args: Any, **named: Any) -> None:
        check(name, fx)
        original(fx, name, *args, **named)

    with replaced(results, "log", log):
        yield


@contextmanager
def _watched_logger(trainer: pl.Trainer, logger: Logger, check: Callable[[str, str], None]) -> Iterator[None]:
    original = logger.log_metrics

    def log_metrics(metrics: dict[str, float], step: int | None = None) -> None:
        # Elsewhere Lightning and callbacks hand over what was checked before, or what no record enters.
        if trainer.lightning_module._current_fx_name == "training_step":
            for name in metrics:
                check(name, "training_step by a logger")
        original(metrics, step)

    with replaced(logger, "log_metrics", log_metrics):
        yield
