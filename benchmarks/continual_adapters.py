"""Which method learns a stream best with a pretrained vision transformer, and what does it cost?

Run as ``python benchmarks/continual_adapters.py --weights dinov2_small.safetensors --root FOLDER --out FOLDER``: all
methods of `_continual_methods.py`, three seeds, 30 classes in ten experiences, equal steps. Where a method has several
learning rates, they are first tried on seed 99. Each run is written to OUT as soon as it ends; the same command goes on
where it was stopped, and repeats what has other settings or other code by now. `continual_results.py` makes the table.

The weights are what ``python -m pvision.models.dinov2_weights`` writes; ROOT holds the packages that
`FashionDigitsAnimalsStream` reads.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from _continual_methods import METHODS, STEPS, build, code_digest, digest
from _runs import execute_all, finite
from torch import nn

from pvision.callbacks import ForgettingMetrics, TrainingCost
from pvision.callbacks._provenance import git_commit, versions
from pvision.continual.cost import tensor_bytes, tensors_in
from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules import FashionDigitsAnimalsStream
from pvision.datamodules.streams.preprocessing import Preprocessing
from pvision.files import write_whole
from pvision.models.vision_transformer import VisionTransformer
from pvision.modules import ContinualClassifier
from pvision.training.streams import fit_stream

EXPERIENCES, BATCH = 10, 8
TRAIN_PER_CLASS, TEST_PER_CLASS = 80, 20  # 240 training images an experience: `STEPS` steps
SIDE = 42  # pixels: 9 patches of 14
BACKBONE: dict[str, Any] = {"patch_size": 14, "channels": 1, "width": 384, "depth": 12, "heads": 6, "layer_scale": True}
FEATURE_BLOCK = 7  # the first 8 of 12 blocks: a nearest class mean and a linear probe are best there
PREPROCESSING: dict[str, Any] = {"resize": SIDE, "interpolation": "bicubic", "mean": (0.449,), "std": (0.226,)}
TUNING_SEED = 99


@dataclass(frozen=True)
class Run:
    """One run: a method, a learning rate, a seed."""

    method: str
    lr: float
    seed: int
    weights: Path
    root: Path
    out: Path

    @property
    def path(self) -> Path:
        if self.seed == TUNING_SEED:
            return self.out / "tuning" / f"{self.method}-{self.lr:g}.json"
        return self.out / f"{self.method}-{self.seed}.json"

    def settings(self) -> dict[str, Any]:
        """Return all that decides on the result."""
        contender = METHODS[self.method]
        return {
            "method": contender.method,
            "optimizer": contender.optimizer,
            "lr": self.lr,
            "training": contender.training,
            "seed": self.seed,
            "experiences": EXPERIENCES,
            "batch_size": BATCH,
            "epochs": contender.epochs,
            "train_per_class": TRAIN_PER_CLASS,
            "test_per_class": TEST_PER_CLASS,
            "preprocessing": PREPROCESSING,
            "backbone": {**BACKBONE, "image_size": SIDE, "feature_block": FEATURE_BLOCK},
            "backbone_sha256": file_digest(self.weights),
            "code_sha256": code_digest(contender.method),
        }

    def is_done(self) -> bool:
        """Whether its file is there, with these settings and this code."""
        if not self.path.exists():
            return False
        written, wanted = json.loads(self.path.read_text())["settings"], json.loads(json.dumps(self.settings()))
        if self.seed == TUNING_SEED:  # a learning rate stays chosen when the code changes
            written["code_sha256"] = wanted["code_sha256"]
        return bool(written == wanted)


def execute(run: Run) -> str:
    """Do a run, write its file, and return a line about it."""
    settings, started, clock = run.settings(), time.perf_counter(), time.process_time()
    pl.seed_everything(run.seed, verbose=False)
    stream = make_stream(run)
    backbone = VisionTransformer(image_size=SIDE, feature_block=FEATURE_BLOCK, weights=str(run.weights), **BACKBONE)
    bare = tensor_bytes(tensors_in(backbone.state_dict()))
    module = make_module(run, backbone)
    metrics, cost, counted = ForgettingMetrics(plots=False, verbose=False), TrainingCost(), _Steps()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=METHODS[run.method].epochs,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
            callbacks=[metrics, cost, counted],
        )
        fit_stream(trainer, module, stream)
        manifest = stream.manifest().digest
    found: dict[str, Any] = {
        "format": "pvision continual benchmark",
        "version": 1,
        "method": run.method,
        "seed": run.seed,
        "settings": settings,
        "settings_sha256": digest(settings),
        "git_commit": git_commit(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "stream_sha256": manifest,
        "steps": counted.steps,
        "images": counted.images,
        "metrics": {name: finite(value) for name, value in metrics.values().items()},
        "accuracy_matrix": [[finite(value) for value in row] for row in metrics.matrix.tolist()],
        "cost": {name: finite(value) for name, value in cost.summary_metrics().items()},
        "bytes_beside_backbone": tensor_bytes(tensors_in(module.state_dict())) - bare,
        "cpu_seconds": round(time.process_time() - clock, 1),
        "wall_seconds": round(time.perf_counter() - started, 1),
    }
    run.path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(run.path, json.dumps(found, indent=1, allow_nan=False) + "\n")
    score = found["metrics"]["continual/average_accuracy"]
    return f"{run.path.stem}: average accuracy {score:.3f}, lr {run.lr:g}, {found['cpu_seconds']:.0f} s of CPU"


def make_stream(run: Run) -> FashionDigitsAnimalsStream:
    joint = METHODS[run.method].training == "joint"
    return FashionDigitsAnimalsStream(
        root=str(run.root),
        scenario=ClassIncremental(experiences=1 if joint else EXPERIENCES, class_order_seed=run.seed),
        train_per_class=TRAIN_PER_CLASS,
        test_per_class=TEST_PER_CLASS,
        preprocessing=Preprocessing(**PREPROCESSING),
        batch_size=BATCH,
        seed=run.seed,
    )


def make_module(run: Run, backbone: nn.Module) -> ContinualClassifier:
    contender = METHODS[run.method]
    return ContinualClassifier(
        backbone,
        method=lambda network: build(contender.method, network),
        optimizer=lambda parameters: build(contender.optimizer, parameters, lr=run.lr),
    )


class _Steps(pl.Callback):
    """Counts what training saw."""

    def __init__(self) -> None:
        self.steps = self.images = 0

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps, self.images = self.steps + 1, self.images + len(batch.label)


def chosen_rate(name: str, out: Path) -> tuple[float, dict[float, float]]:
    """Return the learning rate for a method, and the average accuracy that each one tried had on the seed for that."""
    source = METHODS[name].rate_of or name
    rates = METHODS[source].rates
    if len(rates) == 1:
        return rates[0], {}
    found = {
        rate: json.loads((out / "tuning" / f"{source}-{rate:g}.json").read_text())["metrics"][
            "continual/average_accuracy"
        ]
        for rate in rates
    }
    return max(found, key=lambda rate: found[rate]), found


def file_digest(path: Path) -> str:
    if path not in _DIGESTS:
        _DIGESTS[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _DIGESTS[path]


_DIGESTS: dict[Path, str] = {}


def tuning_runs(names: list[str], base: Run) -> list[Run]:
    sources = dict.fromkeys(METHODS[name].rate_of or name for name in names)
    return [
        replace(base, method=name, lr=rate, seed=TUNING_SEED)
        for name in sources
        for rate in METHODS[name].rates
        if len(METHODS[name].rates) > 1
    ]


def reported_runs(names: list[str], seeds: list[int], base: Run) -> Iterator[Run]:
    for seed in seeds:
        for name in names:
            yield replace(base, method=name, lr=chosen_rate(name, base.out)[0], seed=seed)


def seconds_per_run(weights: Path) -> float:
    """Return about how many seconds of a core a run takes here, by a few passes forwards and backwards."""
    network = VisionTransformer(image_size=SIDE, feature_block=FEATURE_BLOCK, weights=str(weights), **BACKBONE)
    image = torch.randn(BATCH, 1, SIDE, SIDE)
    network(image).sum().backward()  # once for what is made on first use
    clock = time.process_time()
    for _ in range(4):
        network(image).sum().backward()
    step = (time.process_time() - clock) / 4
    steps = STEPS * EXPERIENCES
    evaluated = 30 * TEST_PER_CLASS * (EXPERIENCES + 1) / 2
    return step * steps + step / 3 * (evaluated + 2 * steps * BATCH) / BATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds = seconds_per_run(given.weights)
    base = Run("", 0.0, 0, given.weights, given.root, given.out)
    execute_all(tuning_runs(given.methods, base), execute, workers=given.workers, seconds=seconds)
    execute_all(list(reported_runs(given.methods, given.seeds, base)), execute, workers=given.workers, seconds=seconds)


if __name__ == "__main__":
    main()
