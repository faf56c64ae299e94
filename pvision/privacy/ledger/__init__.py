"""The privacy ledger: every release is charged, durably, before it happens."""

from pvision.privacy.ledger.lines import LedgerMark
from pvision.privacy.ledger.reading import LedgerRecord, ledger_report, read_ledger
from pvision.privacy.ledger.writer import PrivacyLedger

__all__ = ["LedgerMark", "LedgerRecord", "PrivacyLedger", "ledger_report", "read_ledger"]
