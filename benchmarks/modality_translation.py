"""Which way of making an RGB detector see in infrared is best, what does it cost, and what does it forget?

Run as ``python benchmarks/modality_translation.py --out FOLDER``: all ways of `_modality_arms.py` on RenderedModalities
(simulated infrared and depth), three seeds, equal steps, batches and images. Learning rates are tried on seed 99 and
chosen by the average precision on the validation images. Each run is written to FOLDER as soon as it ends; the same
command goes on where it was stopped. `modality_results.py` makes the page.
"""

import argparse
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from _modality_arms import ARMS, BUDGETS, CORRUPTED, IN_SEQUENCE, MAIN, ON_DEPTH
from _modality_costs import measure_costs
from _runs import execute_all, finite

from pvision.callbacks import ForgettingMetrics, FrozenGuard
from pvision.callbacks._provenance import git_commit, versions
from pvision.datamodules import RenderedModalities
from pvision.datamodules.detection.corruptions import CORRUPTIONS, Corrupted
from pvision.detection import CompactFCOS, FixedRange, ImageInput
from pvision.files import write_whole
from pvision.modules import ModalityDetector
from pvision.training.average_precision import AveragePrecision
from pvision.weights_hash import weights_sha256

STEPS, BATCH, FLIP = 3_600, 16, True
TUNING_STEPS = 300
SEVERITY = 3
TUNING_SEED = 99
RGB_IMAGES = 50  # whose boxes, scores and labels are compared bit for bit


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        arm: one of `ARMS`.
        lr: learning rate.
        seed: of weights, batches and the share of labels.
        out: where its file goes.
        modality: what is learned first.
        budget: the share of labelled images.
        sequence: whether depth is learned after it.
    """

    arm: str
    lr: float
    seed: int
    out: Path
    modality: str = "lwir"
    budget: float = 1.0
    sequence: bool = False

    @property
    def steps(self) -> int:
        return TUNING_STEPS if self.seed == TUNING_SEED else STEPS

    @property
    def path(self) -> Path:
        if self.seed == TUNING_SEED:
            return self.out / "tuning" / f"{self.arm}-{self.modality}-{self.lr:g}.json"
        kind = "sequence" if self.sequence else f"{self.modality}-{self.budget:g}"
        return self.out / f"{self.arm}-{kind}-{self.seed}.json"

    def settings(self) -> dict[str, Any]:
        """Return all that decides on the result."""
        named = {name: value for name, value in asdict(self).items() if name != "out"}
        detector = weights_sha256(CompactFCOS())
        return {
            **named,
            "steps": self.steps,
            "batch_size": BATCH,
            "flip": FLIP,
            "detector_sha256": detector,
            "data_sha256": data_digest(),
        }

    def is_done(self) -> bool:
        return self.path.exists() and json.loads(self.path.read_text())["settings"] == self.settings()


def data_digest() -> str:
    """Return the hash of the manifest, which holds those of all files."""
    import pvision.datamodules.rendered as rendered

    return hashlib.sha256((Path(rendered.__file__).parent / "manifest.json").read_bytes()).hexdigest()


def image_input(modality: str) -> ImageInput:
    """Return what the raw values of a modality mean."""
    if modality == "lwir":
        return ImageInput(1, scaling=FixedRange(25_000, 35_000))  # 250 to 350 K in hundredths
    return ImageInput(2, scaling=FixedRange([0, 0], [12_000, 4_000]))  # millimetres, counts


def make_data(run: Run, modality: str) -> RenderedModalities:
    return RenderedModalities(
        modality=modality,
        batch_size=BATCH,
        eval_batch_size=50,
        label_fraction=run.budget,
        flip=FLIP,
        seed=run.seed,
    )


def make_module(run: Run, epochs: int) -> ModalityDetector:
    module = ModalityDetector(
        CompactFCOS(),
        modality=run.modality,
        input=image_input(run.modality),
        adaptation=ARMS[run.arm].build(image_input(run.modality).channels),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=run.lr, weight_decay=0.01),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
    )
    return module.to(memory_format=torch.channels_last)  # a third faster on a CPU


def make_trainer(module: ModalityDetector, folder: str, steps: int, *callbacks: pl.Callback) -> pl.Trainer:
    guard = [FrozenGuard()] if module.frozen_modules() else []
    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        default_root_dir=folder,
        callbacks=[*guard, *callbacks],
    )


def execute(run: Run) -> str:
    """Do a run, write its file, and return a line about it."""
    settings, clock = run.settings(), time.process_time()
    pl.seed_everything(run.seed, verbose=False)
    data = make_data(run, run.modality)
    data.setup("fit")
    epochs = math.ceil(run.steps / math.ceil(len(data.training_positions) / BATCH))
    module = make_module(run, epochs)
    before, rgb_before = weights_sha256(module.detector), rgb_predictions(module, data)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if run.sequence:
            found["sequence"] = learn_both(run, module, data, folder)
        else:
            trainer = make_trainer(module, folder, run.steps)
            if ARMS[run.arm].rates or ARMS[run.arm].rate_of:
                trainer.fit(module, datamodule=data)
            found["val_map"] = score(module, data.val_set)
            if run.seed != TUNING_SEED:
                trainer.test(module, datamodule=data, verbose=False)
                found["metrics"] = {
                    name: finite(float(value))
                    for name, value in trainer.callback_metrics.items()
                    if name.startswith("detection/")
                }
            if run.arm in CORRUPTED and run.modality == "lwir" and run.budget == 1.0 and run.seed != TUNING_SEED:
                found["corrupted"] = {name: corrupted(module, data, name) for name in CORRUPTIONS}
    found |= {
        "format": "pvision modality benchmark",
        "version": 1,
        "settings": settings,
        "detector_sha256_before": before,
        "detector_sha256": weights_sha256(module.detector),
        "rgb_predictions_equal": same(rgb_before, rgb_predictions(module, data)),
        "git_commit": git_commit(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "cpu_seconds": round(time.process_time() - clock, 1),
    }
    run.path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(run.path, json.dumps(found, indent=1, allow_nan=False) + "\n")
    return f"{run.path.stem}: {_line(found)}, {found['cpu_seconds']:.0f} s of CPU"


def learn_both(run: Run, module: ModalityDetector, data: RenderedModalities, folder: str) -> dict[str, Any]:
    """Learn one modality, then depth; measure all that was learned, and RGB, after each."""
    second = make_data(run, "depth")
    second.setup("fit")
    forgetting = ForgettingMetrics("test/map", names=[run.modality, "depth"], plots=False, verbose=False)
    rgb, first_hashes = [], []
    for place, own in enumerate((data, second)):
        if place:
            module.learn("depth", image_input("depth"), ARMS[run.arm].build(2))
        trainer = make_trainer(module, folder, run.steps, forgetting)
        trainer.fit(module, datamodule=own)
        loaders = [one.test_dataloader()[0] for one in (data, second)[: place + 1]]
        trainer.test(module, dataloaders=loaders, verbose=False)
        rgb.append(score(module, data.test_sets["rgb"]))
        first_hashes.append(weights_sha256(module.router.adaptations[run.modality]))
    return {
        "matrix": [[finite(value) for value in row] for row in forgetting.matrix.tolist()],
        "metrics": {name: finite(value) for name, value in forgetting.values().items()},
        "map_rgb": rgb,
        "first_adaptation_unchanged": first_hashes[0] == first_hashes[1],
    }


def rgb_predictions(module: ModalityDetector, data: RenderedModalities) -> list[Any]:
    records = data.test_sets["rgb"]
    batch = records[list(range(RGB_IMAGES))]
    module.eval()
    return list(module(batch.images, "rgb"))


def same(one: list[Any], other: list[Any]) -> bool:
    """Whether boxes, scores and labels of all images are equal bit for bit."""
    return all(
        torch.equal(mine[name], yours[name])
        for mine, yours in zip(one, other, strict=True)
        for name in ("boxes", "scores", "labels")
    )


def score(module: ModalityDetector, records: Any) -> float:
    """Return the mean average precision on some images."""
    metric = AveragePrecision(RenderedModalities.class_names)
    module.eval()
    for start in range(0, len(records), 50):
        batch = records[list(range(start, min(start + 50, len(records))))]
        metric.update(module(batch.images, batch.modality), batch.targets)
    return metric.compute()["map"]


def corrupted(module: ModalityDetector, data: RenderedModalities, name: str) -> float:
    return score(module, Corrupted(data.test_sets["lwir"], name, severity=SEVERITY))


def _line(found: dict[str, Any]) -> str:
    metrics = found.get("metrics")
    if not metrics:
        return f"validation {found.get('val_map', math.nan):.3f}"
    return f"new {metrics['detection/map_new']:.3f}, rgb {metrics['detection/map_rgb']:.3f}"


def chosen_rate(arm: str, out: Path) -> float:
    """Return the learning rate whose validation score was best on the seed for that."""
    source = ARMS[arm].rate_of or arm
    rates = ARMS[source].rates
    if len(rates) < 2:
        return rates[0] if rates else 0.0
    found = {
        rate: json.loads((out / "tuning" / f"{source}-lwir-{rate:g}.json").read_text())["val_map"] for rate in rates
    }
    return max(found, key=lambda rate: found[rate])


def tuning_runs(out: Path) -> list[Run]:
    return [Run(name, rate, TUNING_SEED, out) for name, arm in ARMS.items() if arm.rates[1:] for rate in arm.rates]


def reported_runs(seeds: list[int], out: Path) -> Iterator[Run]:
    """Yield the runs in the order of their weight, so that a broken-off comparison has the main rows first."""
    runs = [Run(name, chosen_rate(name, out), seed, out) for seed in seeds for name in ARMS]
    yield from (run for name in MAIN for run in runs if run.arm == name)
    for run in runs:
        if run.arm in IN_SEQUENCE:
            yield replace(run, sequence=True)
        for budget in BUDGETS.get(run.arm, ()):
            yield replace(run, budget=budget)
        if run.arm in ON_DEPTH:
            yield replace(run, modality="depth")
        if run.arm not in MAIN:
            yield run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    execute_all(tuning_runs(given.out), execute, workers=given.workers)
    execute_all(list(reported_runs(given.seeds, given.out)), execute, workers=given.workers)
    write_whole(given.out / "costs.json", json.dumps(measure_costs(), indent=1) + "\n")


if __name__ == "__main__":
    main()
