"""Weights are read without running code."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pvision.detection.detectors.weights_file import load_weights, read_weights
from pvision.errors import ConfigError


class _Runs:
    def __reduce__(self) -> Any:
        return print, ("code ran",)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_both_kinds_of_files_are_read(tmp_path: Path, suffix: str) -> None:
    layer = nn.Linear(2, 1)
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(layer.state_dict(), path)
    other = nn.Linear(2, 1)

    load_weights(other, path)

    assert torch.equal(other.weight, layer.weight)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize(
    "content", [b"", b"no weights", pickle.dumps(_Runs(), protocol=2)], ids=["empty", "text", "code"]
)
def test_a_file_that_holds_no_weights_is_refused(
    tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="cannot be read as weights"):
        read_weights(path)
    assert "code ran" not in capsys.readouterr().out


def test_a_checkpoint_with_more_than_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": nn.Linear(2, 1).state_dict(), "epoch": 3}, path)

    with pytest.raises(ConfigError, match="holds more than weights"):
        read_weights(path)


def test_a_file_that_does_not_exist_or_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(ConfigError, match="There is no file of weights"):
        read_weights(path)

    save_file({"weight": torch.zeros(1, 2)}, path)
    with pytest.raises(ConfigError, match=r"does not fit Linear: .*bias"):
        load_weights(nn.Linear(2, 1), path)
