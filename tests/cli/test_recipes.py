"""`pvision recipes list`, `show` and `copy`, and what the light half of the command costs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pvision.cli import recipes

TINY = """\
# pvision fit --config drop_only_toy   (1 min on 2 cores, ε = 0)
# Train on redacted clips alone.
seed_everything: 1
"""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two recipes in a folder of their own, in place of the shipped ones."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "drop_only_toy.yaml").write_text(TINY, encoding="utf-8")
    (folder / "bare.yaml").write_text("seed_everything: 2\n", encoding="utf-8")
    monkeypatch.setattr(recipes, "_folder", lambda: folder)
    return folder


def test_list_tells_name_cost_and_what_it_does(pvision: Callable, shelf: Path) -> None:
    code, out, _ = pvision("recipes", "list")
    assert code == 0
    header, bare, toy = out.splitlines()
    assert header.split() == ["RECIPE", "COST", "WHAT", "IT", "DOES"]
    assert bare == "bare"
    assert toy == "drop_only_toy  1 min on 2 cores, ε = 0  Train on redacted clips alone."


def test_show_prints_the_file(pvision: Callable, shelf: Path) -> None:
    assert pvision("recipes", "show", "drop_only_toy") == (0, TINY, "")
    assert pvision("recipes", "show", "drop_only_toy.yaml").code == 0


def test_copy_makes_a_file_and_says_how_to_run_it(pvision: Callable, shelf: Path) -> None:
    code, out, _ = pvision("recipes", "copy", "drop_only_toy", "my.yaml")
    assert code == 0
    assert Path("my.yaml").read_text(encoding="utf-8") == TINY
    assert "pvision fit --config my.yaml" in out


def test_copy_into_a_folder_keeps_the_name(pvision: Callable, shelf: Path) -> None:
    Path("mine").mkdir()
    assert pvision("recipes", "copy", "drop_only_toy", "mine").code == 0
    assert Path("mine/drop_only_toy.yaml").is_file()


@pytest.mark.parametrize("destination", ["kept.yaml", "folder"])
def test_copy_overwrites_nothing(destination: str, pvision: Callable, shelf: Path) -> None:
    Path("folder").mkdir()
    for path in (Path("kept.yaml"), Path("folder/bare.yaml")):
        path.write_text("mine")
    code, _, err = pvision("recipes", "copy", "bare", destination)
    assert code == 2
    assert "is not overwritten" in err
    assert {Path("kept.yaml").read_text(), Path("folder/bare.yaml").read_text()} == {"mine"}


def test_copy_to_a_place_that_is_not_there_is_one_message(pvision: Callable, shelf: Path) -> None:
    code, _, err = pvision("recipes", "copy", "bare", "nowhere/my.yaml")
    assert code == 2
    assert err == "pvision: nowhere/my.yaml cannot be written: No such file or directory. Choose another place.\n"


def test_an_unknown_recipe_brings_the_likest_names(pvision: Callable, shelf: Path) -> None:
    for args in (["recipes", "show", "drop_onli_toy"], ["fit", "--config", "drop_onli_toy"]):
        code, out, err = pvision(*args)
        assert (code, out) == (2, "")
        assert "did you mean drop_only_toy?" in err
        assert "pvision recipes list" in err


def test_a_file_that_is_called_like_a_recipe_but_is_not_there_points_to_the_recipe(
    pvision: Callable, shelf: Path
) -> None:
    code, _, err = pvision("fit", "--config", "somewhere/drop_only_toy.yaml")
    assert code == 2
    assert "--config drop_only_toy`" in err


def test_config_takes_the_name_of_a_recipe(pvision: Callable, shelf: Path, toy: Callable) -> None:
    (shelf / "named.yaml").write_text(toy().read_text(), encoding="utf-8")
    code, out, err = pvision("fit", "--config=named", "--print_config")
    assert code == 0, err
    assert "class_path: toy_project.ToyModule" in out


def test_a_file_of_the_users_goes_before_a_recipe_of_that_name(pvision: Callable, shelf: Path, toy: Callable) -> None:
    toy("bare", **{"model.init_args.lr": 0.375})
    code, out, err = pvision("fit", "--config", "bare", "--print_config")
    assert code == 0, err
    assert "lr: 0.375" in out


@pytest.mark.parametrize("name", recipes.names())
def test_every_shipped_recipe_begins_with_its_command_cost_and_description(name: str) -> None:
    line = next(line for line in recipes.table().splitlines() if line.split()[0] == name)
    assert f"pvision fit --config {name}" in recipes.text(name).splitlines()[0]
    assert len(line.split("  ")) >= 3, f"recipes/{name}.yaml lacks its cost in line 1 or its description in line 2"


def test_a_reader_that_leaves_early_sees_no_traceback() -> None:
    command = [sys.executable, "-c", "from pvision.cli import main; raise SystemExit(main(['--help']))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


def test_help_and_version_and_nothing(pvision: Callable) -> None:
    assert "pvision recipes list" in pvision("--help").out
    assert pvision().out == pvision("--help").out
    assert pvision("--version").out.startswith("pvision 0.")


@pytest.mark.parametrize(
    "args", [["recipes", "list"], ["--help"], ["--version"], ["fit", "--config", "no_such_recipe"]]
)
def test_the_light_commands_import_nothing_heavy(args: list[str]) -> None:
    script = (
        "import sys\nfrom pvision.cli import main\n"
        f"try:\n    main({args!r})\nexcept SystemExit:\n    pass\n"
        "print(*{'torch', 'lightning', 'numpy', 'mlflow', 'jsonargparse'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines()[-1] == ""
