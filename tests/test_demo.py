"""`cnncc demo` says what it should, and notices a wrong result."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cnncc import InternalError
from cnncc.demo import demo
from cnncc.runtime.model import CompiledModel


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timeit.Timer.autorange", lambda timer: (1, timer.timeit(1)))


def test_demo() -> None:
    lines = list(demo(threads=1))
    text = "\n".join(lines)
    assert len(lines) <= 45 and all(len(line) <= 130 for line in lines)
    accuracy = re.search(r"Accuracy on 359 held-out digits: ([0-9.]+)%", text)
    assert accuracy and float(accuracy[1]) > 95
    for words in ("3 batch_norm", "conv+add+relu", "softmax1", "agree with the NumPy reference",
                  "Speed", "cnncc run model.onnx"):
        assert words in text
    assert "##" in text


def test_demo_notices_wrong_results(monkeypatch: pytest.MonkeyPatch) -> None:
    call = CompiledModel.__call__
    monkeypatch.setattr(CompiledModel, "__call__", lambda *args: call(*args) * np.float32(1.0001))
    with pytest.raises(InternalError, match="differ"):
        list(demo(threads=1))
