"""The runs of a repeat: each a process of its own, so that no run can harm another."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

from pvision.cli.repetition.index import Index
from pvision.cli.repetition.plan import Entry
from pvision.cli.runs import SUMMARY
from pvision.errors import ConfigError

__all__ = ["Process", "Stop", "Watcher", "hold", "run_all"]

# Without the working folder on the path, as the console script has it: a random.py there must not be Python's.
_COMMAND = (sys.executable, "-P", "-c", "import sys; from pvision.cli import main; sys.exit(main())")
_TICK = 0.2  # seconds
_PATIENCE = 30.0  # seconds in which a run that is told to stop may write its summary
_REFUSED = 2  # the exit code for what the user gave
_TAIL = 1 << 14  # bytes of a log that are looked at


class Stop:
    """Whether the user, or the system, wants the command to end: looked at between two steps, so none is cut in half.

    Attributes:
        numbers: the signals that came.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of Ctrl-C, SIGTERM and SIGHUP until the block ends."""

        def note(number: int, frame: FrameType | None) -> None:
            self.numbers.append(number)

        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = [(number, signal.signal(number, note)) for number in numbers]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)


@contextmanager
def hold(folder: Path) -> Iterator[IO[str]]:
    """Keep a second command out of a repeat's folder, as long as this one or a run that it started goes on.

    Raises:
        ConfigError: if the folder is held, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}. Choose another --folder.") from error
    with file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"{folder} is in use: another `pvision repeat`, or a run that it left behind, still works in it. "
                    "Wait until it has ended, or give another --name."
                ) from error
        yield file


class Watcher(Protocol):
    """What wants to know how the runs go."""

    def started(self, process: "Process") -> None:
        """Take note of a run that was started."""

    def ended(self, process: "Process", entry: Entry) -> None:
        """Take note of how a run ended."""

    def running(self, processes: "list[Process]") -> None:
        """Take note, several times a second, of the runs that go on."""


@dataclass
class Process:
    """A run that goes on.

    Attributes:
        entry: which.
        log: where everything goes that it prints.
        began: seconds since the epoch.
    """

    entry: Entry
    log: Path
    began: float
    popen: subprocess.Popen[bytes]

    @classmethod
    def start(cls, index: Index, entry: Entry, *, held: IO[str]) -> "Process":
        """Start the run."""
        folder = index.plan.folder / entry.key
        folder.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        if index.plan.jobs > 1:  # runs side by side must not fight for the same cores
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // index.plan.jobs)))
        log = folder / "log.txt"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [*_COMMAND, *index.plan.words(entry)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # A group of its own: Ctrl-C reaches this command alone, which passes it on once.
                process_group=None if sys.platform == "win32" else 0,
                # The lock goes with it: a run that outlives this command keeps the next one out.
                pass_fds=() if sys.platform == "win32" else (held.fileno(),),
            )
        return cls(entry, log, time.time(), popen)

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.time() - self.began

    def tell(self, number: int) -> None:
        """Send a signal to the run and all processes that it has started."""
        if self.popen.poll() is not None:
            return
        with suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self.popen.terminate()
            else:
                os.killpg(self.popen.pid, number)

    def last_line(self) -> str:
        """Return the last line of the log that holds anything."""
        return next((line for line in reversed(self._tail()) if line), "")

    def last_words(self) -> str:
        """Return the message in which the command refused; if there is none, the last line."""
        refusals = [line.removeprefix("pvision: ") for line in self._tail() if line.startswith("pvision: ")]
        return refusals[-1] if refusals else self.last_line()

    def _tail(self) -> list[str]:
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            text = file.read().decode(errors="replace")
        return [line.strip() for line in text.replace("\r", "\n").split("\n")]

    def _told_summary(self) -> str | None:
        """Return the summary that the command named, which a logger with a folder of its own has elsewhere."""
        told = [Path(line) for line in self._tail() if line.endswith(SUMMARY)]
        return str(told[-1].absolute()) if told and told[-1].is_file() else None

    def outcome(self, index: Index) -> Entry:
        """Return how the run ended, once it has."""
        code = self.popen.returncode
        summary = (index.summary_of(self.entry, since=self.began - 1) or self._told_summary()) if code == 0 else None
        ended = replace(self.entry, seconds=round(self.seconds, 1), exit_code=code, summary=summary)
        return replace(ended, status="FINISHED" if index.finished(replace(ended, status="FINISHED")) else "FAILED")


def run_all(index: Index, *, held: IO[str], stop: Stop, watcher: Watcher) -> None:
    """Run what is pending, ``jobs`` at once; the first run of a repeat goes alone.

    It may have to create the database, download data, or be refused as all others would be.

    Args:
        index: says what is pending, and is told how each run ended.
        held: what `hold` gave.
        stop: ends the runs that go on, and starts no other.
        watcher: shows what happens.

    Raises:
        ConfigError: if the first run was refused.
    """
    waiting = [entry for entry in index.asked if entry.status != "FINISHED"]
    proven = len(waiting) < len(index.asked)
    running: list[Process] = []
    try:
        while (waiting or running) and not stop.numbers:
            while waiting and len(running) < (index.plan.jobs if proven else 1):
                running.append(Process.start(index, waiting.pop(0), held=held))
                watcher.started(running[-1])
            for process in [process for process in running if process.popen.poll() is not None]:
                running.remove(process)
                ended = process.outcome(index)
                index.record(ended)
                watcher.ended(process, ended)
                if ended.exit_code == _REFUSED and not proven:
                    raise ConfigError(f"{process.last_words()} (No other run was tried; all is in {process.log})")
                proven = True
            watcher.running(running)
            time.sleep(_TICK)
    finally:
        _end(running, stop)
    for process in running:
        index.record(replace(process.entry, status="KILLED", seconds=round(process.seconds, 1)))


def _end(running: list[Process], stop: Stop) -> None:
    """Ask all runs to end, and see that they do: after a while, or if the user insists, without asking again."""
    deadline, insisted = time.time() + _PATIENCE, len(stop.numbers) + 1
    for process in running:
        process.tell(stop.numbers[0] if stop.numbers else signal.SIGTERM)
    while any(process.popen.poll() is None for process in running):
        if time.time() > deadline or len(stop.numbers) >= insisted:
            for process in running:
                process.tell(getattr(signal, "SIGKILL", signal.SIGTERM))
            insisted = sys.maxsize
        time.sleep(_TICK)
