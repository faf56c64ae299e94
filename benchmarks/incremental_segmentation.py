"""Which method learns to segment one class after the other best, what does it forget, and what does it cost?

Run as ``python benchmarks/incremental_segmentation.py --out FOLDER``: all methods of `_segmentation_arms.py` on the
shipped scenes (ten classes, four of them first, then one at a time), three seeds, equal network, optimizer, batches and
steps. BARM is taken apart too, steps are doubled, and orders of the classes drawn. Each run is written to FOLDER as
soon as it ends; the same command goes on where it was stopped. `segmentation_results.py` makes the page.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from _runs import execute_all, finite
from _segmentation_arms import ABLATIONS, ARMS, CURVE, MAIN, ORDERED

from pvision.callbacks import SegmentationMatrix, TrainingCost
from pvision.callbacks._provenance import git_commit, versions
from pvision.continual.scenarios import SegmentationScenario
from pvision.datamodules import RenderedYardStream
from pvision.files import write_whole
from pvision.modules import IncrementalSegmenter
from pvision.segmentation.networks import CompactSegmenter
from pvision.training.streams import fit_stream

TASK, CLASSES, EXPERIENCES = "4-1", 10, 7
WIDTH, BATCH = 16, 16
LR, INCREMENT_LR = 4e-3, 2e-3
STEPS_PER_EPOCH, BASE_EPOCHS, EPOCHS = 25, 24, 6  # 600 steps for the first four classes, 150 for each further one


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        arm: one of `ARMS`.
        seed: of weights and batches.
        out: where its file goes.
        times: how many times the usual steps each experience but the first has.
        order: draws the order of the classes; None for the usual one.
    """

    arm: str
    seed: int
    out: Path
    times: int = 1
    order: int | None = None

    @property
    def path(self) -> Path:
        kind = "" if self.order is None else f"-order{self.order}"
        return self.out / f"{self.arm}-x{self.times}{kind}-{self.seed}.json"

    def settings(self) -> dict[str, Any]:
        """Return all that decides on the result, the code apart."""
        named = {name: value for name, value in asdict(self).items() if name != "out"}
        return {
            **named,
            "task": TASK,
            "width": WIDTH,
            "batch_size": BATCH,
            "lr": LR,
            "increment_lr": INCREMENT_LR,
            "base_steps": BASE_EPOCHS * STEPS_PER_EPOCH,
            "steps": EPOCHS * STEPS_PER_EPOCH * self.times,
            "data": stream_of(self).manifest().digest,
        }

    def is_done(self) -> bool:
        return self.path.exists() and json.loads(self.path.read_text())["settings"] == self.settings()


def stream_of(run: Run) -> RenderedYardStream:
    task = "offline" if ARMS[run.arm].joint else TASK
    scenario = SegmentationScenario(task=task, class_order_seed=run.order)
    return RenderedYardStream(scenario=scenario, batch_size=BATCH, eval_batch_size=50, seed=run.seed)


def module_of(run: Run) -> IncrementalSegmenter:
    base_epochs = BASE_EPOCHS
    if ARMS[run.arm].joint:
        base_epochs += (EXPERIENCES - 1) * EPOCHS * run.times
    return IncrementalSegmenter(
        CompactSegmenter(WIDTH),
        method=ARMS[run.arm].build,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=LR, weight_decay=1e-4),
        increment_lr=INCREMENT_LR,
        base_epochs=base_epochs,
    )


def execute(run: Run) -> str:
    """Do a run, write its file, and return a line about it."""
    settings, clock = run.settings(), time.process_time()
    pl.seed_everything(run.seed, verbose=False)
    module, stream = module_of(run), stream_of(run)
    matrix, cost = SegmentationMatrix(plots=False), TrainingCost()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=EPOCHS * run.times,
            limit_train_batches=STEPS_PER_EPOCH,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
            callbacks=[matrix, cost],
        )
        fit_stream(trainer, module, stream)
    metrics = {name: finite(float(value)) for name, value in matrix.summary_metrics().items()}
    found = {
        "format": "pvision segmentation benchmark",
        "version": 1,
        "settings": settings,
        "metrics": metrics,
        "iou": [[finite(value) for value in row] for row in matrix.matrix.tolist()],
        "class_order": list(stream.manifest().class_order),
        "costs": [{name: finite(value) for name, value in row.items()} for row in cost.state_dict()["rows"].values()],
        "git_commit": git_commit(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "cpu_seconds": round(time.process_time() - clock, 1),
    }
    run.path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(run.path, json.dumps(found, indent=1, allow_nan=False) + "\n")
    names = ("miou_old_without_background", "miou_new", "miou_all")
    shown = ", ".join(f"{name} {100 * (metrics.get(f'segmentation/{name}') or 0):.1f}" for name in names)
    return f"{run.path.stem}: {shown}, {found['cpu_seconds']:.0f} s of CPU"


def reported_runs(seeds: list[int], orders: list[int], out: Path) -> Iterator[Run]:
    """Yield the runs in the order of their weight, so that a broken-off comparison has the main rows first."""
    yield from (Run(name, seed, out) for seed in seeds for name in MAIN)
    yield from (Run(name, seeds[0], out) for name in ABLATIONS)
    yield from (Run(name, seeds[0], out, order=order) for order in orders for name in ORDERED)
    curve = [Run(name, seeds[0], out) for name in CURVE]
    yield from (replace(run, times=times) for times in (2, 4) for run in curve)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--orders", nargs="*", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    execute_all(list(reported_runs(given.seeds, given.orders, given.out)), execute, workers=given.workers)


if __name__ == "__main__":
    main()
