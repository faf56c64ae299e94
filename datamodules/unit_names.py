"""Which clips are protected together: those of one video, or of one person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pvision.checks import one_of
from pvision.errors import DataError, PrivacyError
from pvision.privacy.spec import UNITS

__all__ = ["UnitNames"]

_REMEDY = (
    "Say it (`videos=` and `subjects=` of TensorRecords, columns `video` and `subject` in the CSV of a VideoFolder), "
    "or choose a smaller unit, which protects less."
)


@dataclass(frozen=True)
class UnitNames:
    """The video and the subject of each record, as far as the data tells.

    Args:
        videos: for each record, the recording that it was cut from, None where nobody knows; None if the data does not
            say.
        subjects: for each record, the person to be seen, likewise.
        remedies: for a unit that this data cannot tell, why that is, and what to do.

    Raises:
        DataError: if there are not as many videos as subjects.
    """

    videos: Sequence[str | None] | None = None
    subjects: Sequence[str | None] | None = None
    remedies: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.videos is not None and self.subjects is not None and len(self.videos) != len(self.subjects):
            raise DataError(
                "videos and subjects must hold one name for each record, but "
                f"{len(self.videos)} and {len(self.subjects)} came."
            )

    def of(self, unit: str, clips: Sequence[str]) -> list[str]:
        """Return the name of each record's unit; records of one unit have one name.

        Args:
            unit: ``"clip"``, ``"video"`` or ``"subject"``.
            clips: the records' own names.

        Raises:
            ConfigError: if there is no such unit.
            DataError: if there are not as many names as clips, or two clips have one name.
            PrivacyError: if the data cannot tell, for one record or for all. A guess would void the guarantee.
        """
        if one_of("privacy.unit", unit, UNITS) == "clip":
            _refuse_shared_names(clips)
            return list(clips)
        names = self.videos if unit == "video" else self.subjects
        remedy = self.remedies.get(unit, _REMEDY)
        if names is None:
            raise PrivacyError(f"privacy.unit is {unit!r}, but the data does not tell the {unit} of a clip. {remedy}")
        if len(names) != len(clips):
            raise DataError(f"{unit}s must hold one name for each of {len(clips)} records, but {len(names)} came.")
        unknown = [clip for clip, name in zip(clips, names, strict=True) if not name]
        if unknown:
            raise PrivacyError(
                f"privacy.unit is {unit!r}, but the {unit} of {len(unknown)} of {len(clips)} clips is unknown, first "
                f"of {unknown[0]!r}. {remedy}"
            )
        return [name for name in names if name]


def _refuse_shared_names(clips: Sequence[str]) -> None:
    if len(set(clips)) < len(clips):
        twice = next(name for name in clips if clips.count(name) > 1)
        raise DataError(
            f"Two clips are named {twice!r}, so they cannot be told apart. Give each clip a name of its own."
        )
