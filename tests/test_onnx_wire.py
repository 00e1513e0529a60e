"""Large arrays left out of a message: what protobuf makes of the rest, and of bytes that are none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from cnncc.frontend import onnx_wire
from cnncc.frontend.onnx import read
from cnncc.frontend.onnx_file import load
from cnncc.frontend.onnx_wire import LARGE, Skimmed, skim


def model(*sizes: int) -> onnx.ModelProto:
    """Initializers, and a constant, of so many bytes each."""
    rng = np.random.default_rng(0)
    values = [rng.integers(0, 256, n, np.uint8) for n in sizes]
    arrays = [numpy_helper.from_array(v, f"t{i}") for i, v in enumerate(values)]
    names = [t.name for t in arrays] + ["c"]
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(LARGE, "u1")))
    join = helper.make_node("Concat", names, ["y"], axis=0)
    out = helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, [sum(sizes) + LARGE])
    return helper.make_model(helper.make_graph([constant, join], "g", [], [out], arrays))


def whole_again(source: onnx.ModelProto, skimmed: Skimmed) -> onnx.ModelProto:
    for t in source.graph.initializer:
        if t.raw_data in skimmed.arrays:
            t.raw_data = bytes(skimmed.arrays[t.raw_data])
    return source


@pytest.mark.parametrize("sizes", [(), (1, 2), (LARGE - 1, LARGE, 3, 3 * LARGE), (1 << 20,)])
def test_large_arrays_are_left_out(sizes: tuple[int, ...]) -> None:
    source = model(*sizes)
    data = source.SerializeToString()
    skimmed = skim(memoryview(data))
    assert len(skimmed.arrays) == sum(n >= LARGE for n in sizes)
    assert len(skimmed.message) < LARGE * 2 + 400 + sum(n for n in sizes if n < LARGE)
    assert all(np.shares_memory(np.frombuffer(a, "u1"), np.frombuffer(data, "u1"))
               for a in skimmed.arrays.values())
    assert whole_again(onnx.ModelProto.FromString(skimmed.message), skimmed) == source
    file = load(data)
    for t, old in zip(file.proto.graph.initializer, source.graph.initializer, strict=True):
        value = file.array(t)
        np.testing.assert_array_equal(value, numpy_helper.to_array(old))
        assert not value.flags.writeable


@given(st.binary(max_size=60), st.integers(0, 200))
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_no_message(noise: bytes, at: int) -> None:
    """Either nothing is changed or protobuf finds the same in what is."""
    data = model(LARGE, 5).SerializeToString()
    for broken in (noise, data[:at] + noise + data[at:], data[:-at - 1],
                   data[:at] + noise + data[at + len(noise):]):
        skimmed = skim(memoryview(broken))
        if not skimmed.arrays:
            assert skimmed.message == broken
            continue
        def parsed(message: bytes) -> onnx.ModelProto | None:
            try:
                return onnx.ModelProto.FromString(message)
            except Exception:       # of protobuf's implementations
                return None
        back, whole = parsed(skimmed.message), parsed(broken)
        assert (back is None) == (whole is None)
        if back is not None:
            assert whole_again(back, skimmed).graph.initializer == whole.graph.initializer


def test_the_last_of_two_fields_counts() -> None:
    """Parts of a message follow each other, whatever wrote them."""
    field = onnx.TensorProto(raw_data=b"\2" * LARGE).SerializeToString()
    tensor = onnx.TensorProto(dims=[LARGE], data_type=onnx.TensorProto.UINT8, raw_data=b"\1" * LARGE)
    parts = tensor.SerializeToString() + field
    rest = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 13)]).SerializeToString()
    graph = lengthy(5, parts)
    file = load(rest + lengthy(7, graph) + lengthy(7, graph))
    assert len(file.proto.graph.initializer) == 2
    for t in file.proto.graph.initializer:
        np.testing.assert_array_equal(file.array(t), np.full(LARGE, 2, "u1"))


def lengthy(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data) & 127 | 128, len(data) >> 7 & 127 | 128, len(data) >> 14]) + data


def test_messages_of_too_many_parts_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = model(LARGE, LARGE).SerializeToString()
    monkeypatch.setattr(onnx_wire, "MAX_FIELDS", 10)
    assert not skim(memoryview(data)).arrays
    assert read(data).nodes


def test_what_a_caller_changes_later_is_not_read() -> None:
    data = bytearray(model(LARGE).SerializeToString())
    file = load(data)
    value = file.array(file.proto.graph.initializer[0]).copy()
    data[:] = bytes(len(data))
    np.testing.assert_array_equal(file.array(file.proto.graph.initializer[0]), value)
