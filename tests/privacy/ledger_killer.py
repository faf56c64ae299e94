"""Kill a writer with SIGKILL again and again: ``python ledger_killer.py FOLDER SEED`` does all `EXPERIMENTS`.

``where`` says what keeps the count: ``ledger``; ``slow``, a ledger on a disk that takes lines in small pieces, so that
kills fall into them; ``checkpoint``, a count saved every 20 steps. The truth is a byte per step in another file,
written after the step, so a kill between them can only hide a step from the truth. The last line printed is JSON.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from pvision.privacy.ledger import PrivacyLedger
from pvision.privacy.ledger import file as ledger_file
from pvision.privacy.ledger.reading import read_ledger
from pvision.privacy.spec import PrivacySpec

__all__ = ["main"]

SPEC = PrivacySpec(
    mechanism="residual",
    unit="clip",
    mask="public",
    label="public",
    relation="zero_out",
    polarity="inside",
    delta=1e-5,
    max_grad_norm=1.0,
    sample_rate=0.1,
    steps=1_000_000,
    noise_multiplier=2.0,
)
SAVED_EVERY = 20
EXPERIMENTS = {"ledger 1": 100, "ledger 25": 100, "slow 1": 50, "slow 25": 50, "checkpoint 1": 50}
"""What keeps the count, and the block size; how often it is killed."""


class Ledger:
    def __init__(self, path: Path) -> None:
        self._ledger = PrivacyLedger.resume(path, SPEC, num_records=100)

    def before(self) -> None:
        self._ledger.charge()

    def after(self) -> None:
        pass


class Checkpoint:
    """The pattern that loses steps."""

    def __init__(self, path: Path) -> None:
        self._path, self._steps = path, int(path.read_text())

    def before(self) -> None:
        self._steps += 1

    def after(self) -> None:
        if self._steps % SAVED_EVERY == 0:
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(str(self._steps))
            temporary.replace(self._path)


def take_lines_in_pieces() -> None:
    """Let a write to any file take 80 bytes at most, and let each last a while."""
    write = os.write

    def piece(file: int, data: bytes) -> int:
        written = write(file, data[:80])
        if len(data) > 1:
            time.sleep(2e-4)
        return written

    ledger_file.os.write = piece


def train(where: str, path: Path, truth: Path) -> None:
    """Take steps until killed."""
    if where == "slow":
        take_lines_in_pieces()
    count = Checkpoint(path) if where == "checkpoint" else Ledger(path)
    released = os.open(truth, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        count.before()
        os.write(released, b".")
        count.after()
        time.sleep(5e-5)


def claimed(where: str, path: Path) -> int:
    return int(path.read_text()) if where == "checkpoint" else read_ledger(path).charged


def begin(where: str, path: Path, block: int) -> None:
    if where == "checkpoint":
        path.write_text("0")
    else:
        PrivacyLedger.create(path, SPEC, num_records=100, block=block).close()


def start(where: str, path: Path, truth: Path) -> int:
    pid = os.fork()
    if pid == 0:
        train(where, path, truth)
    return pid


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def seconds_for_steps(folder: Path, where: str, block: int, *, steps: int = 10) -> float:
    """How long this machine takes, so that kills fall into its work whatever its speed."""
    path, truth = folder / "trial", folder / "trial_truth"
    begin(where, path, block)
    truth.touch()
    started = time.perf_counter()
    pid = start(where, path, truth)
    while truth.stat().st_size < steps:
        time.sleep(1e-3)
    stop(pid)
    return time.perf_counter() - started


def experiment(folder: Path, where: str, block: int, kills: int, seed: int) -> dict[str, object]:
    folder.mkdir()
    path, truth = folder / "count", folder / "truth"
    longest = 3 * seconds_for_steps(folder, where, block)
    begin(where, path, block)
    truth.touch()
    rng = random.Random(seed)
    over = []
    for _ in range(kills):
        pid = start(where, path, truth)
        time.sleep(rng.uniform(0, longest))
        stop(pid)
        over.append(claimed(where, path) - truth.stat().st_size)
    torn = 0 if where == "checkpoint" else read_ledger(path).torn
    return {"truth": truth.stat().st_size, "over": over, "torn": torn}


def main(folder: Path, seed: int) -> dict[str, object]:
    results = {}
    for name, kills in EXPERIMENTS.items():
        where, block = name.split()
        results[name] = experiment(folder / name, where, int(block), kills, seed)
    return results


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
