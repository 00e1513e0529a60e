"""For checkers that call FUNCTION(path) and then `run(feeds)`: `check_adapter.py:load`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import cnncc


class Checked:
    """A compiled model that takes and gives arrays by name; open sizes are those of the arrays."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.model = cnncc.compile(path, cache=False)
        self.names = [v.name for v in self.model.outputs]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(self.names, self.model.run(None, feeds), strict=True))


load = Checked
