"""YAML text as plain values that know their lines. There are no aliases, tags or surprising types in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cnncc.frontend.files import expect, opened
from cnncc.ir.errors import ModelError

MAX_BYTES, MAX_DEPTH = 1 << 20, 16
NUMBER = r"[-+]?(\d{1,18}|(\d+\.\d*|\.\d+|\d+(?=e))(e[-+]?\d+)?|\.inf)"
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of the file: None, a bool, int, float, str, list of entries or dict of them by their keys."""

    value: Any
    line: int


@contextmanager
def at(line: int) -> Iterator[None]:
    """A ModelError raised in this block is about that line."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"line {line}: {error}") from None


def read(path: str | os.PathLike[str]) -> Entry:
    """What a file holds. Raises ModelError, naming the file and the line."""
    label = os.fsdecode(path)
    with opened(label, label) as (file, size):
        expect(size <= MAX_BYTES, f"{label}: {size:,} bytes are too many for a definition (1 MiB)")
        data = file.readall()
    try:
        return parse(data.decode())
    except UnicodeDecodeError as error:
        raise ModelError(f"{label}, line {data[:error.start].count(10) + 1}: this is no UTF-8 text") from None
    except ModelError as error:
        raise ModelError(f"{label}, {error}") from None


def parse(text: str) -> Entry:
    """What a YAML text holds. Raises ModelError, naming the line, for all that is not plain data."""
    import yaml
    open_at: list[int] = []
    items: list[list[Entry]] = [[]]
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            with at(line := event.start_mark.line + 1):
                expect(not isinstance(event, yaml.AliasEvent), "aliases are not supported: write a block")
                expect(getattr(event, "tag", None) is None, "tags are not supported")
                expect(len(items) <= MAX_DEPTH, "nested too deep")
                expect(not (items[0] and isinstance(event, yaml.DocumentStartEvent)), "a second document")
            if isinstance(event, yaml.ScalarEvent):
                items[-1].append(Entry(event.value if event.style else _plain(event.value), line))
            elif isinstance(event, yaml.CollectionStartEvent):
                open_at.append(line)
                items.append([])
            elif isinstance(event, yaml.CollectionEndEvent):
                found = items.pop()
                value = _mapping(found) if isinstance(event, yaml.MappingEndEvent) else found
                items[-1].append(Entry(value, open_at.pop()))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise ModelError(f"line {line}: this is no YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ModelError(f"line 1: this is no YAML: {str(error).splitlines()[0]}") from None
    return items[0][0] if items[0] else Entry(None, 1)


def _plain(text: str) -> Any:
    """The value of a scalar without quotes."""
    low = text.lower()
    if low in WORDS:
        return WORDS[low]
    if not re.fullmatch(NUMBER, low):
        return text
    return int(low) if re.fullmatch(r"[-+]?\d+", low) else float(low.replace(".inf", "inf"))


def _mapping(items: list[Entry]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for key, value in zip(items[::2], items[1::2], strict=True):
        with at(key.line):
            expect(isinstance(key.value, str), f"a key must be a name, not {key.value!r:.60}")
            expect(key.value not in found, f"the key {key.value!r:.60} is given twice")
        found[key.value] = value
    return found
