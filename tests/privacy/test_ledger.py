"""What the ledger's writer charges, gives back and refuses."""

import copy
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from pvision.errors import ConfigError, LedgerMismatch, LedgerTampered, PrivacyError
from pvision.privacy.ledger import PrivacyLedger
from pvision.privacy.ledger import file as ledger_file
from pvision.privacy.ledger.lines import LedgerMark
from pvision.privacy.ledger.reading import ledger_report, read_ledger

PATH = Path("run", "ledger.jsonl")
DATA = {"num_records": 100, "fingerprint": "clips-1"}


@pytest.fixture
def spec(statement):
    return statement(steps=100)


@pytest.mark.parametrize("path", [PATH, None], ids=["file", "memory"])
@pytest.mark.parametrize(("block", "steps"), [(1, 7), (25, 7), (25, 25), (25, 26), (25, 100)])
def test_a_clean_end_leaves_the_exact_count(path, block, steps, spec):
    with PrivacyLedger.create(path, spec, block=block, **DATA) as ledger:
        for step in range(1, steps + 1):
            ledger.charge()
            assert ledger.spent == step
            assert step <= ledger.charged < step + block
    assert ledger.charged == ledger.spent == steps
    if path is not None:
        record = read_ledger(path)
        assert (record.charged, record.sessions, record.crashes, record.open, record.lost) == (steps, 1, 0, False, 0)


@pytest.mark.parametrize(("steps", "block"), [(10, 1), (399, 1), (400, 2), (10_000, 50)])
def test_by_default_a_block_is_a_two_hundredth_of_the_steps(steps, block, statement):
    ledger = PrivacyLedger.create(None, statement(steps=steps), **DATA)
    ledger.charge()
    assert ledger.charged == block


def test_the_reservation_is_in_the_file_when_charge_returns(spec):
    with PrivacyLedger.create(PATH, spec, block=10, **DATA) as ledger:
        for step in range(1, 25):
            ledger.charge()
            assert read_ledger(PATH).charged >= step


def test_each_reservation_is_synced_before_charge_returns(spec, monkeypatch):
    synced = []
    with PrivacyLedger.create(PATH, spec, **DATA) as ledger:
        monkeypatch.setattr(ledger_file.os, "fsync", lambda file: synced.append(PATH.stat().st_size))
        ledger.charge()
        assert synced == [PATH.stat().st_size]


def test_nothing_but_the_end_of_the_file_ever_changes(spec):
    seen = b""
    for _ in range(3):
        open_it = PrivacyLedger.resume if PATH.exists() else PrivacyLedger.create
        with open_it(PATH, spec, **DATA) as ledger:
            for _ in range(4):
                ledger.charge()
                assert PATH.read_bytes().startswith(seen)
                seen = PATH.read_bytes()


def test_no_step_more_than_planned_is_charged(statement):
    spec = statement(steps=7)
    with PrivacyLedger.create(PATH, spec, block=3, **DATA) as ledger:
        for _ in range(7):
            ledger.charge()
        with pytest.raises(PrivacyError, match="All 7 steps"):
            ledger.charge()
    with PrivacyLedger.resume(PATH, spec, **DATA) as ledger, pytest.raises(PrivacyError, match="All 7 steps"):
        ledger.charge()
    assert ledger_report(PATH) == spec.report(steps=7)


def test_after_settling_charging_goes_on(spec):
    with PrivacyLedger.create(PATH, spec, block=10, **DATA) as ledger:
        for _ in range(3):
            ledger.charge()
            ledger.settle()
            ledger.settle()
            assert ledger.charged == ledger.spent == read_ledger(PATH).charged
    assert read_ledger(PATH).charged == 3


def crashed(spec, *, steps, block):
    """Leave the ledger as a killed writer leaves it: a copy of the file, taken while the writer lives."""
    with PrivacyLedger.create(Path("first.jsonl"), spec, block=block, **DATA) as ledger:
        for _ in range(steps):
            ledger.charge()
        PATH.parent.mkdir(exist_ok=True)
        PATH.write_bytes(Path("first.jsonl").read_bytes())
        return ledger.mark()


