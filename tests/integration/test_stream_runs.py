"""Whole runs along a stream in processes of their own: several ranks, kill -9 and resumption."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("stream_run.py")

pytestmark = pytest.mark.slow


def run(folder, *options, ranks=1, code=0):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(SCRIPT), str(folder), "--devices", str(ranks), *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, output
    outcomes = [torch.load(path, weights_only=True) for path in sorted(folder.glob("outcome_*.pt"))]
    for outcome in outcomes:  # what else a state dict says, tests of the methods compare
        outcome["weights"] = {name: one for name, one in outcome["weights"].items() if isinstance(one, torch.Tensor)}
    return outcomes


def bits(tensor):
    return torch.nan_to_num(tensor.double(), nan=-7.0)


def equal(one, other):
    """Name what differs between two outcomes, bit for bit."""
    flat = [
        {**outcome["weights"], **{name: outcome[name] for name in outcome if name != "weights"}}
        for outcome in (one, other)
    ]
    return [name for name in flat[0] if not torch.equal(bits(flat[0][name]), bits(flat[1][name]))]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return run(tmp_path_factory.mktemp("unbroken") / "run")[0]


@pytest.mark.parametrize("at", ["2:9", "2:17"])
def test_a_run_killed_in_experience_2_of_5_ends_as_if_nothing_had_happened(tmp_path, unbroken, at):
    run(tmp_path, "--kill", at, code=-signal.SIGKILL)
    (resumed,) = run(tmp_path)
    assert equal(resumed, unbroken) == []


def test_workers_change_nothing(tmp_path, unbroken):
    (outcome,) = run(tmp_path, "--workers", "2")
    assert equal(outcome, unbroken) == []


def test_two_ranks_learn_and_forget_as_one_does(tmp_path):
    # In double precision: what a float32 sum over two parts rounds otherwise has grown visible after 100 steps.
    (one,) = run(tmp_path / "one", "--precision", "64-true")
    first, second = run(tmp_path / "two", "--precision", "64-true", ranks=2)
    for name, weight in one["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], weight, atol=1e-8, rtol=0)
    for outcome in (first, second):
        # Counts of whole images: the same number, not about the same.
        assert torch.equal(bits(outcome["accuracy"]), bits(one["accuracy"]))
        assert torch.equal(bits(outcome["per_class"]), bits(one["per_class"]))
        assert torch.equal(outcome["memory_positions"], one["memory_positions"])


def test_two_ranks_stop_early_accumulate_and_round_to_bfloat16_together(tmp_path):
    options = ("--early", "--accumulate", "2", "--precision", "bf16-mixed")
    first, second = run(tmp_path, *options, ranks=2)
    assert equal({**first, "torch": second["torch"]}, second) == []
    assert first["accuracy"].diagonal().min() > 0.5
