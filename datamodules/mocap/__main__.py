"""``python -m pvision.datamodules.mocap``: render a set of MocapActions."""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from pvision.checks import positive_int
from pvision.datamodules.mocap.render import render_split
from pvision.datamodules.mocap.writer import new_folder, write_manifest, write_split
from pvision.errors import UserError

__all__ = ["main", "make_set"]


def make_set(
    out: Path, *, clips: dict[str, int], seed: int = 0, frames: int = 8, size: int = 48, processes: int = 1
) -> None:
    """Render a set into a new folder, whole or not at all.

    Args:
        out: the folder to make; must not exist.
        clips: how many clips of each split.
        seed: the same seed gives the same clips, and a smaller split is the beginning of a larger one.
        frames: length of a clip.
        size: height and width in pixels.
        processes: how many render.

    Raises:
        ConfigError: if an argument is outside its range, or ``out`` exists.
        MissingExtraError: if pybullet is not installed.
    """
    positive_int("seed", seed, low=0)
    positive_int("frames", frames)
    positive_int("size", size)
    with new_folder(out) as folder:
        for split, count in clips.items():
            rendered = render_split(split, count, seed=seed, frames=frames, size=size, processes=processes)
            write_split(folder, split, tqdm(rendered, desc=split, total=count, unit="clip"), frames=frames)
        write_manifest(folder, seed=seed, frames=frames, size=size, clips=clips)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: of the command line; those of this process if None.
    """
    options = _parser().parse_args(arguments)
    clips = {"train": options.train, "test": options.test, "synthetic": options.synthetic}
    try:
        make_set(
            options.out,
            clips=clips,
            seed=options.seed,
            frames=options.frames,
            size=options.size,
            processes=options.processes,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. Nothing was written.", file=sys.stderr)
        return 130
    print(f"Wrote {sum(clips.values())} clips to {options.out}. Use them with MocapActions(root={str(options.out)!r}).")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pvision.datamodules.mocap",
        description="Render a set of MocapActions with pybullet's CPU renderer.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder to make; must not exist")
    parser.add_argument("--train", type=int, default=6000, help="training clips")
    parser.add_argument("--test", type=int, default=1200, help="test clips; a third of them serves validation")
    parser.add_argument("--synthetic", type=int, default=4800, help="pre-training clips of random motions")
    parser.add_argument("--seed", type=int, default=0, help="the shipped set has seed 0")
    parser.add_argument("--frames", type=int, default=8, help="frames in a clip, at 8 a second")
    parser.add_argument("--size", type=int, default=48, help="height and width in pixels")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="how many render at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
