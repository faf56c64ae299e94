"""``python -m pvision.datamodules.rendered``: render a set of RenderedModalities."""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from pvision.checks import positive_int
from pvision.datamodules.mocap.writer import new_folder
from pvision.datamodules.rendered.render import render_split
from pvision.datamodules.rendered.writer import write_manifest, write_split
from pvision.errors import UserError

__all__ = ["main", "make_set"]


def make_set(out: Path, *, scenes: dict[str, int], seed: int = 0, processes: int = 1) -> None:
    """Render a set into a new folder, whole or not at all.

    Args:
        out: the folder to make; must not exist.
        scenes: how many scenes of each split.
        seed: the same seed gives the same scenes, and a smaller split is the beginning of a larger one.
        processes: how many render.

    Raises:
        ConfigError: if an argument is outside its range, or ``out`` exists.
        MissingExtraError: if pybullet is not installed.
    """
    positive_int("seed", seed, low=0)
    wanted = {split: count for split, count in scenes.items() if positive_int(split, count, low=0)}
    with new_folder(out) as folder:
        for split, count in wanted.items():
            rendered = render_split(split, count, seed=seed, processes=processes)
            write_split(folder, split, tqdm(rendered, desc=split, total=count, unit="scene"))
        write_manifest(folder, seed=seed, scenes=wanted)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: of the command line; those of this process if None.
    """
    options = _parser().parse_args(arguments)
    scenes = {
        "train": options.train,
        "val": options.val,
        "test": options.test,
        "detector": options.detector,
    }
    try:
        make_set(options.out, scenes=scenes, seed=options.seed, processes=options.processes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. Nothing was written.", file=sys.stderr)
        return 130
    total = sum(scenes.values())
    print(f"Wrote {total} scenes to {options.out}. Use them with RenderedModalities(root={str(options.out)!r}).")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pvision.datamodules.rendered",
        description="Render a set of RenderedModalities with pybullet's CPU renderer.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make; must not exist")
    parser.add_argument("--train", type=int, default=1000, help="training scenes")
    parser.add_argument("--val", type=int, default=200, help="validation scenes, by the rule of training")
    parser.add_argument("--test", type=int, default=400, help="test scenes, seen from other sides")
    parser.add_argument("--detector", type=int, default=4000, help="scenes for a detector to start from; not shipped")
    parser.add_argument("--seed", type=int, default=0, help="the shipped set has seed 0")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="how many render at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
