"""What a reader accepts, what it finds out, and that reading changes nothing."""

import os
import re
from pathlib import Path

import pytest

from pvision.errors import LedgerTampered, PrivacyError
from pvision.privacy.ledger import PrivacyLedger
from pvision.privacy.ledger import file as ledger_file
from pvision.privacy.ledger.lines import ROOT_HASH, encode
from pvision.privacy.ledger.reading import ledger_report, parse_ledger, read_ledger

PATH = Path("ledger.jsonl")
DATA = {"num_records": 100, "fingerprint": "clips-1"}
BLOCK = 5
PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(ledger_file.os, "fsync", lambda file: None)


@pytest.fixture
def spec(statement):
    return statement(steps=40)


@pytest.fixture
def lines(spec):
    """Header, open, reserve 5, settle 2, open, reserve 5, reserve 5, settle 4."""
    with PrivacyLedger.create(PATH, spec, block=BLOCK, **DATA) as ledger:
        for _ in range(3):
            ledger.charge()
    with PrivacyLedger.resume(PATH, spec, **DATA) as ledger:
        for _ in range(6):
            ledger.charge()
    kinds = [entry["kind"] for entry in read_ledger(PATH).entries]
    assert kinds == ["open", "reserve", "settle", "open", "reserve", "reserve", "settle"]
    return PATH.read_bytes().splitlines(keepends=True)


def parse(data):
    return parse_ledger(data, path=PATH)


def test_any_changed_byte_is_found(lines):
    data = b"".join(lines)
    for position in range(len(data) - 1):
        number = 1 + data[:position].count(b"\n")
        for mask in (0x01, 0x20, 0x80, data[position] ^ 0x0A):
            if mask:
                changed = bytearray(data)
                changed[position] ^= mask
                with pytest.raises(LedgerTampered, match=f"line {number}, "):
                    parse(bytes(changed))


def test_without_its_last_newline_the_last_line_counts_as_torn_which_never_claims_less(lines):
    data = b"".join(lines)
    record = parse(data[:-1] + b"x")
    assert (record.torn, record.charged) == (1, 13 + BLOCK)


def test_a_deleted_line_is_found(lines):
    for number in range(len(lines) - 1):
        with pytest.raises(LedgerTampered, match=f"line {number + 1}, "):
            parse(b"".join(lines[:number] + lines[number + 1 :]))


def test_a_doubled_line_is_found(lines):
    for number in range(len(lines)):
        with pytest.raises(LedgerTampered, match=f"line {number + 2}, "):
            parse(b"".join(lines[: number + 1] + lines[number:]))


def test_exchanged_lines_are_found(lines):
    for first in range(len(lines)):
        for second in range(first):
            mixed = list(lines)
            mixed[first], mixed[second] = mixed[second], mixed[first]
            with pytest.raises(LedgerTampered, match=f"line {second + 1}, "):
                parse(b"".join(mixed))


def test_a_line_of_another_ledger_is_found(lines, spec):
    PrivacyLedger.create(Path("other.jsonl"), spec, block=BLOCK, **DATA).close()
    other = Path("other.jsonl").read_bytes().splitlines(keepends=True)
    with pytest.raises(LedgerTampered, match="line 2, "):
        parse(lines[0] + other[1] + b"".join(lines[2:]))


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "settle", "unused": 6},
        {"kind": "settle", "unused": -1},
        {"kind": "settle", "unused": True},
        {"kind": "settle"},
        {"kind": "reserve", "steps": 0, "noise_multiplier": 2.0, "sample_rate": 0.1},
        {"kind": "reserve", "steps": 6, "noise_multiplier": 2.0, "sample_rate": 0.1},
        {"kind": "reserve", "steps": "5", "noise_multiplier": 2.0, "sample_rate": 0.1},
        {"kind": "reserve", "steps": 5, "noise_multiplier": 9.0, "sample_rate": 0.1},
        {"kind": "reserve", "steps": 5, "noise_multiplier": 2.0, "sample_rate": 0.01},
        {"kind": "torn", "bytes": 0, "sha256": "", "charged": 0},
        {"kind": "header"},
        {"kind": "refund", "steps": 5},
        {"steps": 5},
    ],
    ids=str,
)
def test_an_entry_that_no_writer_writes_is_refused_even_in_a_valid_chain(entry, lines):
    kept = b"".join(lines[:-1])  # up to a reservation of five
    forged, _ = encode(parse(kept).hash, entry)
    with pytest.raises(LedgerTampered, match="line 8, "):
        parse(kept + forged)


