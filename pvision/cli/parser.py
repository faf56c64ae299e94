"""The parser of the training commands: it raises where others print usage and leave."""

import argparse
from typing import Any, NoReturn, cast

from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

__all__ = ["Parser", "SettingsError"]


class SettingsError(argparse.ArgumentError):
    """A setting was refused.

    Args:
        message: what jsonargparse says.
        parser: the parser that refused it; that of a class knows which arguments the class has.
    """

    def __init__(self, message: str, parser: "Parser") -> None:
        super().__init__(None, message)
        self.parser = parser


class Parser(LightningArgumentParser):
    """Refuse with `SettingsError`; accept no shortened flags, because a misspelt one could pass as one."""

    owner: type | None = None
    """The class whose arguments are parsed; None in the parser of a command."""

    def __init__(self, *args: Any, allow_abbrev: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=allow_abbrev, **kwargs)

    @override
    def add_class_arguments(
        self, theclass: type, nested_key: str | None = None, *args: Any, **kwargs: Any
    ) -> list[str]:
        if nested_key is None:
            self.owner = theclass
        return cast(list[str], super().add_class_arguments(theclass, nested_key, *args, **kwargs))

    @property
    def keys(self) -> list[str]:
        """The dotted names of all settings, in the order of their declaration."""
        flags = [action for action in self._actions if action.option_strings and action.default != argparse.SUPPRESS]
        return [str(action.dest) for action in flags if not str(action.dest).endswith(".help")]

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise SettingsError(message, self) from ex
