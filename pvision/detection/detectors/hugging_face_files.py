"""Detectors in folders that transformers wrote, or on the hub."""

from pathlib import Path
from typing import Any

from torch import nn

from pvision.detection.detectors.image_preparation import ImagePreparation
from pvision.errors import ConfigError, MissingExtraError

__all__ = ["stored_detector"]


def stored_detector(path: str, *, download: bool) -> tuple[nn.Module, ImagePreparation | None]:
    """Return the network in a folder that ``save_pretrained`` wrote, and how it says that images are prepared.

    Args:
        path: the folder, or a name on the hub.
        download: whether the hub may be asked for a name; else only the cache is searched.

    Raises:
        ConfigError: if there is no such folder, or it holds no detector.
        MissingExtraError: if transformers is not installed.
    """
    try:
        from transformers import AutoModelForObjectDetection
    except ImportError as error:
        raise MissingExtraError("transformers", "huggingface", "A detector of Hugging Face") from error
    try:
        folder = path if download else _local_folder(path)
        network: Any = AutoModelForObjectDetection.from_pretrained(folder)
    except (OSError, ValueError) as error:
        advice = "" if download else " Set download to true if it is a name on the hub."
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{path} holds no detector of transformers: {reason}{advice}") from error
    return network, _stored_preparation(folder)


def _local_folder(path: str) -> str:
    """Return a folder, or where the cache has one, and ask nobody."""
    if Path(path).is_dir():
        return path
    from huggingface_hub import snapshot_download

    # transformers 5.23 asks the hub for adapters although it is told to look at local files only.
    return str(snapshot_download(path, local_files_only=True))


def _stored_preparation(folder: str) -> ImagePreparation | None:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(folder)
    except OSError:
        return None
    return ImagePreparation.from_processor(settings)