def test_steps_given_back_twice_are_refused(lines):
    data = b"".join(lines)
    forged, _ = encode(parse(data).hash, {"kind": "settle", "unused": 4})
    with pytest.raises(LedgerTampered, match="line 9, "):
        parse(data + forged)


@pytest.mark.parametrize("last", range(2, 9))
def test_a_last_line_that_was_cut_anywhere_is_charged_as_a_block_and_the_next_writer_goes_on(last, lines, spec):
    before, line = b"".join(lines[: last - 1]), lines[last - 1]
    whole = parse(before + line)
    floor = max(parse(before).charged, whole.charged)
    for cut in range(1, len(line)):
        PATH.write_bytes(before + line[:-cut])
        record = read_ledger(PATH)
        assert (record.charged, record.torn) == (parse(before).charged + BLOCK, 1)
        assert record.charged >= floor
        with PrivacyLedger.resume(PATH, spec, mark=parse(before).mark(), **DATA) as ledger:
            assert ledger.spent == ledger.charged == record.charged
            ledger.charge()
        after = read_ledger(PATH)
        assert (after.charged, after.torn) == (record.charged + 1, 1)
        assert PATH.read_bytes().startswith(before + line[:-cut])


def test_a_whole_line_that_is_gone_shows_against_the_mark_only(lines, spec):
    mark = parse(b"".join(lines)).mark()
    PATH.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(LedgerTampered, match="cut off"):
        PrivacyLedger.resume(PATH, spec, mark=mark, **DATA)


def test_the_repair_of_a_torn_line_may_be_torn_too(lines, spec):
    data = b"".join(lines[:-1]) + lines[-1][:40]
    PATH.write_bytes(data)
    PrivacyLedger.resume(PATH, spec, **DATA).close()
    repair = PATH.read_bytes().splitlines(keepends=True)[7]
    for cut in range(1, len(repair) - 40):
        record = parse(b"".join(lines[:-1]) + repair[:-cut])
        assert (record.charged, record.torn) == (15 - 2 + BLOCK, 1)
        PATH.write_bytes(b"".join(lines[:-1]) + repair[:-cut])
        PrivacyLedger.resume(PATH, spec, **DATA).close()
        assert read_ledger(PATH).charged == record.charged


def test_a_torn_line_may_be_neither_edited_nor_taken_away(lines, spec):
    PATH.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    PrivacyLedger.resume(PATH, spec, **DATA).close()
    data = PATH.read_bytes()
    torn = data.index(lines[-1][:40])
    for position in range(torn, torn + 40):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(LedgerTampered, match="line 8, "):
            parse(bytes(changed))
    with pytest.raises(LedgerTampered, match="line 8, "):
        parse(data[:torn] + data[torn + 40 :])
    with pytest.raises(LedgerTampered, match="line 2, "):
        parse(lines[0] + b"something" + lines[1])


