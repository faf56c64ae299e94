"""The `pvision` command.

Only what a command needs is imported: the recipes are listed without torch, training loads Lightning.
"""

import importlib
import os
import sys

from pvision.errors import ConfigError, UserError

__all__ = ["main"]

_STAGES = ("fit", "validate", "test", "predict")

_HELP = """\
usage: pvision COMMAND ...

Train vision models on footage of people under a privacy guarantee that holds.

  pvision recipes list               the shipped configurations, what they cost, the ε they end with
  pvision recipes show NAME          print one
  pvision recipes copy NAME DEST     copy one, to change it

  pvision fit --config NAME-or-FILE  train, test, write summary.json; tracked in mlruns/mlflow.db
  pvision validate|test|predict --config NAME-or-FILE --ckpt_path FILE
  pvision fit --config NAME --print_config          every setting with its value
  pvision fit --help                                every flag

  pvision repeat --config NAME --seeds 3            fit once per seed (--class_orders 2: and class order), mean ± 95 %
  pvision compare RUN RUN ...        runs and repeats side by side, and which differences are more than chance

  pvision ledger RUN [--json]        what a private run may claim, read and verified from its ledger

  pvision demo                       the comparison of methods on the shipped data

  pvision --version, pvision --help
"""


def main(args: list[str] | None = None) -> int | None:
    """Run the command and return its exit code; None is success.

    Args:
        args: the words after ``pvision``; those of the process if None.

    Raises:
        SystemExit: with code 2 if what the user gave is wrong (one message on stderr, nothing written), 130 after
            Ctrl-C, 143 after SIGTERM.
    """
    argv = list(sys.argv[1:] if args is None else args)
    try:
        return _dispatch(argv)
    except UserError as error:
        print(f"pvision: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\npvision: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader (`head`, `less`) has seen enough. What Python still holds must not be flushed into the void.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def _dispatch(argv: list[str]) -> int | None:
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if command in (*_STAGES, "demo"):
        _calm_threads()
    if command in _STAGES:
        return _train(argv)
    if command == "recipes":
        print(_recipes(rest))
        return None
    if command == "ledger":
        print(_ledger(rest))
        return None
    if command == "repeat":
        from pvision.cli.repetition.repeat import repeat

        return repeat(rest)
    if command == "compare":
        from pvision.cli.comparison.compare import compare

        return compare(rest)
    if command == "demo":
        demo = importlib.import_module("pvision.cli.demo")
        return int(demo.main(rest))
    if command in ("--help", "-h"):
        print(_HELP, end="")
        return None
    if command == "--version":
        print(f"pvision {importlib.import_module('pvision').__version__}")
        return None
    from pvision.cli.suggestions import did_you_mean  # difflib takes longer to load than a list of recipes

    known = (*_STAGES, "repeat", "compare", "recipes", "ledger", "demo", "--help", "--version")
    raise ConfigError(f"{command} is no command{did_you_mean(command, known)} `pvision --help` shows all.")


def _calm_threads() -> None:
    """Let idle threads sleep instead of spin: beside any other work on the machine, training is then twice as fast."""
    if "torch" not in sys.modules:  # OpenMP reads this once, when torch is loaded
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _recipes(argv: list[str]) -> str:
    from pvision.cli import recipes

    match argv:
        case ["list"]:
            return recipes.table()
        case ["show", name]:
            return recipes.text(name).rstrip("\n")
        case ["copy", name, destination]:
            return recipes.copy(name, destination)
    raise ConfigError(
        f"`pvision recipes {' '.join(argv)}` cannot be read. Write `pvision recipes list`, "
        "`pvision recipes show NAME` or `pvision recipes copy NAME DEST`."
    )


def _ledger(argv: list[str]) -> str:
    from pvision.cli import ledger

    match argv:
        case [run] if not run.startswith("-"):
            return ledger.show(run)
        case [run, "--json"] | ["--json", run]:
            return ledger.show(run, as_json=True)
    raise ConfigError(
        f"`pvision ledger {' '.join(argv)}` cannot be read. Write `pvision ledger RUN` or `pvision ledger RUN --json`; "
        "RUN is a run's folder, its ledger.jsonl, or the id or name of an MLflow run."
    )


def _train(argv: list[str]) -> int | None:
    from pvision.cli.configs import resolve_configs

    # Before Lightning is loaded: a misspelt name is answered at once.
    resolved, name = resolve_configs(argv)
    from pvision.cli.training import run

    return run(resolved, name=name)
