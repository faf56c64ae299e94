"""How long it takes to refuse nonsense for a number that ε depends on: every case once, the slowest of each argument.

python benchmarks/refusals.py
"""

import math
import time
from fractions import Fraction

import torch

from pvision.errors import UserError
from pvision.privacy import affordable_steps, epsilon, noise_multiplier_for

VALUES = [math.nan, math.inf, -math.inf, 0, -1, -1e-300, 1.5, "1", None, True, 1j, 10**400, 10**5000]
VALUES += [Fraction(10**400), torch.tensor(0.5), torch.zeros(10**6), [0.5] * 10**6, "x" * 10**7]
POINT = {"noise_multiplier": 5.0, "target_epsilon": 1.0, "budget": 1.0, "sample_rate": 0.1, "steps": 10, "delta": 1e-5}
POINT |= {"relation": "zero_out", "sampling": "truncated_poisson", "num_records": 100, "max_batch_size": 20}
FUNCTIONS = {
    epsilon: {"target_epsilon", "budget"},
    noise_multiplier_for: {"noise_multiplier", "budget"},
    affordable_steps: {"target_epsilon"},
}


def main() -> None:
    slowest = 0.0
    print(f"{'function':22s} {'argument':18s} {'refused':>8s} {'taken':>6s} {'slowest refusal':>16s}")
    for compute, without in FUNCTIONS.items():
        point = {name: value for name, value in POINT.items() if name not in without}
        for name in point:
            refusals, taken = [], 0
            for value in VALUES:
                start = time.perf_counter()
                try:
                    compute(**{**point, name: value})
                    taken += 1
                except UserError:
                    refusals.append(time.perf_counter() - start)
            slowest = max(slowest, *refusals)
            print(f"{compute.__name__:22s} {name:18s} {len(refusals):8d} {taken:6d} {1e3 * max(refusals):13.3f} ms")
    print(f"slowest of all: {1e3 * slowest:.3f} ms")


if __name__ == "__main__":
    main()
