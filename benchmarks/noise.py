"""How long secret noise takes: each source of `SecretSource` beside torch's generator, which is fast and not secret.

    python benchmarks/noise.py [--millions 5] [--repeats 5]

Rounds alternate between the sources, so that another load on the machine hits all of them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pvision.privacy.noise import SecretSource


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    like = torch.zeros(round(arguments.millions * 1e6))
    generator = torch.Generator().manual_seed(0)
    ours = {
        "SecretSource()": SecretSource(),
        "SecretSource(secure=True)": SecretSource(secure=True),
        "SecretSource(secure=True, key=...)": SecretSource(secure=True, key=SecretSource.new_key()),
    }
    draws: dict[str, Callable[[], Tensor]] = {name: partial(source.normal, like) for name, source in ours.items()}
    draws["torch.randn (not secret)"] = partial(torch.randn, like.shape, generator=generator)
    seconds: dict[str, list[float]] = {name: [] for name in draws}
    for _ in range(arguments.repeats):
        for name, draw in draws.items():
            start = time.perf_counter()
            draw()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{len(like):,} normal numbers, float32, CPU, 1 thread, torch {torch.__version__}, numpy {np.__version__}")
    print(f"median of {arguments.repeats} alternating rounds")
    for name, median in medians.items():
        print(f"{name:36s} {median:7.3f} s   {median / medians['SecretSource()']:6.2f} x SecretSource()")


if __name__ == "__main__":
    main()
