"""Any order of charging, settling, crashing and tearing, against a count that is plainly right."""

import random
import sys
import tempfile
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvision.errors import PrivacyError
from pvision.privacy.ledger import PrivacyLedger
from pvision.privacy.ledger import file as ledger_file
from pvision.privacy.ledger.reading import read_ledger

DATA = {"num_records": 100, "fingerprint": "clips-1"}
STEPS = 40

ACTIONS = st.one_of(
    st.just(("charge", 0)),
    st.just(("settle", 0)),
    st.just(("close", 0)),
    st.just(("crash", 0)),
    st.tuples(st.just("crash while charging"), st.integers(0, 400)),
    st.tuples(st.just("crash while settling"), st.integers(0, 400)),
    st.tuples(st.just("crash while opening"), st.integers(0, 400)),
)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(ledger_file.os, "fsync", lambda file: None)


class Run:
    """A run that is crashed by taking up a copy of its file, as the disk would have it: the truth is `released`."""

    def __init__(self, folder: Path, spec, block: int) -> None:
        self.folder, self.spec, self.block = folder, spec, block
        self.released = self.crashes = self.copies = 0
        self.path = folder / "0.jsonl"
        self.ledger = PrivacyLedger.create(self.path, spec, block=block, **DATA)
        self.mark = self.ledger.mark()

    def charge(self) -> None:
        try:
            self.ledger.charge()
        except PrivacyError:
            assert self.ledger.charged >= STEPS
        else:
            self.released += 1

    def close(self) -> None:
        self.ledger.close()
        assert not read_ledger(self.path).open
        self.resume()

    def resume(self) -> None:
        self.ledger = PrivacyLedger.resume(self.path, self.spec, mark=self.mark, **DATA)

    def crash(self, action, cut: int) -> None:
        """Lose the process within ``action``, when ``cut`` bytes of what it wrote have not reached the disk."""
        released, before = self.released, self.path.stat().st_size
        action()
        data = self.path.read_bytes()
        cut = min(cut, len(data) - before)
        if cut:
            self.released = released  # what `action` wanted to write is not there, so it has not returned
        self.ledger.close()
        self.copies += 1
        self.path = self.folder / f"{self.copies}.jsonl"
        self.path.write_bytes(data[: len(data) - cut])
        self.crashes += 1
        self.resume()

    def act(self, name: str, cut: int) -> None:
        if name in ("charge", "close"):
            getattr(self, name)()
        elif name == "settle":
            self.ledger.settle()
        else:
            actions = {"charging": self.charge, "settling": self.ledger.settle, "opening": self.close}
            self.crash(actions.get(name.split()[-1], lambda: None), cut)
        self.check()
        self.mark = self.ledger.mark()

    def check(self) -> None:
        record = read_ledger(self.path)
        assert record.charged == self.ledger.charged >= self.ledger.spent >= self.released
        assert record.charged - record.lost - record.reserved <= self.released
        assert self.ledger.spent <= self.released + 2 * self.block * self.crashes
        assert record.mark() == self.ledger.mark()


def play(spec, block, actions):
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), spec, block)
        for name, cut in actions:
            run.act(name, cut)
        run.ledger.close()
        if not run.crashes:
            assert read_ledger(run.path).charged == run.released


# The statement is frozen: examples can share it.
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block=st.sampled_from([1, 2, 7, STEPS]), actions=st.lists(ACTIONS, max_size=25))
def test_the_ledger_never_charges_less_than_was_released(statement, block, actions):
    play(statement(steps=STEPS), block, actions)


@pytest.mark.parametrize("seed", range(50))
def test_long_histories(seed, statement):
    rng = random.Random(seed)
    names = ["charge"] * 12 + ["settle", "close", "crash", "crash while charging", "crash while settling"]
    actions = [(rng.choice(names), rng.randrange(400)) for _ in range(60)]
    play(statement(steps=STEPS), rng.choice([1, 3, 10]), actions)


def test_a_ledger_that_writes_behind_would_be_caught(statement, monkeypatch):
    append, held = ledger_file.LedgerFile.append, {}

    def behind(self, line):
        if self in held:
            append(self, held[self])
        held[self] = line

    monkeypatch.setattr(ledger_file.LedgerFile, "append", behind)
    with pytest.raises(AssertionError):
        play(statement(steps=STEPS), 1, [("charge", 0)])


def interrupted_at(point, function):
    """Call ``function`` and interrupt it at the ``point``-th line of the ledger's code; whether it ended before."""
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if Path(frame.f_code.co_filename).parent.name != "ledger":
            return None
        if event == "line":
            lines += 1
            if lines == point:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return False
    finally:
        sys.settrace(before)
    return True


def test_an_interrupt_at_any_line_leaves_a_ledger_that_reads_and_charges_enough(statement, tmp_path):
    spec = statement(steps=STEPS)
    for point in count(1):
        path = tmp_path / f"{point}.jsonl"
        ledger = PrivacyLedger.create(path, spec, block=2, **DATA)
        released = []

        def train(ledger=ledger, released=released):
            for _ in range(3):
                ledger.charge()
                released.append(True)
            ledger.settle()

        ended = interrupted_at(point, train)
        ledger.close()
        assert len(released) <= read_ledger(path).charged <= len(released) + 2
        with PrivacyLedger.resume(path, spec, mark=ledger.mark(), **DATA) as again:
            again.charge()
        assert read_ledger(path).charged > len(released)
        if ended:
            break
    assert point > 50
