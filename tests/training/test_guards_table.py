"""The page and the code hold the same table, and every row is one that a reader can act on."""

import re
from pathlib import Path
from typing import Any

import pytest

from pvision.errors import PrivacyError
from pvision.training import GUARDS
from pvision.training.guard import Guard, refuse
from pvision.training.public_metrics import is_public_metric

PAGE = Path(__file__).parents[2] / "docs" / "privacy_guards.md"
ALL = [guard for group in GUARDS.values() for guard in group]


def rows(markdown: str) -> list[tuple[str, ...]]:
    """The rows of the tables of guards; the other tables have fewer columns."""
    lines = [line.strip("|").split("|") for line in markdown.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip() for cell in cells) for cells in lines if len(cells) == 4]


def row(guard: Guard[Any]) -> tuple[str, ...]:
    return f"`{guard.name}`", guard.setting, guard.reason, guard.remedy


def test_the_page_shows_the_guards_of_the_code() -> None:
    shown, held = rows(PAGE.read_text(encoding="utf-8")), [row(guard) for guard in ALL]
    missing = ["| " + " | ".join(one) + " |" for one in held if one not in shown]
    assert not missing, "docs/privacy_guards.md lacks these rows of pvision.training.GUARDS:\n" + "\n".join(missing)
    assert shown == held, (
        f"docs/privacy_guards.md shows what no guard refuses: {[one for one in shown if one not in held]}"
    )


def test_a_row_that_differs_is_seen() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert rows(page.replace("Leave it out", "Keep it", 1)) != [row(guard) for guard in ALL]


def test_there_are_at_least_twenty_guards_with_names_of_their_own() -> None:
    assert len({guard.name for guard in ALL}) == len(ALL) >= 20


@pytest.mark.parametrize("guard", ALL, ids=lambda guard: guard.name)
def test_a_guard_says_why_and_what_to_do(guard: Guard[Any]) -> None:
    assert re.fullmatch(r"[a-z_]+", guard.name)
    assert all(row(guard))
    assert "|" not in "".join(row(guard))
    assert not guard.reason.endswith(".")
    assert re.fullmatch(r"[A-Z].*\.", guard.remedy)


def guard(name: str, came: str) -> Guard[object]:
    return Guard(name=name, setting=name, reason="it leaks", remedy="Leave it.", finds=lambda subject: came)


def test_nothing_found_is_nothing_refused() -> None:
    refuse([guard("one", ""), guard("other", "")], object())


def test_one_problem_is_one_sentence_and_its_remedy() -> None:
    with pytest.raises(PrivacyError, match=r"^trainer.x is 1, which is refused: it leaks\. Leave it\.$"):
        refuse([guard("one", "trainer.x is 1"), guard("other", "")], object())


def test_several_problems_are_listed() -> None:
    with pytest.raises(PrivacyError) as refused:
        refuse([guard("one", "a is 1"), guard("other", "b is 2")], object())
    assert str(refused.value).count("which is refused") == 2


@pytest.mark.parametrize(
    "name",
    ["val/loss", "val_loss", "val", "valid.loss", "validation-loss", "test/miou", "privacy/epsilon", "epoch", "step"],
)
def test_a_public_metric_is_known_by_its_name(name: str) -> None:
    assert is_public_metric(name)


@pytest.mark.parametrize(
    "name",
    ["train/loss", "loss", "value", "valuation/loss", "tested", "steps", "epoch_loss", "my/val/loss", "Val/loss", ""],
)
def test_any_other_metric_is_not(name: str) -> None:
    assert not is_public_metric(name)
    assert is_public_metric(name, [name])
