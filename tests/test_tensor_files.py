"""Files of tensors: what was written is read, a broken-off write leaves what was there, and damage is named."""

from pathlib import Path

import pytest
import torch

from pvision.errors import ConfigError, DataError
from pvision.tensor_files import read_tensors, tensor_path, write_tensors


def read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    return read_tensors(path, writer="the test", cure="Write it again.")


def test_tensors_and_header_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "some.safetensors"
    some = torch.arange(6.0, requires_grad=True).reshape(2, 3)
    write_tensors(path, {"turned": some.T, "half": torch.ones(2, dtype=torch.bfloat16)}, header={"what": "é"})
    header, tensors = read(path)
    assert header == {"what": "é"}
    assert torch.equal(tensors["turned"], some.T.detach())
    assert tensors["half"].dtype == torch.bfloat16
    assert not tensors["turned"].requires_grad


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.safetensors"
    write_tensors(path, {"a": torch.zeros(1)}, header={})

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:5])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        write_tensors(path, {"a": torch.ones(1)}, header={})
    assert read(path)[1]["a"] == 0
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_file_that_is_missing_damaged_or_of_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    with pytest.raises(ConfigError, match=r"There is no file .*some\.safetensors.* Give one that the test wrote"):
        read(path)
    write_tensors(path, {"a": torch.zeros(9)}, header={})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"is damaged .* Write it again"):
        read(path)
    with pytest.raises(ConfigError, match=r"must end in \.safetensors, but 'some\.pt' came"):
        tensor_path("some.pt")
