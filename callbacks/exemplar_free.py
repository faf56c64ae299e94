"""Proof, within stated limits, that a run kept no training image."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor
from typing_extensions import override

from pvision.callbacks._runs import copy_to_mlflow
from pvision.callbacks._training_images import TrainingImages
from pvision.checks import positive_int
from pvision.continual.pixel_search import LIMITS, Finding, PixelSearch
from pvision.errors import ConfigError, PrivacyError
from pvision.files import write_whole
from pvision.training.run_files import is_trial, run_folder
from pvision.training.trainer_parts import replaced

__all__ = ["ExemplarFree"]

_SHOWN = 3


class ExemplarFree(Callback):
    """Fail a run whose checkpoints or folder hold pixels of its training images.

    Every checkpoint is searched before it is written: weights, buffers, optimizers, callbacks, data module,
    hyper-parameters. When fit, validate, test or predict ends, all files of the run's folder and of its checkpoint
    folders are searched that changed since; files that were there before a run without a logger began are not its own.
    What the search sees, and what it cannot see, says `pvision.continual.pixel_search`.

    ``exemplar_free.json`` in the run's folder, and in MLflow, says what was searched. Nothing happens under
    ``fast_dev_run``.

    Guarantee:
        Of p kept images among N, in a form that the search can see, at least one is found with probability of at least
        1 − (1 − p/N)^M, where M is the smaller of ``max_images`` and N; with M = N every one is found.

    Args:
        images: the training images, in a project whose data module is no stream of pvision: ``(N, C, H, W)``, or a
            sequence of ``(C, H, W)``, as they are before augmentation; the scale does not matter.
        max_images: how many are searched for; a larger training set is searched for a random part.

    Raises:
        ConfigError: when the run starts, if the training images are not known or the stream replays.
        PrivacyError: if training pixels are found. It is this error because what was promised about people's images
            does not hold; the data are in order.

    Example:
        >>> ExemplarFree(max_images=5000).summary_metrics()
        {}
    """

    def __init__(self, *, images: Tensor | Sequence[Tensor] | None = None, max_images: int = 20_000) -> None:
        self.max_images = positive_int("max_images", max_images)
        self._given = images
        self._images: TrainingImages | None = None
        self._search: PixelSearch | None = None
        self._findings: list[Finding] = []
        self._clean: dict[Path, tuple[int, int]] = {}
        self._guard = ExitStack()
        self._seconds, self._began = 0.0, time.time()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        stream = getattr(trainer, "datamodule", None)
        if getattr(stream, "replay", None) is not None:
            raise ConfigError(
                f"ExemplarFree forbids to keep training images, but the stream replays from {stream.replay!r}. "  # type: ignore[union-attr]
                "Leave out either data.replay or the callback."
            )
        if stage == "fit" and (self._images is None or not self._images.are_those_of(stream)):
            self._images, self._search = TrainingImages(self._given, stream, most=self.max_images), None
        if is_trial(trainer) or self._images is None:
            return
        self._guard.close()
        write = trainer.strategy.save_checkpoint

        def search_and_write(checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
            self._refuse_pixels(trainer, checkpoint, str(filepath))
            write(checkpoint, filepath, storage_options=storage_options)
            self._note_clean(Path(filepath))

        # Of all places this one alone sees what other hooks add to a checkpoint, and weights-only checkpoints.
        self._guard.enter_context(replaced(trainer.strategy, "save_checkpoint", search_and_write))

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if "save_checkpoint" not in vars(trainer.strategy) and self._images is not None and not is_trial(trainer):
            self._refuse_pixels(trainer, checkpoint, "the checkpoint")  # saved by hand, after the run

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._guard.close()
        if self._images is None or is_trial(trainer) or not trainer.is_global_zero:
            return
        folder = run_folder(trainer)
        began = 0.0 if trainer.loggers else self._began
        search, started = self._ready(), time.monotonic()
        for place in _outermost([folder, *_checkpoint_folders(trainer)]):
            self._findings += search.in_folder(place, skip=lambda path: self._need_not_be_searched(path, began))
        self._seconds += time.monotonic() - started
        self._write(trainer)
        if self._findings:
            raise PrivacyError(
                f"The run is to be exemplar-free, but its folder holds training pixels: {_told(self._findings)} "
                "Delete these files, and what writes them."
            )

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._guard.close()

    def summary_metrics(self) -> Mapping[str, float]:
        """Return ``continual/exemplar_free``: 1 if nothing was found, 0 if something was; nothing before a search."""
        return {} if self._search is None else {"continual/exemplar_free": float(not self._findings)}

    def _refuse_pixels(self, trainer: pl.Trainer, checkpoint: Mapping[str, Any], name: str) -> None:
        """Search on rank 0, which writes; all ranks raise, so that none waits for the others."""
        findings: list[Finding] = []
        if trainer.is_global_zero:
            search, started = self._ready(), time.monotonic()
            findings = search.in_value(checkpoint)
            self._seconds += time.monotonic() - started
        findings = trainer.strategy.broadcast(findings)
        if not findings:
            return
        self._findings += findings
        if trainer.is_global_zero:
            self._write(trainer)
        from_gradients = any(finding.where.startswith("optimizer_states") for finding in findings)
        raise PrivacyError(
            f"The run is to be exemplar-free, but {name} would hold training pixels and is not written: "
            f"{_told(findings)} "
            + (
                "An optimizer keeps gradients, and a layer's gradient by one image is that image: save weights only, "
                "or use SGD without momentum."
                if from_gradients
                else "Remove what keeps them, or leave ExemplarFree out."
            )
        )

    def _ready(self) -> PixelSearch:
        """Return the search for all images that training has reached."""
        if self._images is None:
            raise ConfigError("ExemplarFree has to know the training images before it can search. Call fit first.")
        started = time.monotonic()
        if self._search is None:
            self._search = PixelSearch(self._images.read, forms=self._images.forms)
        self._search.add(self._images.new())
        self._seconds += time.monotonic() - started
        return self._search

    def _note_clean(self, path: Path) -> None:
        if path.is_file():
            self._clean[path.absolute()] = _version(path)

    def _need_not_be_searched(self, path: Path, began: float) -> bool:
        version = _version(path)
        if version[1] < began * 1e9 or self._clean.get(path.absolute()) == version:
            return True
        self._clean[path.absolute()] = version
        return False

    def _write(self, trainer: pl.Trainer) -> None:
        if self._search is None or self._images is None:
            return
        searched = dataclasses.asdict(self._search.searched)
        report = {
            "exemplar_free": not self._findings,
            "findings": [dataclasses.asdict(finding) for finding in self._findings],
            "training_images": self._images.total,
            "images_searched_for": searched.pop("images"),
            "images_without_content": searched.pop("ignored"),
            "certainty": (
                "Of p kept images at least one is found with probability of at least 1 - (1 - p / training_images) ^ "
                "images_searched_for, if it is in a form that the search can see."
            ),
            **searched,
            "cannot_see": LIMITS,
            "seconds": round(self._seconds, 3),
        }
        path = run_folder(trainer) / "exemplar_free.json"
        write_whole(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        self._note_clean(path)
        copy_to_mlflow(trainer, path, tags={"exemplar_free": str(not self._findings).lower()})


def _told(findings: Sequence[Finding]) -> str:
    shown = [f"training image {one.position} in {one.where or 'it'} ({one.how})" for one in findings[:_SHOWN]]
    more = f" and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
    return "; ".join(shown) + more + "."


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _checkpoint_folders(trainer: pl.Trainer) -> list[Path]:
    folders = [getattr(one, "dirpath", None) for one in trainer.checkpoint_callbacks if isinstance(one, Checkpoint)]
    return [Path(folder) for folder in folders if folder and "://" not in str(folder)]


def _outermost(folders: Sequence[Path]) -> list[Path]:
    """Return the folders that exist and lie in none of the others."""
    real = list(dict.fromkeys(folder.absolute() for folder in folders if folder.is_dir()))
    return [one for one in real if not any(one != other and one.is_relative_to(other) for other in real)]