def test_torn_lines_may_carry_the_count_above_the_plan_and_then_nothing_is_released(statement):
    spec = statement(steps=4)
    with PrivacyLedger.create(PATH, spec, block=4, **DATA) as ledger:
        for _ in range(4):
            ledger.charge()
    with PATH.open("ab") as file:
        file.write(b'{"prev')
    assert ledger_report(PATH) == spec.report(steps=8)
    assert ledger_report(PATH).epsilon_zero_out > spec.epsilon("zero_out")
    with PrivacyLedger.resume(PATH, spec, **DATA) as ledger, pytest.raises(PrivacyError, match="are charged"):
        ledger.charge()
    assert read_ledger(PATH).charged == 8


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_header_is_never_torn(length, lines):
    PATH.write_bytes(lines[0][:length])
    with pytest.raises(LedgerTampered, match="line 1, "):
        read_ledger(PATH)


@pytest.mark.parametrize("content", [b"\n", b"{}\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n", b'{"previous":"\n'])
def test_what_is_no_ledger_is_refused_in_one_sentence(content):
    PATH.write_bytes(content)
    with pytest.raises(LedgerTampered, match="line 1, "):
        read_ledger(PATH)


def rewritten(lines, **changes):
    """The ledger with another header, and the chain made anew."""
    previous, header = ROOT_HASH, dict(parse(b"".join(lines)).header)
    line, _ = encode(previous, {**header, **changes})
    return line


def test_a_future_format_is_refused_by_its_number(lines):
    PATH.write_bytes(rewritten(lines, format=2, pvision="9.0"))
    with pytest.raises(PrivacyError, match=r"format 2, written by pvision 9\.0"):
        read_ledger(PATH)


def test_a_statement_in_words_of_another_version_is_refused_by_the_word(lines):
    spec = dict(parse(b"".join(lines)).header["spec"], quantum=True)
    PATH.write_bytes(rewritten(lines, spec=spec, pvision="9.0"))
    with pytest.raises(PrivacyError, match=r"pvision 9\.0.*quantum"):
        read_ledger(PATH)


def test_a_field_that_came_later_has_its_default(lines):
    spec = dict(parse(b"".join(lines)).header["spec"])
    del spec["noise_seed"]
    assert parse(rewritten(lines, spec=spec)).spec.noise_seed is None


def test_reading_changes_nothing_needs_no_lock_and_works_on_a_copy(lines, spec):
    folder = Path("copy")
    folder.mkdir()
    copied = folder / "anything.txt"
    with PrivacyLedger.resume(PATH, spec, **DATA) as ledger:
        ledger.charge()
        copied.write_bytes(PATH.read_bytes())
        os.chmod(copied, 0o400)  # noqa: PTH101  # the mode of the bits, not of the path object
        os.chmod(folder, 0o500)  # noqa: PTH101
        before = copied.read_bytes()
        assert read_ledger(copied) == read_ledger(PATH)
        assert ledger_report(copied) == ledger_report(PATH) == spec.report(steps=9 + BLOCK)
    os.chmod(folder, 0o700)  # noqa: PTH101
    assert copied.read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["anything.txt"]


def test_no_ledger_is_one_sentence():
    with pytest.raises(PrivacyError, match="no privacy ledger to read at nowhere"):
        read_ledger("nowhere.jsonl")


def test_epsilon_never_falls_as_the_ledger_grows(lines, spec):
    charged = [parse(b"".join(lines[:count])).charged for count in range(1, 9)]
    assert charged == [0, 0, 5, 3, 3, 8, 13, 9]
    assert ledger_report(PATH) == spec.report(steps=9)


@pytest.mark.parametrize("torn", [False, True])
def test_the_page_verifies_a_ledger_in_plain_python(torn, lines, spec, capsys):
    if torn:
        PATH.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
        PrivacyLedger.resume(PATH, spec, **DATA).close()
        PATH.write_bytes(PATH.read_bytes() + b'{"previous":"')
    [snippet] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippet.splitlines()) <= 20
    exec(snippet, {})
    assert str(read_ledger(PATH).charged) in capsys.readouterr().out.split()
    PATH.write_bytes(PATH.read_bytes().replace(b'"steps":5', b'"steps":4', 1))
    with pytest.raises((AssertionError, SystemExit, ValueError)):
        exec(snippet, {})
