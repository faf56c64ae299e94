"""Whole private runs in processes of their own: several ranks, ranks that die, kill -9 and resumption."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pvision.privacy import ledger_report, read_ledger

SCRIPT = Path(__file__).with_name("private_run.py")
STEPS = 40

pytestmark = pytest.mark.slow


def start(kind, folder, devices, *options):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(SCRIPT), kind, str(folder), str(devices), *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=attend,
    )


def attend():
    """Take Ctrl-C as a process at a terminal does; one in the background, as tests may be, ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process, timeout=240):
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return output


def run(kind, folder, devices, *options):
    process = start(kind, folder, devices, *options)
    output = finish(process)
    assert process.returncode == 0, output
    return [torch.load(folder / f"weights_{rank}.pt", weights_only=True) for rank in range(devices)]


def wait_for_steps(process, ledger, steps, timeout=120):
    """Wait until the ledger charges ``steps``; it may be read while it is written."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if ledger.exists() and read_ledger(ledger).charged >= steps:
            return
        if process.poll() is not None:
            pytest.fail(f"the run ended before step {steps}: {process.communicate()[0]}")
        time.sleep(0.02)
    pytest.fail(f"step {steps} was not reached")


def children(process):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in listed.stdout.split()]


@pytest.mark.parametrize("kind", ["dp_sgd", "residual_shared_batch", "head"])
def test_two_ranks_train_as_one_does(tmp_path, kind):
    one = run(kind, tmp_path / "one", 1, "--noise_seed", "3")
    two = run(kind, tmp_path / "two", 2, "--noise_seed", "3")
    for name, value in two[0]["weights"].items():
        assert torch.equal(value, two[1]["weights"][name]), name
        if kind == "dp_sgd":  # the others have epochs without noise, whose batches are of another shuffle
            torch.testing.assert_close(value, one[0]["weights"][name], rtol=1e-4, atol=1e-5)
    assert two[0]["steps"] == two[1]["steps"] == one[0]["steps"] == STEPS
    reports = [ledger_report(tmp_path / name / "ledger.jsonl").as_dict() for name in ("one", "two")]
    assert reports[0] == reports[1]
    assert not reports[0]["private"]  # its noise was seeded


def test_when_a_rank_dies_the_other_stops_and_one_rank_can_go_on(tmp_path):
    folder = tmp_path / "run"
    process = start("dp_sgd", folder, 2, "--slow", "--unit", "subject")
    wait_for_steps(process, folder / "ledger.jsonl", 12)
    ranks = children(process)
    assert len(ranks) >= 1
    os.kill(ranks[-1], signal.SIGKILL)
    output = finish(process, timeout=60)
    assert process.returncode != 0, output
    charged = read_ledger(folder / "ledger.jsonl").charged
    assert 12 <= charged < STEPS
    (resumed,) = run("dp_sgd", folder, 1, "--ckpt_path", str(folder / "checkpoints/last.ckpt"), "--unit", "subject")
    assert resumed["steps"] == read_ledger(folder / "ledger.jsonl").charged == STEPS


def test_a_run_killed_twice_is_charged_for_all_it_released(tmp_path):
    folder, last = tmp_path / "run", tmp_path / "run/checkpoints/last.ckpt"
    options = []
    for steps in (9, 23):
        process = start("head", folder, 1, "--slow", *options)
        wait_for_steps(process, folder / "ledger.jsonl", steps)
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
        assert torch.load(last, weights_only=True)["privacy_progress"]["steps"] < steps
        options = ["--ckpt_path", str(last)]
    (weights,) = run("head", folder, 1, *options)
    record = read_ledger(folder / "ledger.jsonl")
    assert weights["steps"] == record.charged == STEPS
    assert record.crashes == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_a_settled_ledger(tmp_path, number):
    folder = tmp_path / "run"
    process = start("dp_sgd", folder, 1, "--slow")
    wait_for_steps(process, folder / "ledger.jsonl", 5)
    process.send_signal(number)
    finish(process, timeout=60)  # after SIGTERM Lightning ends with code 0; pvision's own command with 143
    record = read_ledger(folder / "ledger.jsonl")
    assert record.crashes == 0
    assert 5 <= record.charged < STEPS
