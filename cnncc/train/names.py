"""Objects that a user may also name: losses, optimizers, schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cnncc.ir.errors import InputError, hint

T = TypeVar("T")


def named(what: str, name: Any, names: Mapping[str, Callable[[], T]]) -> T:
    """What is made by that name; `what` it is, "a loss", is for the InputError for an unknown one."""
    make = names.get(name) if isinstance(name, str) else None
    if make is None:
        said = hint(str(name), names)
        raise InputError(f"{what.partition(' ')[2]}: expected {what} or one of {', '.join(names)}, "
                         f"got {name!r:.60}{said}")
    return make()
