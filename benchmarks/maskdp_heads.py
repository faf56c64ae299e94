"""How should each private head be set? A grid on the validation clips of MocapActions, the same for every method.

    python benchmarks/maskdp_heads.py            # upper body hidden; about 5 minutes on 2 cores
    python benchmarks/maskdp_heads.py --json heads.json

Prints, for each method and ε, the validation accuracy of every setting and the best one. `pvision demo` uses what it
found (pvision/cli/demo/comparison.py) and reports other clips. The search itself is not covered by ε.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger
from tqdm.auto import tqdm

from pvision.cli.demo.comparison import EPSILONS, Budget, drop_only, fit, maskdp, statement
from pvision.cli.demo.heads import Features, HeadSettings, head_problems, train_head
from pvision.cli.demo.regions import REGIONS

NORMS = (0.3, 1.0)
RATES = (10.0, 30.0, 100.0, 300.0)
FINE_TUNING_RATES = (0.5, 2.0, 8.0, 30.0)  # this head starts trained, on larger features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=None, help="write all accuracies here")
    parser.add_argument("--noise-seeds", type=int, default=2)
    options = parser.parse_args()
    seed_everything(11, verbose=False)
    data = REGIONS[0].data(train_clips=None, eval_clips=None)
    data.setup()
    public_module = drop_only(Budget())
    fit(public_module, data, CSVLogger("mlruns", name="maskdp_heads"))
    module = maskdp(public_module.network)
    public, train, val = (
        Features.of(module, loader)
        for loader in (data.pretraining_loader(), data.two_view_loader(), data.val_dataloader())
    )
    results = {}
    for problem in head_problems(module, public, train, val):
        rates = FINE_TUNING_RATES if problem.name.startswith("redact") else RATES
        for epsilon in tqdm(EPSILONS, desc=problem.name):
            grid = {}
            for norm, rate in product(NORMS, rates):
                settings = HeadSettings(learning_rate=rate, max_grad_norm=norm)
                spec = statement(problem.mechanism, problem.relation, epsilon, settings)
                runs = [train_head(problem, spec, settings, val.label).accuracy for _ in range(options.noise_seeds)]
                grid[f"C {norm:g}, lr {rate:g}"] = sum(runs) / len(runs)
            best = max(grid, key=grid.__getitem__)
            results[f"{problem.name}, ε = {epsilon:g}"] = {"best": best, "grid": grid}
            print(f"{problem.name:32} ε = {epsilon:g}: {best} ({grid[best]:.3f})", flush=True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
