"""The exceptions that cnncc raises. Their messages say what, where, why, and what to do."""

import difflib
from collections.abc import Iterable
from typing import Any


def hint(name: str, known: Iterable[str]) -> str:
    """What to add to a message about an unknown name: the nearest of those that are known, if one is near."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (is it {close[0]!r}?)" if close else ""


class CnnccError(Exception):
    """Base of every error that cnncc raises on purpose."""


class ModelError(CnnccError):
    """A model file, definition or graph is wrong."""


class UnsupportedError(ModelError):
    """A model is valid but asks for something that cnncc does not compile.

    `rows` lists every such node as (op, node name, reason); all of them are in the message.
    """

    def __init__(self, message: str, rows: Iterable[tuple[str, str, str]] = ()) -> None:
        self.rows = tuple(rows)
        self.message = message
        lines = [f"\n  {op} {name!r}: {reason}" for op, name, reason in self.rows]
        super().__init__(message + ":" * bool(lines) + "".join(lines))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.rows)


class ArtifactError(ModelError):
    """A `.cnncc` file is damaged, not ours, or made by another version."""


class InputError(CnnccError):
    """An array, argument or environment variable given by the caller is wrong."""


class InternalError(CnnccError):
    """Our own fault: a broken invariant inside cnncc. Please report it."""
