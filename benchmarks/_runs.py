"""How a benchmark does many runs on a few processes, and goes on where it was stopped."""

import logging
import math
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, TypeVar

import torch

__all__ = ["Run", "execute_all", "finite"]


class Run(Protocol):
    """One run, which ends in a file."""

    @property
    def path(self) -> Path:
        """Where its file goes."""

    def is_done(self) -> bool:
        """Whether its file is there, and of the same settings."""


R = TypeVar("R", bound=Run)


def execute_all(runs: Sequence[R], execute: Callable[[R], str], *, workers: int, seconds: float | None = None) -> None:
    """Do what is not done yet, one thread each, and say how far it is.

    Args:
        runs: all of them.
        execute: does one, writes its file, and returns a line about it; a function of a module.
        workers: processes.
        seconds: that a run takes on a free core, if that is known.
    """
    waiting = [run for run in runs if not run.is_done()]
    left = "" if seconds is None else f"; about {len(waiting) * seconds / workers / 60:.0f} minutes on free cores"
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them done{left}", flush=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which are new processes
    failed = 0
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        going: dict[Future[str], R] = {pool.submit(execute, run): run for run in waiting}
        while going:
            for done in wait(going, return_when=FIRST_COMPLETED).done:
                run = going.pop(done)
                if error := done.exception():
                    failed += 1
                    print(f"{run.path.stem} failed: {type(error).__name__}: {error}", flush=True)
                else:
                    print(f"{done.result()}; {len(going)} to go", flush=True)
    if failed:
        raise SystemExit(f"{failed} runs failed. The same command tries them again.")


def finite(value: float) -> float | None:
    """Return what JSON can hold of a number."""
    return value if math.isfinite(value) else None


def _start_worker() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
