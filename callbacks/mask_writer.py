"""Predicted masks as picture files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from pvision.callbacks._label_colours import palette
from pvision.errors import DataError, MissingExtraError
from pvision.training.run_files import is_trial, run_folder

__all__ = ["MaskWriter"]


class MaskWriter(Callback):
    """Write the predicted label of each pixel as a PNG file, one for each image, into ``masks/`` in the run's folder.

    Pixels hold labels, 0 for the background; a palette gives them the colours of `SegmentationPictures`. It reads what
    ``predict_step`` returns: a mapping with ``index`` (positions in the test set) and ``labels``, whole numbers from 0
    to 255, ``(B, H, W)``. Files are named after ``test_source.names`` of the data module, folders included; without
    them, after the positions. In a module whose predictions look different it writes nothing. Every process writes the
    images that it got. Nothing is written under ``fast_dev_run``.

    Example:
        >>> MaskWriter().state_dict()
        {}
    """

    # Not a BasePredictionWriter, which makes Lightning look for batch indices that loaders of whole batches have not.
    def __init__(self) -> None:
        self._folder = Path()
        self._stems: Counter[PurePosixPath] = Counter()
        self._written = False

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Only rank 0 knows where a logger's run lies.
        self._folder = Path(trainer.strategy.broadcast(str(run_folder(trainer) / "masks")))
        self._stems.clear()
        self._written = False

    @override
    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(outputs, Mapping) or not {"index", "labels"} <= outputs.keys() or is_trial(trainer):
            return  # no masks: another writer's business
        names = getattr(getattr(getattr(trainer, "datamodule", None), "test_source", None), "names", ())
        if not self._stems:
            self._stems.update(PurePosixPath(name).with_suffix("") for name in names)
        for position, labels in zip(outputs["index"].tolist(), outputs["labels"], strict=True):
            _write(labels, self._folder / self._file_name(position, names))
            self._written = True

    @override
    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._written and trainer.is_global_zero:
            print(f"Masks: {self._folder}")

    def _file_name(self, position: int, names: Sequence[str]) -> PurePosixPath:
        """Return where below the folder a mask lies; two images never share a place."""
        if position >= len(names):
            return PurePosixPath(f"{position:06}.png")
        path = PurePosixPath(names[position])
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"The name {names[position]!r} of an image would lead out of the run's folder. Rename it.")
        alone = self._stems[path.with_suffix("")] == 1
        return path.with_suffix(".png") if alone else PurePosixPath(f"{path}.png")


def _write(labels: Tensor, path: Path) -> None:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("PIL", "continual", "Writing masks") from error
    picture = Image.fromarray(labels.cpu().byte().numpy(), mode="L").convert("P")
    picture.putpalette([value for colour in palette() for value in colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
