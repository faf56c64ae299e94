"""Two processes, started by Lightning: the same weights, to the bit, and the same run as in one process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pvision.privacy import read_ledger

PROJECT = Path(__file__).with_name("ddp_project.py")
STEPS = 6


def train(folder: Path, processes: int) -> None:
    command = [sys.executable, str(PROJECT), str(folder), str(processes)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


def kept(folder: Path, way: str, rank: int) -> dict[str, Any]:
    result: dict[str, Any] = torch.load(folder / f"{way}_{rank}.pt", weights_only=True)
    return result


@pytest.mark.slow
def test_ranks_agree_to_the_bit_and_their_number_changes_nothing(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, processes in ((one, 1), (two, 2)):
        folder.mkdir()
        train(folder, processes)
    for way in ("dp_sgd", "residual", "residual_shared_batch", "by_hand"):
        first, second, alone = kept(two, way, 0), kept(two, way, 1), kept(one, way, 0)
        assert first["steps"] == second["steps"] == alone["steps"] == STEPS
        for name, value in first["weights"].items():
            assert torch.equal(value, second["weights"][name]), f"{way}: {name} differs between ranks"
            if way != "residual":  # whose noise is secret
                torch.testing.assert_close(value, alone["weights"][name], rtol=1e-4, atol=1e-6)
        assert read_ledger(two / way / "ledger.jsonl").charged == STEPS, "one ledger, charged once for both"
