"""The definitions that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from cnncc.ir.errors import InputError, hint

FOLDER = Path(str(files("cnncc") / "data" / "zoo"))


def names() -> list[str]:
    """What there is."""
    return sorted(f.stem for f in FOLDER.glob("*.yaml"))


def path(name: str) -> Path:
    """The file of a definition. Raises InputError for an unknown name."""
    if name not in names():
        raise InputError(f"there is no definition {name!r}{hint(name, names())} among {', '.join(names())}")
    return FOLDER / f"{name}.yaml"


def about(name: str) -> str:
    """The first line of a definition: what it is."""
    return path(name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def source(model: str) -> str:
    """A path as it is; a plain word that is no file is the name of a definition here. Raises as `path`."""
    return model if Path(model).suffix or Path(model).exists() else str(path(model))
