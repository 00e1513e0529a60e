"""The documentation's snippets run as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from snippets import run

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("page", ["user_ops.md"])
def test_snippets(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(DOCS / page, tmp_path, monkeypatch)
