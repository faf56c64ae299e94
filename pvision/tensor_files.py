"""Files of pvision's own: tensors in safetensors, and in the header what they are."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pvision.errors import ConfigError, DataError
from pvision.files import written_beside

__all__ = ["read_tensors", "tensor_path", "write_tensors"]


def tensor_path(path: str | Path) -> Path:
    """Return where to write or read.

    Raises:
        ConfigError: if the name does not end in ``.safetensors``.
    """
    if Path(path).suffix != ".safetensors":
        raise ConfigError(f"path must end in .safetensors, but {str(path)!r} came.")
    return Path(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, header: Mapping[str, str]) -> None:
    """Write a file so that ``path`` holds either all of it or what it held before."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_beside(path) as temporary:
        temporary.write_bytes(save(kept, metadata=dict(header)))


def read_tensors(path: Path, *, writer: str, cure: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the header of a file, empty if it has none, and its tensors on the CPU.

    Args:
        path: of the file.
        writer: the function that writes such files, for the message.
        cure: what to do with a damaged file, a sentence.

    Raises:
        ConfigError: if there is no such file.
        DataError: if it is damaged.
    """
    if not path.is_file():
        raise ConfigError(f"There is no file {str(path)!r}. Give one that {writer} wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}). {cure}") from None
    return header, tensors
