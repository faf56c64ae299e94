"""Opacus under Lightning's DDP, in two real processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pvision.privacy import read_ledger

SCRIPT = Path(__file__).with_name("opacus_two_ranks.py")


def both_ranks(folder):
    """Run the cases on two processes, and return what each found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = [process.communicate(timeout=250) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, ended, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(output.splitlines()[-1]) for output, _ in ended]


@pytest.mark.slow
def test_two_processes_are_refused_or_release_as_one(tmp_path):
    first, second = both_ranks(tmp_path)
    for found in (first, second):
        # Opacus alone: a bare module under DDP trains other weights on each rank, without an error.
        assert found["peer"]["gap"] > 1e-3
        assert "DPOptimizer came in a run of 2 processes" in found["bare"]["refused"]
        assert found["wrapped"]["gap"] == 0
        assert found["wrapped"]["charged"] == found["wrapped"]["steps"] == 16
    assert first["wrapped"]["empty"] + second["wrapped"]["empty"] > 0  # of 32 batches of one record on average
    assert read_ledger(tmp_path / "ledger.jsonl").charged == 16
