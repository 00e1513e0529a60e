"""An ONNX file as a protobuf message without its weights, and the weights as views of the file's bytes.

The weights are cut out before protobuf sees the message: nothing is copied, and what protobuf allocates is
bounded by the small rest. Model files are hostile: every size is checked before it is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cnncc.frontend.external import Array, External, Opening, expect, read_model
from cnncc.ir.errors import CnnccError, InputError, ModelError
from cnncc.ir.types import product

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

Source: TypeAlias = "str | os.PathLike[str] | bytes | ModelProto"

MAX_ELEMENTS = 1 << 31
MAX_RANK = 8
MAX_PARTS = 1 << 20         # nodes, tensors, ... of one graph
MAX_REST = 64 << 20         # bytes of a file without its weights
DTYPES = {1: ("f32", "<f4", "float_data"), 2: ("u8", "u1", "int32_data"), 3: ("i8", "i1", "int32_data"),
          6: ("i32", "<i4", "int32_data"), 7: ("i64", "<i8", "int64_data"), 9: ("bool", "u1", "int32_data"),
          10: ("f16", "<f2", "int32_data"), 11: ("f64", "<f8", "double_data")}
"""TensorProto.data_type, where constants may have it: our name, NumPy's, the field of data that isn't raw."""
# Where weights are: the messages on the way by field number. A tensor's data is field 4 (floats) or 9 (raw).
INNER = {"model": {7: "graph"}, "graph": {1: "node", 5: "tensor"}, "node": {5: "attribute"},
         "attribute": {5: "tensor"}, "tensor": {}}


def dtype_name(number: int) -> str:
    """How messages call an element type: ours where we have it, else ONNX's."""
    from onnx import TensorProto
    if number in DTYPES:
        return DTYPES[number][0]
    known: dict[int, str] = {n: name for name, n in TensorProto.DataType.items()}
    return known.get(number, f"type {number}").lower()


def absurd(shape: Sequence[int], least: int) -> bool:
    """Whether no tensor can have this shape: too many dimensions or elements, or an extent below `least`."""
    return len(shape) > MAX_RANK or not all(least <= e <= MAX_ELEMENTS for e in shape) \
        or product(shape) > MAX_ELEMENTS


