"""An ONNX file as a protobuf message, and its tensors as arrays; sizes are checked before use.

Only plain files are read, and beside the model only those inside of its folder.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cnncc.frontend import foreign, onnx_text, onnx_wire
from cnncc.frontend.files import LIMIT, Opening, expect, inside, opened
from cnncc.ir.errors import InputError, ModelError
from cnncc.ir.signature import Array
from cnncc.ir.types import HALVES, product

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

Source: TypeAlias = "str | os.PathLike[str] | bytes | ModelProto"
MAX_ELEMENTS = 1 << 31
MAX_RANK = 8
MAX_PARTS = 1 << 20         # nodes, tensors, ... of one graph
KNOWN = (*range(1, 8), *range(9, 14), *range(16, 27))   # TensorProto.data_type: no texts, complex numbers
NARROW = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2}
"""Of the types that share bytes how many bits an element has, the first of a byte in its lowest."""
DTYPES = {1: "f32", 2: "u8", 3: "i8", 4: "u16", 5: "i16", 6: "i32", 7: "i64", 9: "bool", 10: "f16", 11: "f64",
          12: "u32", 13: "u64", 16: "bf16"}
"""By our names."""


def dtype_name(number: int) -> str:
    """How messages call an element type: ours where we have it, else ONNX's."""
    from onnx import TensorProto
    names = (name.lower() for name, n in TensorProto.DataType.items() if n == number)
    return DTYPES.get(number) or next(names, f"type {number}")


def absurd(shape: Sequence[int], least: int) -> bool:
    """Whether no tensor can have this shape: too many dimensions or elements, or an extent below `least`."""
    return len(shape) > MAX_RANK or not all(least <= e <= MAX_ELEMENTS for e in shape) \
        or product(shape) > MAX_ELEMENTS


