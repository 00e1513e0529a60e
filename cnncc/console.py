"""What verbs of the command line share: -v, -q, --json, options, the log, progress, results, failures."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from cnncc.version import __version__

OK, WRONG_INPUT, USAGE, OUR_FAULT, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 130, 141
"""Exit codes."""

_given = {"verbose": 0, "quiet": 0, "json": 0}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _noted(*names: str, **attributes: Any) -> Any:
    """An option that no verb gets as an argument: it is noted here."""
    def note(ctx: click.Context, param: click.Parameter, value: int) -> None:
        if value and param.name:
            _given[param.name] = value
    return click.option(*names, expose_value=False, callback=note, show_default=False, **attributes)


def level_options(f: Any) -> Any:
    """-v and -q, for the program and every verb."""
    f = _noted("-v", "--verbose", count=True, help="Say more on stderr (-vv: all); show tracebacks.")(f)
    return _noted("-q", "--quiet", count=True, help="No progress and no warnings.")(f)


class Verbs(click.Group):
    """The program: its verbs, listed as they were defined."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:     # before click makes an exit code of its own of it
            raise click.exceptions.Exit(BROKEN_PIPE) from None

    def verb(self, *options: Any, results: bool = True) -> Callable[[Any], click.Command]:
        """A verb with these options, those of all verbs and, unless told otherwise, --json."""
        json_option = [_noted("--json", is_flag=True, help="Print JSON.")] if results else []

        def decorate(f: Any) -> Any:
            @functools.wraps(f)
            def run(*args: Any, **kwargs: Any) -> Any:
                levels = ["", "info", "debug"]
                set_log("error" if _given["quiet"] else levels[min(_given["verbose"], 2)])
                return f(*args, **kwargs)
            decorators = [level_options, *json_option, *reversed(options), self.command()]
            return functools.reduce(lambda made, add: add(made), decorators, run)
        return decorate

    def run(self, args: Sequence[str] | None = None) -> int:
        """Run the command line (None: that of the process); returns the exit code."""
        _given.update(verbose=0, quiet=0, json=0)
        for stream in (sys.stdout, sys.stderr):     # names that the terminal's encoding lacks are no error
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            code = self.main(list(args) if args is not None else None, "cnncc", standalone_mode=False)
            sys.stdout.flush()
            return code if isinstance(code, int) else OK
        except click.ClickException as error:
            error.show()
            return USAGE
        except (click.Abort, KeyboardInterrupt):
            return INTERRUPTED
        except BrokenPipeError:     # the interpreter must not complain when it flushes
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        except Exception as error:
            return _failed(error)


# ---- options that verbs share


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        numbers = tuple(map(int if param.name == "threads" else float, value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected numbers with commas", ctx, param) from None
    if param.name in ("scale", "std") and not all(numbers):
        raise click.BadParameter("must not be 0", ctx, param)
    return numbers


numbers_option = functools.partial(click.option, callback=_numbers, metavar="N[,N...]")
threads_option: Any = click.option("--threads", type=int,
                                   help="Threads to run with (default: the CPUs we may use).")
image_options = (                                                   # fields of `Preprocess`
    click.option("--layout", "to", type=click.Choice(["nchw", "nhwc"]), default="nchw",
                 help="Order of an image input's axes."),
    numbers_option("--scale", default=str(1 / 255), show_default="1/255", help="Factor on pixels."),
    numbers_option("--mean", default="0", help="Then subtracted: one number or one a channel."),
    numbers_option("--std", default="1", help="Divided by: one number or one a channel."),
    click.option("--swap", is_flag=True, help="Channels in reverse order: BGR."))


# ---- what they print


def set_log(level: str = "") -> None:
    """Send log lines of `level` (else of CNNCC_LOG, else warning) and above to stderr, from now on."""
    import logging
    logger, handler = logging.getLogger("cnncc"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(levelname)s: %(message)s"))
    logger.handlers[:] = [handler]
    word = level or os.environ.get("CNNCC_LOG") or "warning"
    known = word.lower() in ("debug", "info", "warning", "error")
    logger.setLevel(word.upper() if known else "WARNING")
    if not known:
        logger.warning("CNNCC_LOG=%r: expected debug, info, warning or error", word)


def quiet() -> bool:
    """Whether no progress is wanted."""
    return bool(_given["quiet"])


def echo(text: str, err: bool = False) -> None:
    """A line on stdout or stderr; what a model's names could do to a terminal is taken out."""
    click.echo(_CONTROL.sub("?", text), err=err)


def tell(data: Any, text: str, good: bool = True) -> None:
    """Print a verb's result: `data` with --json, else `text`. Where it isn't `good` the exit code is 1."""
    if _given["json"]:      # NaN and infinity, which JSON hasn't got, become null
        plain = json.loads(json.dumps(data, default=_plain), parse_constant=lambda _: None)
        text = json.dumps(plain, indent=2)
    echo(text)
    if not good:
        raise click.exceptions.Exit(WRONG_INPUT)


def _plain(x: Any) -> Any:
    """Dataclasses, arrays and NumPy's numbers as JSON has them; whatever else as text."""
    if fields := getattr(x, "__dataclass_fields__", None):
        return {name: getattr(x, name) for name in fields}
    return x.tolist() if hasattr(x, "tolist") else str(x)


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """What to tell progress to: a bar on stderr if that is a terminal."""
    if _given["quiet"] or not sys.stderr.isatty():
        yield lambda what, fraction: None
        return
    from rich.console import Console
    from rich.progress import Progress
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, fraction: bar.update(task, description=what, completed=fraction)


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Errors of the disk in this block are about `path`. Raises InputError."""
    try:
        yield
    except OSError as error:
        from cnncc.ir.errors import InputError
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _failed(error: Exception) -> int:
    """Say what went wrong, in a line."""
    from cnncc.ir.errors import CnnccError, InternalError
    if _given["verbose"]:
        import traceback
        traceback.print_exception(error)
    what = str(error) or "there is not enough memory"
    if isinstance(error, OSError) and error.filename is not None:
        what = f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError | MemoryError | CnnccError) and not isinstance(error, InternalError):
        echo(f"error: {what}", err=True)
        return WRONG_INPUT
    kind = "" if isinstance(error, InternalError) else f"{type(error).__name__}: "
    how = "text above" if _given["verbose"] else "output of the same command with -v"
    echo(f"internal error: {kind}{error}\n"
         f"This is a bug in cnncc {__version__}. Please report it with the {how}.", err=True)
    return OUR_FAULT
