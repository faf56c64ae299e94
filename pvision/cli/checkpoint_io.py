"""Checkpoints that are whole or not there, and that run no code when they are loaded."""

import os
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from typing_extensions import override

from pvision.errors import ConfigError, UserError

__all__ = ["SafeCheckpointIO", "check_fits", "read_checkpoint"]


class SafeCheckpointIO(TorchCheckpointIO):
    """Write through a temporary file in the same folder; load tensors and plain values only.

    Guarantee:
        Under a checkpoint's name lies a whole checkpoint or none, whatever crashes or fills the disk.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not isinstance(error.__context__, OSError):
                raise
            free = shutil.disk_usage(target.parent).free
            raise UserError(
                f"{target}: the checkpoint cannot be written ({error}); {free:,} bytes are free there. Earlier "
                "checkpoints are whole: make room and resume from the last with --ckpt_path."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(path, map_location=map_location)


def read_checkpoint(path: str | Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Return what the checkpoint holds.

    Raises:
        ConfigError: if the file does not exist, is no whole checkpoint, lies elsewhere than on this machine's disks,
            or holds objects that only running its code could restore.
    """
    if "://" in str(path):
        raise ConfigError(f"--ckpt_path {path}: checkpoints are not fetched from elsewhere. Download it first.")
    if not Path(path).is_file():
        raise ConfigError(f"--ckpt_path {path} does not exist. Runs keep theirs in mlruns/…/checkpoints/.")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        raise ConfigError(
            f"--ckpt_path {path} is not a checkpoint of tensors and plain values. Such a file could run code when it "
            "is loaded, so it is refused."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ConfigError(f"--ckpt_path {path} is broken or no checkpoint. Use another one.") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ConfigError(f"--ckpt_path {path} is not a checkpoint of Lightning: it has no state_dict.")
    return checkpoint


def check_fits(checkpoint: dict[str, Any], model: nn.Module, *, path: str) -> None:
    """Compare the checkpoint's tensors with those that the model has by now.

    Raises:
        ConfigError: if a tensor has another shape in the model, or no name is common to both.
    """
    # What modules keep beside tensors, they compare themselves.
    saved, wanted = (
        {name: one for name, one in state.items() if isinstance(one, Tensor) and not name.endswith("_extra_state")}
        for state in (checkpoint["state_dict"], model.state_dict())
    )
    for name in wanted.keys() & saved.keys():
        if saved[name].shape != wanted[name].shape:
            raise ConfigError(
                f"--ckpt_path {path} does not fit --model: {name} has the shape {tuple(saved[name].shape)} in the "
                f"checkpoint and {tuple(wanted[name].shape)} in {type(model).__name__}. Use the configuration it was "
                "trained with (config.yaml among its run's artifacts)."
            )
    if wanted and not wanted.keys() & saved.keys():
        raise ConfigError(
            f"--ckpt_path {path} does not fit --model: it has no tensor of {type(model).__name__}. Use the "
            "configuration it was trained with (config.yaml among its run's artifacts)."
        )