@dataclass
class OnnxFile:
    """A parsed model; `label` is how messages call it, `size` the bytes of arrays made of its own tensors.

    Where a tensor's `raw_data` is a name in `large` its data is there. Of files in `folder` slices are read,
    each once, that must not overlap; `taken` is their bytes by file.
    """

    label: str
    proto: ModelProto
    large: Mapping[bytes, memoryview]
    folder: Path | None
    opening: Opening | None
    size: int = 0
    slices: dict[tuple[Path, int, int], Array] = field(default_factory=dict)
    taken: Counter[Path] = field(default_factory=Counter)

    @property
    def opset(self) -> int:
        """The version of the default domain's ops, 0 where the file imports only others."""
        return max((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), default=0)

    @property
    def halves(self) -> bool:
        """Whether a value of the model may be of a type of 16 bits, which is computed with as float32."""
        numbers = {number for number, name in DTYPES.items() if name in HALVES}
        graph = self.proto.graph
        nodes = itertools.chain(graph.node, *(f.node for f in self.proto.functions))
        return not numbers.isdisjoint(itertools.chain(
            (v.type.tensor_type.elem_type for v in graph.input), (t.data_type for t in graph.initializer),
            (number for n in nodes for a in n.attribute for number in (a.i, a.t.data_type))))

    def describe(self, tensor: TensorProto) -> tuple[np.dtype[Any] | None, tuple[int, ...], str]:
        """(NumPy's type, None for one no constant may have; shape; how messages call it), checked."""
        from onnx import helper
        what = f"{self.label}: tensor {tensor.name[:200]!r}"
        shape = tuple(tensor.dims[:MAX_RANK + 1])
        expect(not absurd(shape, 0), f"{what} has the shape {list(shape)}: not a size that a tensor can have")
        expect(not tensor.HasField("segment"), f"{what} is stored in segments, which are not supported")
        known = tensor.data_type in KNOWN
        return helper.tensor_dtype_to_np_dtype(tensor.data_type) if known else None, shape, what

    def array(self, tensor: TensorProto) -> Array:
        """A tensor's value, checked and read-only: of the types of less than 16 bits that NumPy lacks, which
        nothing is computed in, as float32, int8 or uint8.
        """
        from onnx import helper
        dtype, shape, what = self.describe(tensor)
        if dtype is None:
            raise ModelError(f"{what} is of type {dtype_name(tensor.data_type)}, which is not supported")
        bits = NARROW.get(tensor.data_type, 8 * dtype.itemsize)
        need = -(-product(shape) * bits // 8)
        if tensor.data_location == 1:
            data = self._external(tensor, need, what)
        elif tensor.HasField("raw_data"):
            data = np.frombuffer(self.large.get(raw := tensor.raw_data, raw), np.uint8)
        else:       # halves are given by their bits
            numbers = getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))
            try:
                held = "u2" if DTYPES.get(tensor.data_type) in HALVES else \
                    dtype if tensor.data_type in DTYPES else "u1"
                data = np.fromiter(numbers, held, len(numbers)).view(np.uint8)
            except OverflowError as error:
                raise ModelError(f"{what}: {error}") from None
        if tensor.data_location != 1:
            self.size += data.nbytes
        expect(data.nbytes == need, f"{what} has {data.nbytes:,} bytes of data, its shape {list(shape)} of "
                                    f"{dtype_name(tensor.data_type)} needs {need:,}")
        if bits < 8:
            places = np.arange(0, 8, bits, dtype=np.uint8)
            data = (data[:, None] >> places & (1 << bits) - 1).reshape(-1)[:product(shape)]
        value: Array = (data != 0 if dtype == np.bool_ else data.view(dtype)).reshape(shape)
        if tensor.data_type not in DTYPES:
            value = _widened(value, tensor.data_type)
        value.flags.writeable = False
        return value

    def _external(self, tensor: TensorProto, size: int, what: str) -> Array:
        """`size` bytes from the place that a tensor's `external_data` entries give, as uint8."""
        fields: dict[str, str] = {}
        for entry in tensor.external_data:
            expect(entry.key not in fields, f"{what}: its external data gives {entry.key[:40]!r} twice")
            fields[entry.key] = entry.value
        location = fields.get("location", "")
        if self.folder is None:
            raise ModelError(f"{what}: its data is in another file, {location[:200]!r}; give the model's "
                             "path, or the folder that holds it")
        path = inside(self.folder, location, what)
        for text in (texts := [fields.get("offset", "0"), fields.get("length", str(size))]):
            expect(text.isascii() and text.isdigit() and len(text) < 19,
                   f"{what}: the place of its external data is {text[:40]!r}, no number of bytes")
        offset, length = map(int, texts)
        expect(length == size, f"{what}: its external data has {length:,} bytes, its shape needs {size:,}")
        if self.opening is not None:
            self.opening(location, path)
        if (path, offset, size) not in self.slices:
            name = repr(path.name[:200])
            with opened(path, f"{what}: its data file {name}", beside=True) as (file, total):
                expect(offset + size <= total, f"{what}: its data ends at byte {offset + size:,} of {name}, "
                                               f"which has {total:,} bytes")
                self.taken[path] += size
                expect(self.taken[path] <= total, f"{what}: its data overlaps other tensors' in {name}")
                data = self.slices[path, offset, size] = np.fromfile(file, np.uint8, size, offset=offset)
                expect(data.size == size, f"{what}: its data file {name} ended while it was read")
        return self.slices[path, offset, size]


def _graphs(proto: ModelProto) -> Iterator[GraphProto]:
    """The model's graph and all those in attributes of nodes. (Protobuf nests no more than 100 messages.)"""
    from onnx import GraphProto
    stack: list[Any] = [proto.graph, *proto.functions]
    while stack:
        part = stack.pop()
        if isinstance(part, GraphProto):
            yield part
        for a in (a for n in part.node for a in n.attribute):
            stack += (a.g, *a.graphs) if a.HasField("g") else a.graphs


def defined_names(proto: ModelProto) -> Iterator[str]:
    """The names that values have in a model, in its functions and in all graphs."""
    for g in _graphs(proto):
        yield from (v.name for v in (*g.input, *g.initializer))
        yield from (name for n in g.node for name in n.output)
    for f in proto.functions:
        yield from (*f.input, *(name for n in f.node for name in n.output))


