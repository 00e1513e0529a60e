"""An ONNX file as a protobuf message without its weights, and the weights as views of the file's bytes.

The weights are cut out before protobuf sees the message: nothing is copied, and what protobuf allocates is
bounded by the small rest. Model files are hostile: every size is checked before it is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cnncc.frontend.external import External, read_model
from cnncc.ir.errors import InputError, ModelError
from cnncc.ir.types import product

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

Source: TypeAlias = "str | os.PathLike[str] | bytes | ModelProto"
Array: TypeAlias = np.ndarray[Any, Any]

MAX_ELEMENTS = 1 << 31
MAX_RANK = 8
MAX_PARTS = 1 << 20         # nodes, tensors, ... of one graph
MAX_REST = 64 << 20         # bytes of a file without its weights
DTYPES = {1: ("f32", "<f4"), 2: ("u8", "u1"), 3: ("i8", "i1"), 6: ("i32", "<i4"), 7: ("i64", "<i8"),
          9: ("bool", "u1"), 10: ("f16", "<f2"), 11: ("f64", "<f8")}
"""TensorProto.data_type: our name and NumPy's, of the types that a constant may have."""
TYPED = {1: "float_data", 2: "int32_data", 3: "int32_data", 6: "int32_data", 7: "int64_data", 9: "int32_data",
         11: "double_data"}
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


