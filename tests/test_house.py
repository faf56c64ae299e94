"""The rules of the house that no linter knows: file length, recipe headers, links, the table of methods."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("pvision", "callbacks", "datamodules", "recipes")
LONGEST = 400


def python_files(*folders: str) -> list[Path]:
    """All Python files below the folders, each once: pathlib does not enter the links in pvision/."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def tracked_texts() -> list[Path]:
    """All text files that git holds or would take; where this is no git checkout, all outside caches."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
        paths = [ROOT / name for name in listing.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        tops = [path for path in ROOT.iterdir() if path.name == ".ci" or not path.name.startswith(".")]
        paths = [path for top in tops for path in (top.rglob("*") if top.is_dir() else [top])]
    suffixes = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".cfg", ".sh", ""}
    return [path for path in paths if path.is_file() and not path.is_symlink() and path.suffix in suffixes]


def header_fault(name: str, text: str) -> str | None:
    """What is wrong with a recipe's first line, None where all is well."""
    first = text.partition("\n")[0]
    if not re.match(rf"# pvision fit --config {re.escape(name)}(\s|$)", first):
        return f"the first line must begin with `# pvision fit --config {name}`, but it is {first!r}"
    if not re.search(r"\([^()]*[a-z0-9][^()]*\)$", first):
        return f"the first line must end with what the run costs, as `(4 min on 2 cores, ε = 1)`, but it is {first!r}"
    return None


def table_column(markdown: str, title: str) -> list[str]:
    """The cells of the columns with this title in lower case, over all tables of a markdown text."""
    cells: list[str] = []
    column = None
    for line in markdown.splitlines():
        row = [cell.strip() for cell in line.strip().strip("|").split("|")]
        titles = [cell.lower() for cell in row]
        if not line.lstrip().startswith("|"):
            column = None
        elif column is None:
            column = titles.index(title) if title in titles else -1
        elif 0 <= column < len(row) and not set(row[column]) <= set(":- "):
            cells.append(row[column])
    return cells


def broken_links(page: Path) -> list[str]:
    """The relative links of a markdown page that lead nowhere."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    return [target for target in targets if target and "://" not in target and not (page.parent / target).exists()]


def recipes() -> list[Path]:
    return sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize(
    "path", python_files(*CODE, "tests", "benchmarks"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_file_is_longer_than_a_reader_can_hold(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{path.relative_to(ROOT)} has {lines} lines. Split it: one idea per file."


def test_the_recipes_folder_is_flat() -> None:
    nested = [str(path.relative_to(ROOT)) for path in (ROOT / "recipes").rglob("*.yaml") if path not in recipes()]
    assert not nested, "a folder below recipes/ would not reach the wheel"


@pytest.mark.parametrize("path", recipes(), ids=lambda path: path.stem)
def test_every_recipe_starts_with_the_command_that_runs_it(path: Path) -> None:
    fault = header_fault(path.stem, path.read_text(encoding="utf-8"))
    assert fault is None, fault


@pytest.mark.parametrize(
    "text",
    [
        "# pvision fit --config maskdp_mocap_tiny   (3 s on 2 cores)\n",
        "# pvision fit --config maskdp_mocap\n",
        "# pvision fit --config maskdp_mocap   (COST)\n",
        "model:\n",
    ],
)
def test_a_wrong_recipe_header_is_seen(text: str) -> None:
    assert header_fault("maskdp_mocap", text) is not None


def test_a_right_recipe_header_passes() -> None:
    assert (
        header_fault("maskdp_mocap", "# pvision fit --config maskdp_mocap --data.root DIR   (4 min, ε = 1)\n") is None
    )


def test_the_readme_table_names_the_recipes_that_exist() -> None:
    cells = " ".join(table_column((ROOT / "README.md").read_text(encoding="utf-8"), "recipe"))
    named = set(re.findall(r"`([^`]+)`", cells))
    exist = {path.stem for path in recipes()}
    assert not (gone := named - exist), f"the column `recipe` of the README names {gone}, which recipes/ does not hold"
    # A new method names its recipes in its own card.
    cards = " ".join(card.read_text(encoding="utf-8") for card in (ROOT / "docs" / "methods").glob("*.md"))
    named |= set(re.findall(r"`(\w+)`", cards))
    missing = {name for name in exist - named if not name.endswith("_tiny")}
    assert not missing, f"neither the column `recipe` of the README nor a card in docs/methods names {missing}"


def test_table_columns_are_read() -> None:
    table = "| Method | Recipe |\n|---|:--|\n| MaskDP | `maskdp_mocap` |\n\n| a | b |\n|---|---|\n| `x` | `y` |\n"
    assert table_column(table, "recipe") == ["`maskdp_mocap`"]
    assert table_column(table, "absent") == []


@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert not (broken := broken_links(page)), f"{page.relative_to(ROOT)} links to {broken}"


def test_every_docs_page_is_reachable_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert "](methods/)" in index  # a new method has its card there and needs no line of its own
    missing = [
        page for page in pages if page != "index.md" and not page.startswith("methods/") and f"]({page})" not in index
    ]
    assert not missing, f"docs/index.md does not link to {missing}"


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](gone.md) [b](page.md#part) [c](https://example.org/x) [d](#here)\n```\n[e](code.md)\n```\n")
    assert broken_links(page) == ["gone.md"]


def test_nothing_names_a_folder_of_one_machine() -> None:
    # Written in pieces, or this line would be the first finding.
    pattern = re.compile(
        r"(?<![\w./}-])/(?:" + "|".join(["work/", "ro" + "ot/", "ho" + "me/(?!you/)", "op" + "t/", "tmp/" + "w/"]) + ")"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked_texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)