@pytest.mark.parametrize(("block", "charged"), [(1, 30), (25, 50)])
def test_after_a_crash_the_reservation_stays_charged(block, charged, spec):
    mark = crashed(spec, steps=30, block=block)
    with PrivacyLedger.resume(PATH, spec, mark=mark, **DATA) as ledger:
        assert ledger.spent == ledger.charged == charged
        ledger.charge()
        assert ledger.spent == charged + 1
    record = read_ledger(PATH)
    assert (record.charged, record.sessions, record.crashes, record.lost) == (charged + 1, 2, 1, block)


def test_a_ledger_is_never_overwritten(spec):
    PrivacyLedger.create(PATH, spec, **DATA).close()
    before = PATH.read_bytes()
    with pytest.raises(PrivacyError, match="never overwritten"):
        PrivacyLedger.create(PATH, spec, **DATA)
    assert PATH.read_bytes() == before
    assert [path.name for path in PATH.parent.iterdir()] == ["ledger.jsonl"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sample_rate": 0.2}, "privacy.sample_rate was 0.1 and is 0.2"),
        ({"steps": 101}, "privacy.steps was 100 and is 101"),
        ({"delta": 1e-6}, "privacy.delta"),
        ({"max_grad_norm": 2.0}, "privacy.max_grad_norm"),
        ({"noise_multiplier": 2.5}, "privacy.noise_multiplier was 2.0 and is 2.5"),
        ({"relation": "replace"}, "privacy.relation"),
        ({"mechanism": "dp_sgd"}, "privacy.mechanism"),
        ({"noise_seed": 3}, "privacy.noise_seed was None and is 3"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_another_statement_is_refused_by_the_field_that_differs(changes, named, spec, statement):
    PrivacyLedger.create(PATH, spec, **DATA).close()
    before = PATH.read_bytes()
    with pytest.raises(LedgerMismatch, match=named):
        PrivacyLedger.resume(PATH, statement(**{"steps": 100, **changes}), **DATA)
    assert PATH.read_bytes() == before


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"num_records": 101, "fingerprint": "clips-1"}, "num_records was 100 and is 101"),
        ({"num_records": 100, "fingerprint": "clips-2"}, "data was 'clips-1' and is 'clips-2'"),
    ],
)
def test_other_data_is_refused(data, named, spec):
    PrivacyLedger.create(PATH, spec, **DATA).close()
    with pytest.raises(LedgerMismatch, match=named):
        PrivacyLedger.resume(PATH, spec, **data)


def test_a_target_that_leads_to_the_same_noise_is_the_same_statement(statement):
    target = statement(steps=3, target_epsilon=1.0, sample_rate=1.0)
    PrivacyLedger.create(PATH, target, **DATA).close()
    PrivacyLedger.resume(PATH, statement(steps=3, noise_multiplier=target.noise, sample_rate=1.0), **DATA).close()


def test_the_report_takes_the_noise_that_was_added_not_the_target(statement):
    target = statement(steps=3, target_epsilon=1.0, sample_rate=1.0)
    with PrivacyLedger.create(PATH, target, **DATA) as ledger:
        ledger.charge()
    report = ledger_report(PATH)
    assert report == target.report(steps=1)
    assert report.noise_multiplier == target.noise


def test_a_missing_ledger_is_refused_with_what_to_do(spec):
    with pytest.raises(LedgerMismatch, match=r"no privacy ledger at .*Put its ledger.jsonl back"):
        PrivacyLedger.resume(PATH, spec, **DATA)
    assert not PATH.parent.exists()


def test_a_longer_ledger_is_what_a_checkpoint_expects(spec):
    with PrivacyLedger.create(PATH, spec, **DATA) as ledger:
        ledger.charge()
        mark = ledger.mark()
        ledger.charge()
    for _ in range(2):  # resumed twice from one checkpoint: both are charged
        with PrivacyLedger.resume(PATH, spec, mark=mark, **DATA) as ledger:
            ledger.charge()
    assert read_ledger(PATH).charged == 4


def test_a_shorter_ledger_is_refused_through_the_mark_of_the_checkpoint(spec):
    with PrivacyLedger.create(PATH, spec, **DATA) as ledger:
        ledger.charge()
        ledger.charge()
        mark = ledger.mark()
    lines = PATH.read_bytes().splitlines(keepends=True)
    for kept in range(1, len(lines) - 1):
        PATH.write_bytes(b"".join(lines[:kept]))
        read_ledger(PATH)  # by itself it cannot know
        with pytest.raises(LedgerTampered, match="cut off"):
            PrivacyLedger.resume(PATH, spec, mark=mark, **DATA)


