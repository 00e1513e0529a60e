"""What all verbs of the command line share: log level, progress, JSON, and how a failure is told."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from cnncc.version import __version__

OK, WRONG_INPUT, USAGE, OUR_FAULT, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 130, 141
"""Exit codes."""

F = TypeVar("F", bound=Callable[..., Any])
level = {"verbose": 0, "quiet": 0}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def reset() -> None:
    """As before any option; names that the terminal's encoding lacks must be no error."""
    level.update(verbose=0, quiet=0)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def echo(text: str, err: bool = False) -> None:
    """A line on stdout or stderr; what a model's names could do to a terminal is taken out."""
    click.echo(_CONTROL.sub("?", text), err=err)


def _set(ctx: click.Context, param: click.Parameter, value: int) -> None:
    if param.name and value:
        level[param.name] = value


def level_options(f: F) -> F:
    """-v and -q, for the program and every verb."""
    f = click.option("-v", "--verbose", count=True, expose_value=False, callback=_set,
                     help="Say more on stderr (-vv: everything); show tracebacks.")(f)
    return click.option("-q", "--quiet", count=True, expose_value=False, callback=_set,
                        help="No progress and no warnings.")(f)


def start() -> None:
    """Log lines to stderr, as -v, -q or CNNCC_LOG say."""
    import logging

    from cnncc import log
    log.setup("warning" if level["quiet"] else [None, "info", "debug"][min(level["verbose"], 2)])
    if level["quiet"]:
        log.LOGGER.setLevel(logging.ERROR)


def print_json(data: Any) -> None:
    """Dataclasses and arrays as JSON; numbers that JSON has not become null."""
    from dataclasses import asdict, is_dataclass

    def plain(x: Any) -> Any:
        if is_dataclass(x) and not isinstance(x, type):
            return plain(asdict(x))
        if isinstance(x, dict):
            return {str(k): plain(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return [plain(v) for v in x]
        if isinstance(x, float):
            return x if x - x == 0 else None
        if x is None or isinstance(x, str | int):
            return x
        return plain(x.tolist() if hasattr(x, "tolist") else str(x))
    echo(json.dumps(plain(data), indent=2, allow_nan=False))


@contextmanager
def progress() -> Iterator[Callable[[str, float], None] | None]:
    """What to tell progress to: a bar on stderr if that is a terminal."""
    if level["quiet"] or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, fraction: bar.update(task, description=what, completed=fraction)


def tell(data: Any, text: str, as_json: bool) -> None:
    """`data` as JSON, or `text`."""
    if as_json:
        print_json(data)
    else:
        echo(text)


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Errors of the disk in this block are about `path`. Raises InputError."""
    try:
        yield
    except OSError as error:
        from cnncc.ir.errors import InputError
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def piped() -> int:
    """Nobody reads our output: the interpreter must not complain when it flushes that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def failed(error: Exception) -> int:
    """Say what went wrong, in a line."""
    from cnncc.ir.errors import CnnccError, InternalError
    if level["verbose"]:
        import traceback
        traceback.print_exception(error)
    if isinstance(error, OSError) and error.filename is not None:
        echo(f"error: {error.filename}: {error.strerror}", err=True)
        return WRONG_INPUT
    if isinstance(error, OSError | MemoryError | CnnccError) and not isinstance(error, InternalError):
        echo(f"error: {str(error) or 'there is not enough memory'}", err=True)
        return WRONG_INPUT
    what = str(error) if isinstance(error, InternalError) else f"{type(error).__name__}: {error}"
    echo(f"internal error: {what}\nThis is a bug in cnncc {__version__}. "
               + ("Please report it with the text above." if level["verbose"] else
                  "Please report it with the output of the same command with -v."), err=True)
    return OUR_FAULT