class _Splitter:
    """Cuts large tensor data out of a serialized model; a token that no file can guess stays in its place."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.key = os.urandom(12)
        self.cuts: dict[bytes, memoryview] = {}
        self.parts = 0

    def varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for i in range(at, min(at + 10, end)):
            value |= (self.data[i] & 127) << 7 * (i - at)
            if self.data[i] < 128:
                return value, i + 1
        raise ValueError("it is damaged or cut off")

    def rest(self, kind: str, at: int, end: int) -> list[bytes | memoryview]:
        """The pieces of the message `kind` in data[at:end], its weights replaced."""
        pieces: list[bytes | memoryview] = []
        kept = at
        while at < end:
            head = at
            tag, at = self.varint(at, end)
            number, wire = tag >> 3, tag & 7
            self.parts += 1
            if number == 0 or wire not in (0, 1, 2, 5):
                raise ValueError("it has no protobuf message, or is damaged")
            if self.parts > MAX_PARTS:
                raise ValueError("it has too many parts")
            if wire != 2:
                at = self.varint(at, end)[1] if wire == 0 else at + (8 if wire == 1 else 4)
                continue
            size, body = self.varint(at, end)
            at = body + size
            inner = INNER[kind].get(number)
            if at > end:
                break
            if kind == "tensor" and number in (4, 9) and size >= 64:
                token = self.key + len(self.cuts).to_bytes(4, "little")
                self.cuts[token] = self.data[body:at]
                pieces += [self.data[kept:head], b"\x4a\x10" + token]
                kept = at
            elif inner and size >= 256:
                part = self.rest(inner, body, at)
                length = sum(map(len, part))
                if length != size:
                    pieces += [self.data[kept:head], _varint(number << 3 | 2), _varint(length), *part]
                    kept = at
        if at > end:
            raise ValueError(f"it is damaged or cut off: {at - end:,} bytes are missing")
        return [*pieces, self.data[kept:end]]


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


@dataclass
class OnnxFile:
    """A parsed model; `label` is how messages call it, `size` its bytes without external data."""

    label: str
    size: int
    proto: ModelProto
    external: External
    cuts: dict[bytes, memoryview]

    def describe(self, tensor: TensorProto) -> tuple[np.dtype[Any] | None, tuple[int, ...], str]:
        """(NumPy's type, None for one no constant may have; shape; how messages call it), checked."""
        what = f"{self.label}: tensor {tensor.name[:200]!r}"
        shape = tuple(map(int, tensor.dims[:MAX_RANK + 1]))
        expect(not absurd(shape, 0), f"{what} has the shape {list(shape)}: not a size that a tensor can have")
        expect(not tensor.HasField("segment"), f"{what} is stored in segments, which are not supported")
        known = DTYPES.get(tensor.data_type)
        return np.dtype(known[1]) if known else None, shape, what

    def check(self, tensor: TensorProto) -> None:
        """Raises ModelError where a tensor's shape and the data in the file don't agree."""
        dtype, shape, what = self.describe(tensor)
        if dtype is not None and tensor.data_location != 1:
            raw = self._raw(tensor)
            have = len(getattr(tensor, DTYPES[tensor.data_type][2]) if raw is None else raw)
            unit, need = ("elements", 1) if raw is None else ("bytes", dtype.itemsize)
            need *= product(shape)
            expect(have == need, f"{what} has {have:,} {unit} of data, its shape {list(shape)} of "
                                 f"{dtype_name(tensor.data_type)} needs {need:,}")

    def array(self, tensor: TensorProto) -> Array:
        """A tensor's value, checked; if it is raw a read-only view (maybe unaligned) of the file's bytes."""
        self.check(tensor)
        dtype, shape, what = self.describe(tensor)
        if dtype is None:
            raise ModelError(f"{what} is of type {dtype_name(tensor.data_type)}, which is not supported")
        if tensor.data_location == 1:
            fields: dict[str, str] = {}
            for entry in tensor.external_data:
                expect(entry.key not in fields, f"{what}: its external data gives {entry.key[:40]!r} twice")
                fields[entry.key] = entry.value
            value = self.external.read(fields, product(shape) * dtype.itemsize, what).view(dtype)
        elif (raw := self._raw(tensor)) is not None:
            value = np.frombuffer(raw, dtype) if len(raw) else np.empty(0, dtype)
        else:       # halves are given by their bits
            numbers, half = getattr(tensor, DTYPES[tensor.data_type][2]), tensor.data_type == 10
            value = _exact(numbers, np.dtype(np.uint16) if half else dtype, what).view(dtype)
        value = (value != 0 if tensor.data_type == 9 else value).reshape(shape)
        value.flags.writeable = False
        return value

    def _raw(self, tensor: TensorProto) -> bytes | memoryview | None:
        return self.cuts.get(tensor.raw_data, tensor.raw_data) if tensor.HasField("raw_data") else None

    def tensors(self) -> Iterator[TensorProto]:
        """The initializers and the tensors in Constant nodes."""
        yield from self.proto.graph.initializer
        for node in self.proto.graph.node:
            if node.op_type == "Constant":
                yield from (a.t for a in node.attribute if a.HasField("t"))


def _texts(proto: ModelProto) -> Iterator[str]:
    """All names in a model that are ever used. (Protobuf gives bytes for what is no valid text.)"""
    g = proto.graph
    tensors = [*g.initializer, *(s.values for s in g.sparse_initializer)]
    yield from (g.name, proto.producer_name, proto.producer_version, *(o.domain for o in proto.opset_import))
    for v in (*g.input, *g.output, *g.value_info):
        yield from (v.name, *(d.dim_param for d in v.type.tensor_type.shape.dim))
    for n in g.node:
        yield from (n.name, n.op_type, n.domain, *n.input, *n.output)
        yield from (text for a in n.attribute for text in (a.name, a.ref_attr_name))
        tensors += (a.t for a in n.attribute)
    for t in tensors:
        yield from (t.name, *(text for e in t.external_data for text in (e.key, e.value)))


def _exact(values: Any, dtype: np.dtype[Any], what: str) -> Array:
    try:
        wide = np.fromiter(values, dtype if dtype.kind == "f" else np.int64, len(values))
    except (ValueError, OverflowError) as error:
        raise ModelError(f"{what}: {error}") from None
    value = wide.astype(dtype, copy=False)
    expect(dtype.kind == "f" or (value == wide).all(), f"{what} has elements that its type can't hold")
    return value


def load(source: Source, folder: str | os.PathLike[str] | None = None, weights: bool = True,
         opening: Opening | None = None) -> OnnxFile:
    """Read a model from a path, from bytes or from a ModelProto; `folder` is where its external data may be.

    Without `weights` the file is only mapped. Raises ModelError where there is no ONNX model, InputError for
    another kind of source.
    """
    from onnx import ModelProto
    label = f"the model ({type(source).__name__})"
    try:        # protobuf's own exceptions differ between its implementations
        if isinstance(source, str | os.PathLike):
            label = os.fsdecode(source)
            folder = Path(label).parent if folder is None else folder
            data = read_model(source, map_only=not weights)
        elif isinstance(source, bytes | bytearray | memoryview | ModelProto):
            data = memoryview(source.SerializeToString() if isinstance(source, ModelProto) else bytes(source))
        else:
            raise InputError(f"a model is a path, bytes or an onnx.ModelProto, not {type(source).__name__}")
        if not data:
            raise ValueError("it is empty")
        splitter = _Splitter(data)
        pieces = splitter.rest("model", 0, len(data))
        if sum(map(len, pieces)) > MAX_REST:
            raise ValueError(f"more than {MAX_REST:,} bytes of it are no weights")
        proto = ModelProto.FromString(b"".join(pieces))
    except CnnccError:
        raise
    except Exception as error:
        limit = " (2 GiB are the limit)" if isinstance(source, ModelProto) else ""
        raise ModelError(f"{label}: can't be read as ONNX{limit}: {error}") from None
    expect(proto.HasField("graph"), f"{label}: this is no ONNX model: it has no graph")
    expect(proto.opset_import, f"{label}: this is no ONNX model: it has no opset")
    expect(all(isinstance(text, str) for text in _texts(proto)),
           f"{label}: the file is damaged: a name in it is no valid text")
    external = External(None if folder is None else Path(folder), not weights, opening)
    return OnnxFile(label, len(data), proto, external, splitter.cuts)
