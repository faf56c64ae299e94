"""Reading of the split files of published data sets."""

from collections.abc import Sequence
from pathlib import Path

from pvision.errors import DataError

__all__ = ["read_split_file", "refuse_missing"]


def read_split_file(path: Path) -> list[list[str]]:
    """Return the words of each line that is not empty.

    Args:
        path: the file.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The split file {path} cannot be read ({error}). Take it from the official archive."
        ) from error
    return [line.split() for line in text.splitlines() if line.strip()]


def refuse_missing(folders: Sequence[Path], *, layout: str, site: str) -> None:
    """Raise `DataError` if a folder of a published data set is not there.

    Args:
        folders: what must be there.
        layout: what is expected, in words.
        site: where the data set's authors publish it.
    """
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise DataError(
            f"There is no folder {' and no '.join(missing)}. Expected is {layout}. Ask for the data at {site}, read "
            "its terms, and unpack it there; pvision downloads no data of people."
        )
