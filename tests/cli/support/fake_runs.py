"""Runs as `pvision fit` leaves them, without training any."""

import json
from pathlib import Path

import pytest
import yaml

AA, FORGETTING = "continual/average_accuracy", "continual/forgetting"
PRIVATE = {"private": True, "unit": "clip", "mask": "public", "label": "public", "delta": 1e-5}


def run(
    name: str,
    seed: int | None = 1,
    *,
    status: str = "FINISHED",
    privacy: dict | None = None,
    matrix: list | None = None,
    config: dict | None = None,
    folder: str | None = None,
    **metrics: object,
) -> Path:
    """Leave a run on the disk as `pvision fit` does; ``AA=0.9`` is its average accuracy."""
    path = Path("mlruns", "1", folder or f"{name}{seed}".replace(" ", "_"))
    path.mkdir(parents=True)
    names = {"AA": AA, "F": FORGETTING}
    told = {names.get(metric, metric): value for metric, value in metrics.items()}
    summary = {"name": name, "status": status, "metrics": told, "privacy": privacy, "seed": seed, "run_id": path.name}
    (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    if matrix is not None:
        (path / "accuracy_matrix.json").write_text(json.dumps({"accuracy": matrix}), encoding="utf-8")
    if config is not None:
        (path / "artifacts").mkdir()
        (path / "artifacts/config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def three(name: str, *values: float, **more: object) -> list[Path]:
    """Runs of one name over seeds 1, 2, 3, ..."""
    return [run(name, seed, AA=value, F=1 - value, **more) for seed, value in enumerate(values, start=1)]


def rows(out: str) -> dict[str, list[str]]:
    table = out.partition("\n\n")[0].splitlines()
    return {line.split()[0]: line.split()[1:] for line in table[1:]}


def told(out: str) -> dict:
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