class _Splitter:
    """Cuts large tensor data out of a serialized model; a token that no file can guess stays in its place."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.key = os.urandom(12)
        self.cuts: list[memoryview] = []
        self.parts = 0

    def varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 64:
            byte = self.data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
            shift += 7
        raise ValueError("it is damaged or cut off")

    def rest(self, kind: str, at: int, end: int) -> list[bytes | memoryview]:
        """The pieces of the message `kind` in data[at:end], its weights replaced."""
        pieces: list[bytes | memoryview] = []
        kept = at
        while at < end:
            self.parts += 1
            head = at
            tag, at = self.varint(at, end)
            number, wire = tag >> 3, tag & 7
            if wire == 2:
                size, body = self.varint(at, end)
                at = body + size
                inner = INNER[kind].get(number)
                if at > end:
                    raise ValueError(f"it is damaged or cut off: {at - end:,} bytes are missing")
                if kind == "tensor" and number in (4, 9) and size >= 64:
                    token = self.key + len(self.cuts).to_bytes(4, "little")
                    self.cuts.append(self.data[body:at])
                    pieces += [self.data[kept:head], b"\x4a\x10" + token]
                    kept = at
                elif inner and size >= 256:
                    part = self.rest(inner, body, at)
                    length = sum(map(len, part))
                    if length != size:
                        pieces += [self.data[kept:head], _varint(number << 3 | 2), _varint(length), *part]
                        kept = at
            elif wire == 0:
                _, at = self.varint(at, end)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise ValueError("it has no protobuf message, or is damaged")
            if number == 0 or self.parts > MAX_PARTS:
                raise ValueError("it has too many parts" if number else "it has no protobuf message")
        if at > end:
            raise ValueError("it is damaged or cut off")
        return [*pieces, self.data[kept:end]]


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


@dataclass
class OnnxFile:
    """A parsed model; `label` is how messages call it, `size` its bytes without external data."""

    label: str
    size: int
    proto: ModelProto
    external: External
    key: bytes
    cuts: list[memoryview]

    def describe(self, tensor: TensorProto) -> tuple[int, int, tuple[int, ...], str]:
        """(data type, bytes of an element or 0, shape, how messages call it) of a tensor, checked."""
        what = f"{self.label}: tensor {tensor.name[:200]!r}"
        shape = tuple(int(d) for d in tensor.dims) if len(tensor.dims) <= MAX_RANK else ()
        if len(tensor.dims) > MAX_RANK:
            raise ModelError(f"{what} has {len(tensor.dims)} dimensions, more than {MAX_RANK}")
        if any(d < 0 or d > MAX_ELEMENTS for d in shape) or product(shape) > MAX_ELEMENTS:
            raise ModelError(f"{what} has the shape {list(shape)}: not a size that a tensor can have")
        itemsize = np.dtype(DTYPES[tensor.data_type][1]).itemsize if tensor.data_type in DTYPES else 0
        if tensor.HasField("segment"):
            raise ModelError(f"{what} is stored in segments, which are not supported")
        return tensor.data_type, itemsize, shape, what

    def check(self, tensor: TensorProto) -> None:
        """Raises ModelError where a tensor's shape and the data in the file don't agree."""
        dtype, itemsize, shape, what = self.describe(tensor)
        if not itemsize or tensor.data_location == 1:
            return
        raw = self._raw(tensor)
        if raw is not None:
            if len(raw) != product(shape) * itemsize:
                raise ModelError(f"{what} has {len(raw):,} bytes of data, its shape {list(shape)} of "
                                 f"{dtype_name(dtype)} needs {product(shape) * itemsize:,}")
        elif (count := len(getattr(tensor, TYPED.get(dtype, "int32_data")))) != product(shape):
            raise ModelError(f"{what} has {count:,} elements of data, its shape {list(shape)} needs "
                             f"{product(shape):,}")

    def array(self, tensor: TensorProto) -> Array:
        """A tensor's value: a read-only view of the file's bytes (not always aligned) where they are raw.

        Raises ModelError where its type, shape or data is wrong.
        """
        self.check(tensor)
        dtype, itemsize, shape, what = self.describe(tensor)
        if not itemsize:
            raise ModelError(f"{what} is of type {dtype_name(dtype)}, which no constant can have here")
        numpy_type = np.dtype(DTYPES[dtype][1])
        if tensor.data_location == 1:
            fields: dict[str, str] = {}
            for entry in tensor.external_data:
                if entry.key in fields:
                    raise ModelError(f"{what}: its external data gives {entry.key[:40]!r} twice")
                fields[entry.key] = entry.value
            value = self.external.read(fields, product(shape) * itemsize, what).view(numpy_type)
        elif (raw := self._raw(tensor)) is not None:
            value = np.frombuffer(raw, numpy_type) if len(raw) else np.empty(0, numpy_type)
        elif dtype == 10:
            value = _exact(tensor.int32_data, np.dtype(np.uint16), what).view(numpy_type)
        else:
            value = _exact(getattr(tensor, TYPED[dtype]), numpy_type, what)
        value = (value != 0 if dtype == 9 else value).reshape(shape)
        value.flags.writeable = False
        return value

    def _raw(self, tensor: TensorProto) -> bytes | memoryview | None:
        if not tensor.HasField("raw_data"):
            return None
        raw = tensor.raw_data
        if len(raw) == 16 and raw.startswith(self.key):
            return self.cuts[int.from_bytes(raw[12:], "little")]
        return raw

    def tensors(self) -> Iterator[TensorProto]:
        """The initializers and the tensors in Constant nodes."""
        yield from self.proto.graph.initializer
        for node in self.proto.graph.node:
            if node.op_type == "Constant":
                yield from (a.t for a in node.attribute if a.HasField("t"))


def _texts(proto: ModelProto) -> Iterator[str]:
    """All names in a model that are ever used. (Protobuf gives bytes for what is no valid text.)"""
    g = proto.graph
    yield from (g.name, proto.producer_name, proto.producer_version, *(o.domain for o in proto.opset_import))
    for v in (*g.input, *g.output, *g.value_info):
        yield from (v.name, *(d.dim_param for d in v.type.tensor_type.shape.dim))
    for t in (*g.initializer, *(s.values for s in g.sparse_initializer)):
        yield from (t.name, *(text for e in t.external_data for text in (e.key, e.value)))
    for n in g.node:
        yield from (n.name, n.op_type, n.domain, *n.input, *n.output)
        for a in n.attribute:
            yield from (a.name, a.ref_attr_name, a.t.name)
            yield from (text for e in a.t.external_data for text in (e.key, e.value))


def _exact(values: Any, dtype: np.dtype[Any], what: str) -> Array:
    try:
        wide = np.fromiter(values, dtype if dtype.kind == "f" else np.int64, len(values))
    except (ValueError, OverflowError) as error:
        raise ModelError(f"{what}: {error}") from None
    value = wide.astype(dtype, copy=False)
    if dtype.kind != "f" and (value != wide).any():
        raise ModelError(f"{what} has elements that its type can't hold")
    return value


def load(source: Source, folder: str | os.PathLike[str] | None = None, weights: bool = True) -> OnnxFile:
    """Read a model from a path, from bytes or from a ModelProto; `folder` is where its external data may be.

    Without `weights` the file is only mapped. Raises ModelError where there is no ONNX model, InputError for
    another kind of source.
    """
    from onnx import ModelProto
    if isinstance(source, str | os.PathLike):
        label = os.fsdecode(source)
        folder = folder if folder is not None else os.path.dirname(label) or "."
        data = read_model(source, map_only=not weights)
    elif isinstance(source, bytes | bytearray | memoryview):
        label, data = "the model (bytes)", memoryview(bytes(source))
    elif isinstance(source, ModelProto):
        label = "the model (ModelProto)"
        try:
            data = memoryview(source.SerializeToString())
        except Exception as error:      # protobuf's own classes differ between its implementations
            raise ModelError(f"{label}: can't serialize it (2 GiB are the limit): {error}") from None
    else:
        raise InputError(f"a model is a path, bytes or an onnx.ModelProto, not {type(source).__name__}")
    if len(data) == 0:
        raise ModelError(f"{label}: it is empty")
    splitter = _Splitter(data)
    try:
        pieces = splitter.rest("model", 0, len(data))
        if sum(map(len, pieces)) > MAX_REST:
            raise ValueError(f"more than {MAX_REST:,} bytes of it are no weights")
        proto = ModelProto.FromString(b"".join(pieces))
    except Exception as error:          # as above
        raise ModelError(f"{label}: can't be read as ONNX: {error}") from None
    if not proto.HasField("graph") or not proto.opset_import:
        missing = "opset" if proto.HasField("graph") else "graph"
        raise ModelError(f"{label}: this is no ONNX model: it has no {missing}")
    if not all(isinstance(text, str) for text in _texts(proto)):
        raise ModelError(f"{label}: the file is damaged: a name in it is no valid text")
    external = External(None if folder is None else Path(folder), map_only=not weights)
    return OnnxFile(label, len(data), proto, external, splitter.key, splitter.cuts)
