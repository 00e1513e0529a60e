"""ONNX's textual syntax, as `onnx.printer` writes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cnncc.frontend.files import expect
from cnncc.ir.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto

SUFFIXES = (".onnxtxt", ".txt")
MAX_BYTES = 1 << 28
MAX_DEPTH = 64      # of brackets: the parser recurses, and would overflow its stack


def parse(data: bytes, label: str) -> ModelProto:
    """The model that a text describes. Raises ModelError, naming the line where the syntax is wrong."""
    from onnx import parser
    expect(len(data) <= MAX_BYTES, f"{label}: {len(data):,} bytes are too many for a text")
    try:
        text, depth = data.decode(), 0
        for token in re.finditer(r'"(?:[^"\\]|\\.)*"|#[^\n]*|[(){}]', text, re.S):
            depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(token[0], 0)
            expect(depth <= MAX_DEPTH, f"{label}: its brackets are nested too deep")
        return parser.parse_model(text)
    except ModelError:
        raise
    except Exception as error:
        message = error.args[0] if error.args and isinstance(error.args[0], bytes) else str(error).encode()
        lines = message.decode(errors="replace").splitlines() or [type(error).__name__]
        place = re.search(r"line: (\d+) column: (\d+)", lines[0])
        where = f", line {place[1]}, column {place[2]}" if place else ""
        raise ModelError(f"{label}{where}: can't be read as ONNX text: {lines[-1][:200]}") from None