def _texts(proto: ModelProto) -> Iterator[str]:
    """All names in a model that are ever used. (Protobuf gives bytes for what is no valid text.)"""
    graphs = list(_graphs(proto))
    nodes = [n for part in (*graphs, *proto.functions) for n in part.node]
    attributes = [a for n in nodes for a in n.attribute]
    yield from (o.domain for part in (proto, *proto.functions) for o in part.opset_import)
    for f in proto.functions:
        yield from (f.name, f.domain, f.overload, *f.input, *f.output, *f.attribute,
                    *(a.name for a in f.attribute_proto))
        attributes += f.attribute_proto
    yield from (text for a in attributes for text in (a.name, a.ref_attr_name))
    for n in nodes:
        yield from (n.name, n.op_type, n.domain, n.overload, *n.input, *n.output)
    tensors = [a.t for a in attributes]
    for g in graphs:
        yield g.name
        for v in (*g.input, *g.output):
            yield from (v.name, *(d.dim_param for d in v.type.tensor_type.shape.dim))
        tensors += (*g.initializer, *(s.values for s in g.sparse_initializer))
    for t in tensors:
        yield from (t.name, *(text for e in t.external_data for text in (e.key, e.value)))


def load(source: Source, folder: str | os.PathLike[str] | None = None,
         opening: Opening | None = None) -> OnnxFile:
    """Read a model from a path, from bytes or from a ModelProto; `folder` is where its external data may be.

    Raises ModelError where there is no ONNX model, InputError for another kind of source.
    """
    from onnx import ModelProto
    label, data = f"the model ({type(source).__name__})", memoryview(b"")
    large: Mapping[bytes, memoryview] = {}
    if isinstance(source, ModelProto):
        proto = source
    else:
        if isinstance(source, str | os.PathLike):
            label = os.fsdecode(source)
            folder = Path(label).parent if folder is None else folder
            data = _contents(label)
        elif isinstance(source, bytes | bytearray | memoryview):
            data = memoryview(bytes(source))
        else:
            raise InputError("a model is a path, bytes or an onnx.ModelProto (or a cnncc.Graph), not "
                             f"{type(source).__name__}{foreign.advice_on(source)}")
        expect(data, f"{label}: can't be read as ONNX: it is empty")
        try:        # protobuf's own exceptions differ between its implementations
            if label.lower().endswith(onnx_text.SUFFIXES):
                proto = onnx_text.parse(bytes(data), label)
            else:
                skimmed = onnx_wire.skim(data)
                proto, large = ModelProto.FromString(skimmed.message), skimmed.arrays
        except ModelError:
            raise
        except Exception as error:
            reason = foreign.advice(label, data).removeprefix(": ") or error
            raise ModelError(f"{label}: can't be read as ONNX: {reason}") from None
    parts = sum(map(len, (part for g in _graphs(proto) for part in (
        g.node, g.initializer, g.sparse_initializer, g.input, g.output, g.value_info))))
    parts += sum(len(f.node) for f in proto.functions)
    expect(parts <= MAX_PARTS, f"{label}: its graph has too many parts")
    if lacks := "graph" * (not proto.HasField("graph")) or "opset" * (not proto.opset_import):
        raise ModelError(f"{label}: this is no ONNX model: it has no {lacks}{foreign.advice(label, data)}")
    expect(all(isinstance(text, str) for text in _texts(proto)),
           f"{label}: the file is damaged: a name in it is no valid text")
    return OnnxFile(label, proto, large, None if folder is None else Path(folder), opening)


def _contents(path: str) -> memoryview:
    """The bytes of a model file. Raises ModelError where it can't be read, or is too large to be one."""
    with opened(path, path) as (file, size):
        expect(size < LIMIT, f"{path}: {size:,} bytes are more than an ONNX file can have (2 GiB); "
                             "save the model with its weights as external data")
        data = np.empty(size, np.uint8).data        # in huge pages, where it is large
        at = 0
        while more := file.readinto(data[at:]):     # the system reads less than 2 GiB at a time
            at += more
        return data[:at]


def _widened(value: Array, data_type: int) -> Array:
    """Numbers of less than 16 bits in the least type of ours that holds them: float32, int8 or uint8."""
    from onnx import TensorProto
    name = TensorProto.DataType.Name(data_type)
    wide = np.float32 if name.startswith("FLOAT") else np.uint8 if name.startswith("U") else np.int8
    return value.astype(wide)
