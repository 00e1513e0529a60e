"""What is shown on a terminal while training goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Report: TypeAlias = Callable[[str, float], None]
"""Told a line of text, and what part of all steps is done."""


@contextmanager
def display(wanted: bool | None) -> Iterator[Report]:
    """A bar on stderr with the time that is left, by default where that is a terminal."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda text, part: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda text, part: bar.update(task, description=text, completed=part)
