"""``python -m pvision.datamodules.rendered_yard``: render a set of yards."""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from pvision.checks import positive_int
from pvision.datamodules.mocap.bullet import require_bullet
from pvision.datamodules.mocap.writer import new_folder
from pvision.datamodules.rendered_yard.render import render_split
from pvision.datamodules.rendered_yard.writer import write_manifest, write_split
from pvision.errors import UserError

__all__ = ["main", "make_set"]


def make_set(out: Path, *, scenes: dict[str, int], seed: int = 0) -> None:
    """Render a set into a new folder, whole or not at all.

    Args:
        out: the folder to make; must not exist.
        scenes: how many scenes of each split.
        seed: the same seed gives the same scenes, and a smaller split is the beginning of a larger one.

    Raises:
        ConfigError: if an argument is outside its range, or ``out`` exists.
        MissingExtraError: if pybullet is not installed.
    """
    positive_int("seed", seed, low=0)
    wanted = {split: positive_int(split, count, low=0) for split, count in scenes.items()}
    require_bullet()
    with new_folder(out) as folder:
        for split, count in wanted.items():
            rendered = tqdm(render_split(split, count, seed=seed), desc=split, total=count, unit="scene")
            write_split(folder, split, rendered, seed=seed)
        write_manifest(folder, seed=seed, scenes=wanted)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: of the command line; those of this process if None.
    """
    options = _parser().parse_args(arguments)
    try:
        make_set(options.out, scenes={"train": options.train, "test": options.test}, seed=options.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. Nothing was written.", file=sys.stderr)
        return 130
    print(f"Wrote {options.train + options.test} scenes to {options.out}.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pvision.datamodules.rendered_yard",
        description="Render a set of yards, with the class of each pixel, with pybullet's CPU renderer.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make; must not exist")
    parser.add_argument("--train", type=int, default=1200, help="training scenes")
    parser.add_argument("--test", type=int, default=400, help="test scenes, seen from other sides")
    parser.add_argument("--seed", type=int, default=0, help="the shipped set has seed 0")
    return parser


if __name__ == "__main__":
    sys.exit(main())
