"""Errors that the user can mend.

Each message names what was wrong, what came, what was expected and the remedy, and stands alone: the command line
prints it without a traceback and leaves with exit code 2.
"""

__all__ = [
    "ConfigError",
    "CorruptVideoError",
    "DataError",
    "LedgerBusy",
    "LedgerMismatch",
    "LedgerTampered",
    "MissingExtraError",
    "PrivacyError",
    "UserError",
]


class UserError(ValueError):
    """Base of all errors whose cause lies in what the user gave."""


class ConfigError(UserError):
    """A setting is wrong, or two settings contradict each other."""


class DataError(UserError):
    """Data is missing, damaged, or not in the layout that was announced."""


class CorruptVideoError(DataError):
    """A video, or its mask, cannot be decoded.

    Args:
        path: the file.
        reason: what the decoder said, in one clause; None if ``path`` is already the whole message.
    """

    def __init__(self, path: object, reason: str | None = None) -> None:
        # Without a reason, `path` is a whole message: so torch makes the error anew that a loader worker raised.
        advice = "Mend or remove the file, or set `on_error: skip` to skip and count such files."
        super().__init__(str(path) if reason is None else f"{path}: {reason}. {advice}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> "tuple[type[CorruptVideoError], tuple[str, str | None]]":
        # Exceptions travel between processes by their arguments.
        return type(self), (self.path, self.reason)


class PrivacyError(UserError):
    """Something would void the privacy guarantee, so it is refused."""


class LedgerTampered(PrivacyError):  # noqa: N818  # the name is what happened, as in docs/ledger.md
    """A privacy ledger was edited, cut or exchanged, so what it says cannot be trusted."""


class LedgerMismatch(PrivacyError):  # noqa: N818  # the name is what happened, as in docs/ledger.md
    """A privacy ledger belongs to another run: another statement, other data, or no file at all."""


class LedgerBusy(PrivacyError):  # noqa: N818  # the name is what happened, as in docs/ledger.md
    """Another writer holds the privacy ledger: two runs that charge one ledger would hide each other's steps."""


class MissingExtraError(UserError, ImportError):
    """An optional package is needed and not installed.

    Args:
        package: the import that failed.
        extra: the extra of pvision that brings it.
        purpose: what needs it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}. Install it with: pip install 'pvision[{extra}]'")
