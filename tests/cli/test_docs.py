"""What docs/cli.md shows is what the command prints."""

import doctest
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def sessions() -> Iterator[list[tuple[str, str]]]:
    """The console blocks of the page: commands with the output that follows each."""
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        commands = re.split(r"^\$ pvision ", block, flags=re.MULTILINE)[1:]
        pairs = (command.partition("\n") for command in commands)
        yield [(command, shown) for command, _, shown in pairs]


@pytest.mark.parametrize("session", list(sessions()), ids=lambda session: session[0][0][:50])
def test_the_page_shows_what_the_command_prints(session: list[tuple[str, str]], pvision: Callable) -> None:
    for command, shown in session:
        _, out, err = pvision(*shlex.split(command))
        told = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("INFO: "))
        assert doctest.OutputChecker().check_output(shown, out + told, doctest.ELLIPSIS), f"{command}\n{out}{told}"


def test_the_page_has_sessions() -> None:
    assert sum(len(session) for session in sessions()) > 8
