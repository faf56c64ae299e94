"""The rules of the house that no linter knows: file length, `__all__`, recipe headers, links, the table of methods."""

import ast
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
    """All text files that git holds or would take; all files where this is no git checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
        paths = [ROOT / name for name in listing.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [p for p in ROOT.rglob("*") if not any(part.startswith(".venv") for part in p.relative_to(ROOT).parts)]
    suffixes = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".cfg", ".sh", ""}
    return [path for path in paths if path.is_file() and not path.is_symlink() and path.suffix in suffixes]


def declared_all(source: str) -> list[str] | None:
    """The names in a module's `__all__`, None where it has none."""
    for node in ast.parse(source).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))
    return None


def header_fault(name: str, text: str) -> str | None:
    """What is wrong with a recipe's first line, None where all is well."""
    first = text.partition("\n")[0]
    if re.match(rf"# pvision fit --config {re.escape(name)}(\s|$)", first):
        return None
    return f"the first line must begin with `# pvision fit --config {name}`, but it is {first!r}"


def table_column(markdown: str, title: str) -> list[str]:
    """The cells of the columns with this title, over all tables of a markdown text."""
    cells: list[str] = []
    column = None
    for line in markdown.splitlines():
        row = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|"):
            column = None
        elif column is None:
            column = row.index(title) if title in row else -1
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


@pytest.mark.parametrize("path", python_files(*CODE), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_declares_its_public_names(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    if path.parent.name == "recipes" and not source.strip():
        return  # a folder of YAML, made a package so that the wheel carries it
    names = declared_all(source)
    assert names is not None, f"{path.relative_to(ROOT)} has no `__all__`. An empty one says that nothing is public."
    assert len(names) == len(set(names)), f"{path.relative_to(ROOT)}: a name stands twice in `__all__`"


def test_a_missing_all_is_seen() -> None:
    assert declared_all("x = 1\n") is None
    assert declared_all("__all__: list[str] = []\n") == []
    assert declared_all('__all__ = ["a", "b"]\n') == ["a", "b"]


def test_the_recipes_folder_is_flat() -> None:
    nested = [str(path.relative_to(ROOT)) for path in (ROOT / "recipes").rglob("*.yaml") if path not in recipes()]
    assert not nested, "a folder below recipes/ would not reach the wheel"


@pytest.mark.parametrize("path", recipes(), ids=lambda path: path.stem)
def test_every_recipe_starts_with_the_command_that_runs_it(path: Path) -> None:
    assert header_fault(path.stem, path.read_text(encoding="utf-8")) is None


def test_a_wrong_recipe_header_is_seen() -> None:
    assert header_fault("maskdp_mocap", "# pvision fit --config maskdp_mocap --data.root DIR\nmodel: 1\n") is None
    assert header_fault("maskdp_mocap", "# pvision fit --config maskdp_mocap_tiny\n") is not None
    assert header_fault("maskdp_mocap", "model:\n") is not None


@pytest.mark.parametrize(("title", "folder", "suffix"), [("Recipe", "recipes", ".yaml"), ("Code", ".", "")])
def test_what_the_readme_table_names_exists(title: str, folder: str, suffix: str) -> None:
    cells = table_column((ROOT / "README.md").read_text(encoding="utf-8"), title)
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    missing = [name for name in names if not (ROOT / folder / f"{name}{suffix}").exists()]
    assert not missing, f"the README's table names {missing} under {title!r}, which {folder}/ does not hold"


def test_the_readme_names_every_recipe() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    cells = " ".join(table_column(readme, "Recipe"))
    missing = [path.stem for path in recipes() if not path.stem.endswith("_tiny") and f"`{path.stem}`" not in cells]
    assert not missing, f"the column Recipe of the README's table of methods lacks {missing}"


def test_table_columns_are_read() -> None:
    table = "| Method | Recipe |\n|---|:--|\n| MaskDP | `maskdp_mocap` |\n\n| a | b |\n|---|---|\n| `x` | `y` |\n"
    assert table_column(table, "Recipe") == ["`maskdp_mocap`"]
    assert table_column(table, "Absent") == []


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
    missing = [page for page in pages if page != "index.md" and f"]({page})" not in index]
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
