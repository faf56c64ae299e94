"""What the user sees while a repeat goes on."""

import shutil
import sys
import time

from pvision.cli.comparison.groups import Group, choose_metrics, short
from pvision.cli.comparison.tables import duration, number
from pvision.cli.repetition.index import Index
from pvision.cli.repetition.plan import Entry
from pvision.cli.repetition.processes import Process
from pvision.cli.runs import read

__all__ = ["Display"]

_REFRESH = 1.0  # seconds
_MOST_METRICS = 3


class Display:
    """Lines on stderr: one for each run that ends and, on a terminal, one that lives.

    Args:
        index: of the repeat.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._order = [entry.key for entry in index.asked]
        self._seconds: list[float] = []
        self._lives = sys.stderr.isatty()
        self._drawn = 0.0

    def started(self, process: Process) -> None:
        """Say which run begins; a terminal shows it by the line that lives."""
        if not self._lives:
            self._say(f"{self._place(process.entry)}: begins, log {process.log}")

    def ended(self, process: Process, entry: Entry) -> None:
        """Say how a run ended, and with which metrics."""
        took = duration(entry.seconds or 0)
        if entry.status == "FINISHED":
            self._seconds.append(entry.seconds or 0)
            self._say(f"{self._place(entry)}: finished in {took}{self._metrics(entry)}{self._left()}")
        else:
            words = process.last_words()
            why = f"exit code {entry.exit_code}" if entry.exit_code else "without a summary of a finished run"
            self._say(f"{self._place(entry)}: FAILED after {took} ({why}): {words[:300]}\n  log: {process.log}")

    def running(self, processes: list[Process]) -> None:
        """Redraw the line that lives."""
        now = time.monotonic()
        if not self._lives or not processes or now - self._drawn < _REFRESH:
            return
        self._drawn = now
        first = processes[0]
        more = f" (and {len(processes) - 1} more)" if len(processes) > 1 else ""
        text = f"{self._place(first.entry)}{more}  {duration(first.seconds)}  {first.last_line()}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:<{width}}", end="", file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        clear = f"\r{'':{shutil.get_terminal_size().columns - 1}}\r" if self._lives else ""
        print(f"{clear}{text}", file=sys.stderr, flush=True)

    def _place(self, entry: Entry) -> str:
        return f"run {self._order.index(entry.key) + 1} of {len(self._order)} ({entry})"

    def _metrics(self, entry: Entry) -> str:
        run = read(self._index.plan.folder / str(entry.summary))
        if not run.metrics:
            return ""
        shown = choose_metrics([Group(run.name, [run])], [])[:_MOST_METRICS]
        return "  " + ", ".join(f"{short(metric)} {number(run.metrics[metric])}" for metric in shown)

    def _left(self) -> str:
        waiting = sum(entry.status != "FINISHED" for entry in self._index.asked)
        if not waiting:
            return ""
        left = waiting * sum(self._seconds) / len(self._seconds) / self._index.plan.jobs
        return f"  (about {duration(left)} to go)"
