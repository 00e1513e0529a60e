"""benchmarks/run.py: networks with the parameters of their papers, tables, measured once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import cnncc
from cnncc.bench.engines import ENGINES
from cnncc.compiler import read, reference
from cnncc.feeds import random_feeds
from cnncc.reference_model import error_of

DIGITS = str(Path(cnncc.__file__).parent / "data" / "digits.onnx")
FOLDER = Path(__file__).parents[1] / "benchmarks"


def python(*args: str) -> str:
    paths = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "CNNCC_CACHE_DIR": ""}
    return subprocess.run([sys.executable, *args], env=environment, check=True, capture_output=True,
                          text=True, timeout=300).stdout


@pytest.mark.parametrize(("name", "parameters", "operations"), [
    ("lenet5", 61_706, 0.83e6), ("squeezenet1_1", 1_235_496, 698e6), ("shufflenetv2", 2_278_604, 290e6),
    ("mobilenetv2", 3_504_872, 602e6), ("regnet_y_400mf", 4_344_144, 804e6),
    ("yolov8n", 3_157_200, 8.7e9)])
def test_networks(name: str, parameters: int, operations: float, tmp_path: Path) -> None:
    """Numbers that the authors of the networks give: what is trained, two operations a multiply-add."""
    python("-c", f"import networks, pathlib; networks.write({name!r}, 2, pathlib.Path({str(tmp_path)!r}))")
    file = tmp_path / f"{name}-2.onnx"
    onnx.checker.check_model(str(file), full_check=True)
    model = onnx.load(file)
    first = {"BatchNormalization": 3, "Resize": 1}       # of the inputs that are not trained
    given = {name for node in model.graph.node for name in node.input[first.get(node.op_type, 99):]}
    trained = [w for w in model.graph.initializer if w.name not in given and
               w.data_type == onnx.TensorProto.FLOAT and w.dims]
    assert sum(int(np.prod(w.dims)) for w in trained) == parameters
    graph = read(str(file))
    products = sum(2 * int(np.prod(n.type.shape)) * int(np.prod(graph[n.inputs[1]].type.shape[1:]))
                   for n in graph if n.op in ("conv", "linear"))
    assert products / 2 == pytest.approx(operations, rel=0.05)


@pytest.mark.parametrize("name", [e for e in ENGINES if e != "torch-compiled"])     # that takes a minute
def test_engines(name: str) -> None:
    engine, expected = ENGINES[name], reference(DIGITS)
    if engine.missing:      # some come with the extra `bench`, some by hand: no failure in CI
        pytest.skip(f"optional, and not here: {', '.join(engine.missing)}")
    feeds = random_feeds(expected.inputs, 2)
    found = engine.prepare(DIGITS, 1, feeds, 1)(feeds)
    assert [error_of(a, b) < 1e-5 for a, b in zip(found, expected.run(None, feeds), strict=True)] == [True]


def test_the_table_and_what_is_known_before(tmp_path: Path) -> None:
    args = (str(FOLDER / "run.py"), "--networks", "lenet5", "--engines", "numpy", "--seconds", "0.01",
            "--out", str(tmp_path))
    assert "| lenet5 |" in python(*args)
    table = (tmp_path / "table.md").read_text()
    assert "batch 1, 1 thread" in table and "Geometric mean" in table
    assert "% roof" in (tmp_path / "layers-lenet5.md").read_text()
    file = tmp_path / "measured" / "lenet5-1-1.json"
    record = json.loads(file.read_text())
    for result, seconds in zip(record["results"], (0.5, 0.75), strict=True):
        result.update(median=seconds, note="")
    file.write_text(json.dumps(record))
    assert "| 500.000 | 750.000 | 1.50 |" in python(*args)          # not measured again
    record["results"][0]["note"] = "disturbed by other load"
    file.write_text(json.dumps(record))
    assert "500.000" not in python(*args)


@pytest.mark.parametrize("option", ["--networks", "--engines"])
def test_unknown_names(option: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        python(str(FOLDER / "run.py"), option, "none")
    assert caught.value.returncode == 2 and "unknown" in caught.value.stderr


def test_starting_and_idling() -> None:
    digits = Path(__file__).parents[1] / "cnncc" / "data" / "digits.onnx"
    [row] = json.loads(python(str(FOLDER / "start.py"), str(digits), "--threads", "1", "--json"))
    assert row["model"] == "digits" and row["compile"] > 0 and row["start"] > 0 and row["memory"] > 0
    assert row["idle"] < 0.5 and row["paced"] > 0
