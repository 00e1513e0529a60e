"""Where the package's log lines go, for the command line; a library user configures `logging` as usual."""

import logging
import os

LOGGER = logging.getLogger("cnncc")
_handlers: list[logging.Handler] = []


def setup(level: str | None = None) -> None:
    """Send log lines of `level` (None: CNNCC_LOG says, else warning) and above to stderr, from now on."""
    word = (os.environ.get("CNNCC_LOG") if level is None else level) or "warning"
    known = word.lower() in ("debug", "info", "warning", "error")
    while _handlers:
        LOGGER.removeHandler(_handlers.pop())
    _handlers.append(logging.StreamHandler())
    _handlers[0].setFormatter(logging.Formatter("%(name)s: %(levelname)s: %(message)s"))
    LOGGER.addHandler(_handlers[0])
    LOGGER.setLevel(word.upper() if known else logging.WARNING)
    if not known:
        LOGGER.warning("CNNCC_LOG=%r: expected debug, info, warning or error", word)
