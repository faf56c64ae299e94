"""One guard: a setting, how it is found, why it is refused and what to do instead."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pvision.errors import PrivacyError

__all__ = ["Guard", "refuse"]

Subject = TypeVar("Subject")


@dataclass(frozen=True, kw_only=True)
class Guard(Generic[Subject]):
    """A setting under which the stated ε would not hold.

    Args:
        name: one word by which documentation and tests call it.
        setting: what the user wrote, for the documentation.
        reason: a clause that says why the guarantee does not survive it.
        remedy: a sentence that says what to do instead.
        finds: says what came, as the beginning of a sentence; empty where all is well. Changes nothing.
    """

    name: str
    setting: str
    reason: str
    remedy: str
    finds: Callable[[Subject], str]

    def problem(self, subject: Subject) -> str:
        """Return the refusal as one or two sentences, empty if there is nothing to refuse."""
        came = self.finds(subject)
        return f"{came}, which is refused: {self.reason}. {self.remedy}" if came else ""


def refuse(guards: Iterable[Guard[Subject]], subject: Subject) -> None:
    """Refuse a subject in which any guard finds something.

    Raises:
        PrivacyError: with every problem that was found, not only the first.
    """
    problems = [problem for guard in guards if (problem := guard.problem(subject))]
    if len(problems) == 1:
        raise PrivacyError(problems[0])
    if problems:
        raise PrivacyError("The privacy guarantee would not hold:" + "".join(f"\n- {problem}" for problem in problems))
