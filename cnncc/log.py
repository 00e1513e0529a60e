"""Where the package's log lines go, for the command line; a library user configures `logging` as usual."""

import logging
import os

LOGGER = logging.getLogger("cnncc")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_handlers: list[logging.Handler] = []


def setup(level: str | None = None) -> None:
    """Send log lines of `level` and above (debug, info, warning, error) to stderr.

    `level` defaults to the variable CNNCC_LOG, that to warning; another word is reported and means
    warning. May be called again.
    """
    word = (os.environ.get("CNNCC_LOG") if level is None else level) or "warning"
    while _handlers:
        LOGGER.removeHandler(_handlers.pop())
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(levelname)s: %(message)s"))
    _handlers.append(handler)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(_LEVELS.get(word.lower(), logging.WARNING))
    if word.lower() not in _LEVELS:
        LOGGER.warning("CNNCC_LOG=%r: expected debug, info, warning or error", word)
