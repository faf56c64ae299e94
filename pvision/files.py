"""How a file is written whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["write_whole", "written_beside"]


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either all of it or what it held before."""
    with written_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def written_beside(path: Path, *, suffix: str = ".tmp") -> Iterator[Path]:
    """Give a place to write to that becomes ``path`` if all goes well, and vanishes otherwise.

    Args:
        path: the file to write; its folder is made.
        suffix: of the place, for writers that go by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
