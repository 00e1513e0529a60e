"""The documentation: generated pages are what their generators print, links lead somewhere, snippets run."""

from __future__ import annotations

import logging
import re
import runpy
from pathlib import Path
from typing import Any

import onnx
import pytest
import snippets

from cnncc.frontend import builder, definition, files, onnx_file, onnx_node, onnx_text, weights, yaml_file
from cnncc.runtime import artifact
from cnncc.train import data

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def generator(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / f"{name}.py"), run_name=name)


@pytest.mark.parametrize("name", ["api", "operators"])
def test_generated_pages(name: str) -> None:
    """After a change: python tools/NAME.py --write."""
    page, own = (ROOT / "docs" / f"{name}.md").read_text(), f"opsets 6 to {onnx.defs.onnx_opset_version()} "
    if name == "operators" and own not in page:
        pytest.skip("the page was made with an onnx of other opsets")
    assert page == generator(name)["page"](), f"run tools/{name}.py --write"


def test_every_op_has_a_small_model() -> None:
    page = (ROOT / "docs" / "operators.md").read_text()
    rows = re.findall(r"^\| (\w+) \| ([\d, ]*) \| (.*?) \|", page, re.M)
    assert len(rows) > 100
    missing = [op for op, versions, types in rows if not versions or not types]
    assert not missing, "SAMPLES in tools/operators.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        headings = re.findall(r"^#+ (.*)", file.read_text(), re.M) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]


def test_limits() -> None:
    """SECURITY.md states those of the code."""
    page = (ROOT / "SECURITY.md").read_text()
    for number in (onnx_file.MAX_PARTS, onnx_file.MAX_ELEMENTS, definition.MAX_LAYERS,
                   builder.MAX_PARAMETERS, data.MAX_PIXELS):
        assert f"{number:,}" in page
    for nbytes in (onnx_text.MAX_BYTES, onnx_node.SPARE, yaml_file.MAX_BYTES, artifact.MAX_META,
                   artifact.MAX_OBJECT):
        assert f"{nbytes >> 20:,} MiB" in page
    for nbytes in (files.LIMIT, weights.MAX_BYTES, data.MAX_BYTES):
        assert f"{nbytes >> 30} GiB" in page
    assert f"{onnx_file.MAX_RANK} dimensions" in page


@pytest.mark.parametrize("without", ["", "torch"])
def test_tutorial(without: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, and what is left without PyTorch."""
    if not without:
        pytest.importorskip("torch.onnx")
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    log = logging.getLogger("cnncc")
    try:
        snippets.run(ROOT / "docs" / "tutorial.md", tmp_path, monkeypatch, without, console=True)
    finally:
        log.handlers.clear()    # of a stderr that will be gone
        log.setLevel(logging.NOTSET)


def test_definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets run as they are."""
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    snippets.run(ROOT / "docs" / "definitions.md", tmp_path, monkeypatch)


def test_user_ops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets run as they are."""
    snippets.run(ROOT / "docs" / "user_ops.md", tmp_path, monkeypatch)


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets run as they are."""
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    snippets.run(ROOT / "docs" / "training.md", tmp_path, monkeypatch)
