"""The helper that runs documentation."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from snippets import run


def test_blocks_share_names_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n```python\na = 1\n```\n```sh\nfalse\n```\n"
                    "```python\nopen('f', 'w').close()\nb = a + 1\n```\n")
    folder = tmp_path / "run"
    folder.mkdir()
    assert run(page, folder, monkeypatch)["b"] == 2
    assert (folder / "f").exists()


def test_an_error_names_the_line_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# title\n\n```python\nx = 1\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as error:
        run(page, tmp_path, monkeypatch)
    assert traceback.extract_tb(error.tb)[-1].lineno == 5


def test_a_page_without_python_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(AssertionError, match="no Python"):
        run(page, tmp_path, monkeypatch)