def test_an_exchanged_ledger_is_refused_through_the_mark(spec):
    marks = []
    for path in (PATH, Path("other", "ledger.jsonl")):
        with PrivacyLedger.create(path, spec, **DATA) as ledger:
            ledger.charge()
            marks.append(ledger.mark())
    with pytest.raises(LedgerTampered, match="belongs to ledger"):
        PrivacyLedger.resume(PATH, spec, mark=marks[1], **DATA)


def test_a_ledger_that_was_rewritten_before_the_mark_is_refused(spec):
    with PrivacyLedger.create(PATH, spec, **DATA) as ledger:
        ledger.charge()
        first = PATH.read_bytes()
        ledger.charge()
        mark = ledger.mark()
    PATH.write_bytes(first)  # take the second step away, and let other steps grow in its place
    with PrivacyLedger.resume(PATH, spec, **DATA) as ledger:
        ledger.charge()
        ledger.charge()
    assert len(PATH.read_bytes()) > mark.length
    with pytest.raises(LedgerTampered, match="not those that the checkpoint saw"):
        PrivacyLedger.resume(PATH, spec, mark=mark, **DATA)


def test_a_mark_is_plain_values(spec):
    mark = PrivacyLedger.create(None, spec, **DATA).mark()
    assert LedgerMark(*json.loads(json.dumps(mark))) == mark


def test_what_was_interrupted_while_writing_takes_no_more(spec, monkeypatch):
    ledger = PrivacyLedger.create(PATH, spec, **DATA)
    ledger.charge()

    def interrupted(file):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger_file.os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ledger.charge()
    with pytest.raises(PrivacyError, match="takes no more steps"):
        ledger.charge()
    ledger.close()
    record = read_ledger(PATH)
    assert (record.charged, record.open) == (2, True)
    PrivacyLedger.resume(PATH, spec, **DATA).close()  # and the file is free again


def test_a_closed_ledger_takes_no_more(spec):
    ledger = PrivacyLedger.create(PATH, spec, **DATA)
    ledger.close()
    ledger.close()
    for action in (ledger.charge, ledger.settle):
        with pytest.raises(PrivacyError, match="it is closed"):
            action()


def test_a_copy_does_not_count_for_itself(spec):
    with PrivacyLedger.create(PATH, spec, **DATA) as ledger:
        assert copy.deepcopy({"ledger": ledger})["ledger"] is ledger
        with pytest.raises(PrivacyError, match="cannot be pickled"):
            pickle.dumps(ledger)


def test_memory_leaves_nothing_behind(spec):
    with PrivacyLedger.create(None, spec, **DATA) as ledger:
        ledger.charge()
        assert ledger.path is None
    assert not list(Path().iterdir())


@pytest.mark.parametrize("arguments", [{"block": 0}, {"block": True}, {"num_records": 0}, {"num_records": math.nan}])
def test_nonsense_is_refused_and_leaves_nothing(arguments, spec):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        PrivacyLedger.create(PATH, spec, **{**DATA, **arguments})
    assert not PATH.parent.exists()


def test_a_folder_that_cannot_be_made_or_written_is_one_message(spec):
    Path("file").touch()
    for path in (Path("file", "ledger.jsonl"), Path("file", "deeper", "ledger.jsonl")):
        with pytest.raises(PrivacyError, match="cannot be written"):
            PrivacyLedger.create(path, spec, **DATA)
    PrivacyLedger.create(PATH, spec, **DATA).close()
    Path("run", "ledger.jsonl.lock").mkdir()
    with pytest.raises(PrivacyError, match="cannot be written"):
        PrivacyLedger.resume(PATH, spec, **DATA)


def test_numbers_of_numpy_are_written_as_plain_ones(statement):
    spec = statement(steps=np.int64(10), sample_rate=np.float32(0.125), delta=np.float64(1e-5))
    PrivacyLedger.create(PATH, spec, num_records=np.int32(100)).close()
    PrivacyLedger.resume(PATH, spec, num_records=100).close()
    assert read_ledger(PATH).spec == statement(steps=10, sample_rate=0.125)


def test_a_run_with_a_known_seed_says_so_in_its_ledger(statement):
    PrivacyLedger.create(PATH, statement(noise_seed=1), **DATA).close()
    assert read_ledger(PATH).header["private"] is False
    assert not ledger_report(PATH).private
