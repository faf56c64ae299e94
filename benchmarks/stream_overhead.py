"""What does training along a stream cost beside a loop by hand? Same network, same batches, same optimizer.

Run as ``python benchmarks/stream_overhead.py [--rounds 3]``. Prints a table and writes ``stream_overhead.json``. Both
train five experiences of digits for five epochs each; the loop by hand has no evaluation, metrics, checkpoints or
progress bar, `fit_stream` has all but the progress bar.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch

from pvision.callbacks import ForgettingMetrics
from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules import DigitsStream
from pvision.models import ConvEncoder
from pvision.modules import ContinualClassifier
from pvision.training.streams import fit_stream

EPOCHS = 5


def parts() -> tuple[ContinualClassifier, DigitsStream]:
    pl.seed_everything(1, verbose=False)
    module = ContinualClassifier(ConvEncoder(width=16), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3))
    stream = DigitsStream(scenario=ClassIncremental(experiences=5), batch_size=32, seed=1)
    stream.setup()
    return module, stream


def by_hand() -> None:
    module, stream = parts()
    for experience in stream.experiences:
        stream.begin(experience.index)
        module.method.before_experience(experience, cast(Any, None))  # fine-tuning does not look at it
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
        loader: Any = stream.train_dataloader()
        for epoch in range(EPOCHS):
            loader.sampler.begin(epoch, 0)
            for batch in loader:
                optimizer.zero_grad()
                module.method.loss(batch).backward()
                optimizer.step()


def along_the_stream(*, measured: bool) -> None:
    module, stream = parts()
    module.log = lambda *args, **settings: None  # type: ignore[method-assign]  # nobody logs in the loop by hand
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=measured,
            default_root_dir=folder,
            callbacks=[ForgettingMetrics(verbose=False)] if measured else [],
        )
        fit_stream(trainer, module, stream)


WAYS = {
    "loop by hand": by_hand,
    "fit_stream": lambda: along_the_stream(measured=False),
    "fit_stream, checkpoints, matrix and plots": lambda: along_the_stream(measured=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("stream_overhead.json"))
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for way in WAYS.values():
        way()  # once for what is imported and compiled on first use
    for _ in range(given.rounds):  # in turn, so that whatever else the machine does falls on all of them
        for name, way in WAYS.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["loop by hand"])
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {given.rounds} rounds")
    for name, times in seconds.items():
        print(f"{name:45} {statistics.median(times):7.2f} s  {statistics.median(times) / base:5.2f} ×")
    given.output.write_text(json.dumps({"torch": torch.__version__, "seconds": seconds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
