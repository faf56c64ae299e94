"""The page about interference: its examples run, and the names on it exist."""

import doctest
import inspect
import re
from pathlib import Path

from pvision.callbacks.interference_certificate import InterferenceCertificate

PAGE = Path(__file__).parents[2] / "docs" / "interference.md"


def text():
    return PAGE.read_text(encoding="utf-8")


def test_all_examples_print_what_the_page_says():
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", text(), flags=re.DOTALL))
    example = doctest.DocTestParser().get_doctest(blocks, {}, PAGE.name, str(PAGE), 0)
    assert len(example.examples) > 8
    said = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False).run(example, out=said.append)
    assert not said, "".join(said)


def test_the_table_of_arguments_is_complete():
    listed = set(re.findall(r"^\| `(\w+)` \|", text(), flags=re.MULTILINE))
    assert listed == set(inspect.signature(InterferenceCertificate).parameters)
