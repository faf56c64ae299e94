"""What private training would refuse once it runs, refused while nothing is written."""

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from pvision.callbacks import PrivacyAccounting
from pvision.cli import ledger
from pvision.datamodules import SegmentationStream, TaskStream
from pvision.errors import ConfigError, LedgerBusy
from pvision.modules.continual_classifier import ContinualClassifier
from pvision.modules.incremental_segmenter import IncrementalSegmenter
from pvision.modules.modality_detector import ModalityDetector
from pvision.modules.private_classifier import PrivateClassifier
from pvision.modules.video_classifier import VideoClassifier
from pvision.privacy import read_ledger
from pvision.privacy.ledger.lock import writer_of
from pvision.training import refuse_unsafe_trainer
from pvision.training.run_files import is_trial
from pvision.training.streams.checkpoints import read_stream_checkpoint, take_stream
from pvision.training.streams.checks import check_stream_fit
from pvision.training.trainer_parts import callbacks_of

__all__ = ["STREAMS", "check_checkpoint", "check_evaluation", "check_fit", "check_resumption"]

STREAMS = (TaskStream, SegmentationStream)
"""Data modules that are learned experience by experience."""


def check_fit(trainer: Trainer, model: LightningModule, data: LightningDataModule) -> None:
    """Refuse settings under which ``model`` could not be trained, or not privately, or not along a stream.

    Raises:
        UserError: naming the setting and the remedy.
    """
    if isinstance(model, VideoClassifier) and not is_trial(trainer):
        model.check_schedule(trainer)
    if isinstance(model, PrivateClassifier):
        refuse_unsafe_trainer(trainer, model)
    if isinstance(model, ModalityDetector):
        model.trained_parameters()
    if isinstance(data, STREAMS):
        check_stream_fit(trainer, model, data)
    for callback in callbacks_of(trainer):
        if isinstance(callback, PrivacyAccounting):
            callback.check(model)


def check_evaluation(
    stage: str, model: LightningModule, stream: TaskStream | SegmentationStream, *, checkpoint: dict[str, Any] | None
) -> None:
    """Refuse to evaluate on a stream what knows no class yet, or on records that nobody held out.

    Raises:
        ConfigError: naming the flag.
    """
    if checkpoint is None and isinstance(model, ContinualClassifier | IncrementalSegmenter):
        raise ConfigError(
            f"--ckpt_path is missing: before training {_with_article(model)} knows no class, so there is nothing to "
            f"{stage}. Give a checkpoint, or the folder of a run along this stream."
        )
    if stage == "validate" and not stream.val_fraction:
        raise ConfigError(
            "--data.init_args.val_fraction is 0, so no record was held out for `pvision validate`. Use `pvision test`."
        )


def check_checkpoint(checkpoint: dict[str, Any], model: LightningModule) -> None:
    """Refuse weights that were made under another privacy statement, on another stream or for another detector.

    A head that grows with a stream has the checkpoint's size afterwards, and a checkpoint that leaves a frozen detector
    out has its weights, so that their shapes can be compared.

    Raises:
        UserError: naming what differs.
    """
    if isinstance(model, ContinualClassifier | IncrementalSegmenter | ModalityDetector):
        model.on_load_checkpoint(checkpoint)
    if isinstance(model, VideoClassifier):
        VideoClassifier.on_load_checkpoint(model, checkpoint)  # of this class, which compares and keeps nothing


def check_resumption(path: str, model: LightningModule, data: LightningDataModule) -> None:
    """Refuse to go on from the checkpoint at ``path`` if it was written on another stream.

    The same if its run's ledger is broken or in use; say if it is used up.

    Raises:
        UserError: naming what differs.
    """
    if isinstance(data, STREAMS):
        take_stream(read_stream_checkpoint(Path(path)), data, path=Path(path))
    if not isinstance(model, PrivateClassifier):
        return
    found = ledger.beside(Path(path))
    if len(found) != 1:
        return  # none, or several of runs without a logger: the module knows which it looks for
    record = read_ledger(found[0])
    if writer := writer_of(found[0]):
        raise LedgerBusy(f"{found[0]} is being written by {writer}. Wait until that run has ended, or stop it.")
    if record.charged >= record.spec.steps:
        print(
            f"pvision: all {record.spec.steps} noisy steps are charged in {found[0]}, so no further one is taken; "
            "what comes out are the checkpoint's weights.",
            file=sys.stderr,
        )


def _with_article(model: LightningModule) -> str:
    name = type(model).__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
