"""One writer per ledger, forked copies, killed holders of the lock, and a disk that is full."""

import errno
import gc
import json
import os
import resource
import signal
import socket
import warnings
from pathlib import Path

import pytest

from pvision.errors import LedgerBusy, PrivacyError
from pvision.privacy.ledger import PrivacyLedger
from pvision.privacy.ledger import file as ledger_file
from pvision.privacy.ledger.lock import writer_of
from pvision.privacy.ledger.reading import read_ledger

PATH = Path("ledger.jsonl")
LOCK = Path("ledger.jsonl.lock")
DATA = {"num_records": 100}


@pytest.fixture
def spec(statement):
    return statement(steps=100)


@pytest.fixture
def child():
    """Run a function in a forked child; returns its answer, or the message of what it raised."""

    def call(function):
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the fork of a process with threads; it does little
            pid = os.fork()
        if pid == 0:
            try:
                answer = str(function())
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(writer, answer.encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as pipe:
            answer = pipe.read()
        os.waitpid(pid, 0)
        return answer

    return call


def test_a_second_writer_is_refused_within_the_process(spec):
    with PrivacyLedger.create(PATH, spec, **DATA) as ledger:
        for path in (PATH, PATH.absolute()):
            with pytest.raises(LedgerBusy, match=f"this process .pid {os.getpid()}"):
                PrivacyLedger.resume(path, spec, **DATA)
        ledger.charge()
    assert read_ledger(PATH).sessions == 1


def test_a_second_writer_is_refused_through_another_name_of_the_file(spec):
    with PrivacyLedger.create(PATH, spec, **DATA):
        Path("link.jsonl").symlink_to(PATH)
        with pytest.raises(LedgerBusy):
            PrivacyLedger.resume(Path("link.jsonl"), spec, **DATA)


def test_a_second_writer_is_refused_in_another_process_which_tells_who_holds_it(spec, child):
    with PrivacyLedger.create(PATH, spec, **DATA) as ledger:
        told = child(lambda: PrivacyLedger.resume(PATH, spec, **DATA))
        assert told.startswith("LedgerBusy")
        assert f"pid {os.getpid()} on host {socket.gethostname()}" in told
        ledger.charge()  # and the attempt did not break the lock
        assert child(lambda: PrivacyLedger.resume(PATH, spec, **DATA)).startswith("LedgerBusy")


def test_nobody_writes_after_the_end(spec, child):
    PrivacyLedger.create(PATH, spec, **DATA).close()
    assert [path.name for path in Path().iterdir()] == ["ledger.jsonl"]
    assert child(lambda: PrivacyLedger.resume(PATH, spec, **DATA).charge()) == "None"


def test_a_refused_resume_gives_the_lock_back(spec, statement):
    PrivacyLedger.create(PATH, spec, **DATA).close()
    with pytest.raises(PrivacyError):
        PrivacyLedger.resume(PATH, statement(steps=99), **DATA)
    with pytest.raises(PrivacyError):
        PrivacyLedger.create(PATH, spec, **DATA)
    PrivacyLedger.resume(PATH, spec, **DATA).close()
    assert not LOCK.exists()


def test_the_lock_of_a_killed_process_is_taken_over_and_its_reservation_stays_charged(spec, child):
    def killed():
        ledger = PrivacyLedger.create(PATH, spec, block=10, **DATA)
        ledger.charge()
        os.kill(os.getpid(), signal.SIGKILL)

    assert child(killed) == ""
    assert LOCK.exists()
    assert writer_of(PATH) is None
    with PrivacyLedger.resume(PATH, spec, **DATA) as ledger:
        assert ledger.spent == 10
    assert read_ledger(PATH).crashes == 1


def test_a_writer_that_is_thrown_away_unclosed_blocks_nobody_and_counts_as_a_crash(spec):
    ledger = PrivacyLedger.create(PATH, spec, block=10, **DATA)
    ledger.charge()
    open_files = len([*Path("/proc/self/fd").iterdir()]) if Path("/proc/self/fd").exists() else 0
    del ledger
    gc.collect()
    if open_files:
        assert len([*Path("/proc/self/fd").iterdir()]) == open_files - 2
    with PrivacyLedger.resume(PATH, spec, **DATA) as again:
        assert again.spent == 10
    assert read_ledger(PATH).crashes == 1


@pytest.mark.parametrize("left", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_that_its_owner_did_not_finish_is_taken_over(left, spec):
    LOCK.write_text(left)
    PrivacyLedger.create(PATH, spec, **DATA).close()


def test_the_lock_of_another_host_is_refused_with_what_to_do(spec):
    PrivacyLedger.create(PATH, spec, **DATA).close()
    LOCK.write_text(json.dumps({"pid": 7, "host": "another-machine"}))
    with pytest.raises(LedgerBusy, match=r"pid 7 on host another-machine.*delete .*ledger\.jsonl\.lock"):
        PrivacyLedger.resume(PATH, spec, **DATA)
    assert writer_of(PATH) == "pid 7 on another-machine"
    LOCK.unlink()
    PrivacyLedger.resume(PATH, spec, **DATA).close()


def test_who_writes_is_told_without_disturbing_the_writer(spec, child):
    assert writer_of(PATH) is None
    with PrivacyLedger.create(PATH, spec, **DATA) as ledger:
        us = f"pid {os.getpid()} on {socket.gethostname()}"
        assert writer_of(PATH) == us
        assert child(lambda: writer_of(PATH)) == us
        assert child(lambda: PrivacyLedger.resume(PATH, spec, **DATA)).startswith("LedgerBusy")
        ledger.charge()


@pytest.mark.parametrize("path", [PATH, None], ids=["file", "memory"])
def test_a_forked_copy_cannot_charge_nor_end_its_parents_ledger(path, spec, child):
    with PrivacyLedger.create(path, spec, block=10, **DATA) as ledger:
        ledger.charge()
        for action in (ledger.charge, ledger.settle):
            assert "forked copy" in child(action)
        assert child(ledger.close) == "None"
        ledger.charge()
        assert ledger.spent == 2
        if path is not None:
            assert child(lambda: PrivacyLedger.resume(PATH, spec, **DATA)).startswith("LedgerBusy")
    assert path is None or read_ledger(PATH).charged == 2


@pytest.mark.parametrize("room", [0, 1, 100, 250, 251, 252, 253, 600])
def test_on_a_full_disk_nothing_is_released_that_is_not_in_the_file(room, spec, child):
    PrivacyLedger.create(PATH, spec, block=2, **DATA).close()
    before = PATH.stat().st_size

    def train():
        with PrivacyLedger.resume(PATH, spec, **DATA) as ledger:
            opened = PATH.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (opened + room, opened + room))
            released = 0
            for _ in range(2):
                try:
                    while True:
                        ledger.charge()
                        released += 1
                except PrivacyError as error:
                    told = str(error)
            return f"{released} {told}"

    released, _, told = child(train).partition(" ")
    record = read_ledger(PATH)
    assert int(released) <= record.charged <= int(released) + 2
    assert "takes no more steps" in told  # the second attempt is refused without trying
    assert PATH.stat().st_size >= before
    with PrivacyLedger.resume(PATH, spec, **DATA) as ledger:
        ledger.charge()
    assert read_ledger(PATH).charged == record.charged + 1
    assert read_ledger(PATH).crashes == 1


def full(file, data=None):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_with_path_and_free_bytes(spec, monkeypatch):
    with PrivacyLedger.create(PATH, spec, **DATA) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(ledger_file.os, "fsync", full)
            with pytest.raises(PrivacyError, match=r"ledger\.jsonl cannot be written \(No space left.*bytes are free"):
                ledger.charge()
        with pytest.raises(PrivacyError, match="takes no more steps"):
            ledger.charge()
        assert ledger.spent == 0


def test_a_ledger_that_cannot_be_begun_leaves_nothing_to_stumble_over(spec, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ledger_file.os, "fsync", full)
        with pytest.raises(PrivacyError, match="No space left"):
            PrivacyLedger.create(PATH, spec, **DATA)
    assert not list(Path().iterdir())
    PrivacyLedger.create(PATH, spec, **DATA).close()
