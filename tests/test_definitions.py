"""Definition files and the builder: every kind of layer against ONNX Runtime, mistakes and their messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_models import floats
from safetensors.numpy import save_file

import cnncc
from cnncc import zoo
from cnncc.compiler import as_onnx, read
from cnncc.frontend.kinds import KINDS
from cnncc.ir.errors import InputError, ModelError
from cnncc.ir.graph import Graph

IMAGE = "{x: [N, 6, 9, 8]}"
ROW = "{x: [N, 10]}"

# (input, layers): each kind with all of its keys
LAYERS = [
    (IMAGE, "{op: conv, out: 5, k: 3}"),
    (IMAGE, "{op: conv, out: 4, k: [3, 2], stride: [2, 1], pad: [0, 1], dilation: [1, 2], groups: 2,"
            " bias: false}"),
    ("{x: [N, 3, 20]}", "{op: conv, out: 5, k: 4, stride: 2, act: relu}"),
    ("{x: [2, 3, 4, 5, 6]}", "{op: conv, out: 4, k: 3, dilation: 2, act: relu6}"),
    (IMAGE, "{op: depthwise, k: 3, stride: 2, pad: 1, dilation: 1, bias: true}"),
    (IMAGE, "{op: linear, out: 7}"),
    (ROW, "{op: linear, out: 7, bias: false, act: softmax}"),
    (IMAGE, "{op: batch_norm, id: n, eps: 1e-3}"),
    (IMAGE, "{op: relu}"),
    (IMAGE, "{op: relu6}"),
    (IMAGE, "{op: clip, low: -0.5, high: .5}"),
    (IMAGE, "{op: clip, high: .5}"),
    (IMAGE, "{op: exp}"),
    (IMAGE, "{op: scale, factor: 3}"),
    (IMAGE, "{id: a, op: relu}, {op: add, of: [x, a], act: relu}"),
    (IMAGE, "{id: a, op: global_max_pool}, {op: sub, of: [x, a]}"),
    (IMAGE, "{id: a, op: global_avg_pool}, {op: mul, of: [x, a]}"),
    (IMAGE, "{id: a, op: exp}, {op: div, of: [x, a]}"),
    (IMAGE, "{op: max_pool, k: 2}"),
    (IMAGE, "{op: max_pool, k: [3, 2], stride: 1, pad: 1, dilation: [2, 1]}"),
    (IMAGE, "{op: avg_pool, k: 3, stride: 2, pad: 1}"),
    (IMAGE, "{op: avg_pool, k: [2, 3]}"),
    (IMAGE, "{op: reduce_mean, axes: [1, -1], keepdims: false}"),
    (IMAGE, "{op: reduce_sum, axes: [2]}"),
    (IMAGE, "{op: reduce_max, axes: [3, 1]}"),
    (IMAGE, "{op: softmax, axis: 1}"),
    (ROW, "{op: softmax}"),
    (IMAGE, "{op: flatten}"),
    (IMAGE, "{op: reshape, shape: [3, -1, 8]}"),
    (IMAGE, "{op: dropout, p: 0.3, act: relu}"),
    (IMAGE, "{op: conv, out: 4, k: 3, drop_connect: 0.5}, {op: batch_norm}"),
    (ROW, "{op: linear, out: 4, drop_connect: 0.5}"),
    ("{x: [N, 3, 5], z: [N, 5, 4]}", "{op: matmul, of: [x, z], act: abs}"),
    (IMAGE, "{op: conv_transpose, out: 4, k: 2, stride: 2}"),
    (IMAGE, "{op: conv_transpose, out: 4, k: [3, 2], stride: [2, 3], pad: [1, 0], output_pad: [1, 2],"
            " groups: 2, bias: false, act: relu}"),
    (IMAGE, "{op: conv_transpose, out: 3, k: 3, dilation: 2}"),
    ("{x: [N, 3, 7]}", "{op: conv_transpose, out: 4, k: 4, stride: 2}"),
    (IMAGE, "{op: locally_connected, out: 5, k: 3, stride: 2, act: relu}"),
    (IMAGE, "{op: locally_connected, out: 5, k: [2, 3], pad: [1, 0], dilation: [2, 1], bias: false}"),
    ("{x: [N, 3, 7]}", "{op: locally_connected, out: 5, k: 3, pad: 0}"),
    ("{x: [N, 4, 3]}", "{op: rnn, out: 5}"),
    ("{x: [N, 4, 3]}", "{op: rnn, out: 5, reverse: true, last: true, bias: false, act: relu}"),
    ("{x: [N, 4, 3]}", "{op: gru, out: 5, bidirectional: true}"),
    ("{x: [N, 4, 3]}", "{op: lstm, out: 5, last: true}"),
    ("{x: [N, 4, 3]}", "{op: lstm, out: 5, bidirectional: true, last: true}"),
    (IMAGE, "{op: avg_pool, k: 3, stride: 2, pad: 1, count_include_pad: false}"),
    ("{x: [N, 3, 7]}", "{op: avg_pool, k: 3, pad: 1, count_include_pad: false}"),
    (IMAGE, "{op: lp_pool, k: 2}"),
    (IMAGE, "{op: lp_pool, k: 3, p: 1, stride: 1, pad: 1}"),
    (IMAGE, "{op: lp_pool, k: [2, 3], p: 3}"),
    (IMAGE, "{op: stochastic_pool, k: 2}"),
    (IMAGE, "{op: stochastic_pool, k: 3, stride: 2, pad: 1}"),
    (IMAGE, "{op: divisive_norm, k: 3, eps: 0.1}"),
    (IMAGE, "{op: reduce_min, axes: [3, 1]}"),
    (IMAGE, "{op: log_softmax, axis: 1}"),
    (IMAGE, "{id: n, op: layer_norm}"),
    (IMAGE, "{id: s, op: layer_norm, axes: [1, 3], eps: 0.1}"),
    (ROW, "{op: layer_norm}"),
    (IMAGE, "{id: n, op: rms_norm}"),
    (IMAGE, "{op: rms_norm, axes: [1, 2, 3], eps: 1}"),
    (IMAGE, "{id: n, op: instance_norm, eps: 0.1}"),
    (IMAGE, "{id: n, op: group_norm, groups: 3, act: silu}"),
    (IMAGE, "{op: lrn}, {op: lrn, size: 3, alpha: 2, beta: 0.5, bias: 2}"),
    (IMAGE, "{id: n, op: global_response_norm}"),
    (IMAGE, "{op: transpose, perm: [0, 2, 3, 1]}"),
    (IMAGE, "{id: a, op: relu}, {id: c, op: exp, of: x}, {op: concat, of: [x, a, c], act: relu}"),
    (IMAGE, "{id: a, op: relu}, {op: concat, of: [x, a], axis: -1}"),
    (IMAGE, "{op: slice, begin: 1, end: -1, step: 2}, {op: slice, axis: 2, begin: 4}"),
    (IMAGE, "{op: split, parts: 3, index: 2}, {op: split, parts: 2, index: 0, axis: 3}"),
    (IMAGE, "{op: pad, begin: 1}, {op: pad, begin: [0, 1], end: [2, 0], value: 3}"),
    (IMAGE, "{op: pad, begin: 2, end: [0, 1], mode: reflect}"),
    (IMAGE, "{op: pad, begin: 3, mode: edge}"),
    (IMAGE, "{op: upsample, factor: 2}, {op: upsample, size: [7, 20]}"),
    (IMAGE, "{op: upsample, factor: [2, 3], mode: bilinear}"),
    (IMAGE, "{op: upsample, size: 5, mode: bilinear, align_corners: true}"),
    (IMAGE, "{op: space_to_depth, block: 1}, {op: channel_shuffle, groups: 2}"),
    ("{x: [N, 2, 4, 6]}", "{op: space_to_depth, block: 2}, {op: channel_shuffle, groups: 4},"
                          " {op: depth_to_space, block: 2, order: CRD}"),
    ("{x: [N, 8, 4, 6]}", "{op: depth_to_space, block: 2}, {op: space_to_depth, block: 2, order: CRD}"),
    (IMAGE, "{op: prelu}, {op: conv, out: 3, k: 1, act: prelu}"),
    *((IMAGE, f"{{op: {act}}}, {{op: conv, out: 3, k: 1, act: {act}}}") for act in (
        "leaky_relu", "elu", "selu", "celu", "gelu", "gelu_tanh", "silu", "mish", "sigmoid", "hard_sigmoid",
        "hard_swish", "tanh", "softplus", "softsign", "square", "neg", "abs")),
    (IMAGE, "{op: abs}, {op: sqrt}, {op: scale, factor: 2}, {op: log}"),
    (IMAGE, "{op: leaky_relu, alpha: 0.5}, {op: elu, alpha: 2}, {op: celu, alpha: 3}, {op: neg}"),
    (IMAGE, "{id: a, op: neg}, {id: b, op: max, of: [x, a]}, {op: min, of: [b, x]}"),
    (IMAGE, "{op: relu}, {op: identity, id: y}"),
]


def definition(folder: Path, text: str) -> Path:
    path = folder / "net.yaml"
    path.write_text(text)
    return path


def single(folder: Path, input: str, layers: str, more: str = "") -> Path:
    return definition(folder, f"input: {input}\nlayers: [{layers}]\n{more}\n")


def feeds_of(graph: Graph) -> dict[str, np.ndarray]:
    return {i: floats(*(3 if e == "N" else int(e) for e in graph[i].type.shape)) for i in graph.inputs}


def by_onnxruntime(source: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime computes of the model as written to ONNX, which must be valid."""
    data = as_onnx(source)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, feeds)]


def check(source: Any, **how: Any) -> Graph:
    """The graph of a model whose compiled form agrees with ONNX Runtime."""
    graph = read(source)
    feeds = feeds_of(graph)
    results = cnncc.compile(source, cache=False, jobs=1, threads=1, **how).run(None, feeds)
    for y, expected in zip(results, by_onnxruntime(source, feeds), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    return graph


@pytest.mark.parametrize(("input", "layers"), LAYERS)
def test_layers_are_what_onnxruntime_says(tmp_path: Path, input: str, layers: str) -> None:
    weights = ""
    if "id: n," in layers:          # whose own weights would change nothing
        arrays = {f"n.{name}": floats(6, seed=i) for i, name in enumerate(("weight", "bias", "running_mean"))}
        save_file({**arrays, "n.running_var": np.abs(floats(6)) + 0.1}, tmp_path / "w.safetensors")
        weights = "weights: w.safetensors"
    check(single(tmp_path, input, layers, weights))


def test_every_kind_is_tested() -> None:
    text = " ".join(layers for _, layers in LAYERS)
    assert [kind for kind in KINDS if f"op: {kind}," not in text and f"op: {kind}}}" not in text] == []


TINY = """
name: tiny
input: {x: [N, 3, 32, 32]}
layers:
  - {id: c1, op: conv, out: 16, k: 3, act: relu}
  - {id: c2, op: conv, out: 16, k: 3}
  - {id: r2, op: add, of: [c2, c1], act: relu}
  - {op: global_avg_pool}
  - {id: y, op: linear, out: 10}
output: y
"""

BLOCKS = """
input: {image: [B, 3, 16, 16]}
blocks:
  unit:
    params: {out: , stride: 1, k: 3}
    layers:
      - {id: conv1, op: conv, out: out, k: k, stride: stride, bias: false}
      - {id: bn1, op: batch_norm, act: relu}
      - {id: conv2, op: conv, out: 2*(out - out//2), k: k % 4}
      - {id: down, op: conv, of: x, out: out, k: 1, stride: stride}
      - {op: add, of: [conv2, down], act: relu}
  stage:
    params: {width: 4, n: 1}
    layers:
      - {op: unit, out: 2*width, stride: 2}
      - {id: rest, op: unit, out: 2*width, repeat: n - 1}
  gate:
    input: [a, b]
    layers: [{op: mul, of: [a, b]}]
layers:
  - {id: layer1, op: stage, width: 4, n: 3}
  - {id: relus, op: relu6, repeat: 2}
  - {id: g, op: gate, of: [relus, layer1], repeat: 2, act: relu}
  - {op: global_avg_pool}
  - {id: out, op: linear, out: 5}
output: [out, layer1]
"""


def test_what_onnx_has_an_op_for_is_that_op(tmp_path: Path) -> None:
    layers = ("{op: avg_pool, k: 3, pad: 1, count_include_pad: false}, "
              "{op: upsample, factor: 2, mode: bilinear}")
    model = onnx.load_from_string(as_onnx(single(tmp_path, IMAGE, layers)))
    assert [n.op_type for n in model.graph.node] == ["AveragePool", "Resize", "Resize"]


def test_unet() -> None:
    graph = check(zoo.path("unet"), precision="strict")
    assert graph[graph.outputs[0][1]].type.shape == ("N", 2, 64, 64)


def test_tiny_from_a_file_and_from_python(tmp_path: Path) -> None:
    graph = check(definition(tmp_path, TINY))
    b = cnncc.Builder("tiny")
    x = b.input("x", ["N", 3, 32, 32])
    c1 = b.conv(x, out=16, k=3, act="relu", id="c1")
    c2 = b.conv(c1, out=16, k=3, id="c2")
    r2 = b.add(c2, c1, act="relu", id="r2")
    other = b.graph(b.linear(b.global_avg_pool(r2), out=10, id="y"))
    assert str(graph) == str(other)
    for name, value in graph.constants.items():
        assert np.array_equal(value, other.constants[name])


def test_blocks(tmp_path: Path) -> None:
    path = definition(tmp_path, BLOCKS)
    graph = read(path)
    convs = [n.name for n in graph if n.op == "conv" and n.name.endswith("conv1")]
    assert convs == ["layer1.unit.1.conv1", "layer1.rest.0.conv1", "layer1.rest.1.conv1"]
    assert graph.inputs == ("image",) and graph["image"].type.shape == ("B", 3, 16, 16)
    assert [name for name, _ in graph.outputs] == ["out", "layer1"]
    feeds = {"image": floats(2, 3, 16, 16)}
    results = cnncc.compile(path, cache=False).run(None, feeds)
    for y, expected in zip(results, by_onnxruntime(path, feeds), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_reading_is_deterministic(tmp_path: Path) -> None:
    path = definition(tmp_path, BLOCKS)
    assert as_onnx(path) == as_onnx(path)
    # uniform numbers of He's variance, the same on every machine
    w = read(definition(tmp_path, TINY)).constants["c2.weight"]
    assert w.reshape(-1)[:3].tolist() == EXPECTED_WEIGHTS
    assert abs(w.var() * w[0].size / 2 - 1) < 0.05 and abs(w).max() <= (6 / w[0].size) ** 0.5
    glorot = read(definition(tmp_path, TINY + "init: glorot\nseed: 3")).constants["c2.weight"]
    assert abs(glorot.var() * w[0].size - 1) < 0.05 and not np.array_equal(w > 0, glorot > 0)


EXPECTED_WEIGHTS = [0.17991903424263, -0.1885528266429901, 0.009821655228734016]


# ---- weights


def test_weights_from_files(tmp_path: Path) -> None:
    arrays = {"c.weight": floats(2, 1, 3, 3), "c.bias": floats(2), "unused": np.arange(3)}
    save_file(arrays, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **arrays)
    np.savez_compressed(tmp_path / "z.npz", **arrays)
    for name in ("w.safetensors", "w.npz", "z.npz"):
        layers = "{id: c, op: conv, out: 2, k: 3}"
        graph = check(single(tmp_path, "{x: [1, 1, 5, 5]}", layers, f"weights: {name}"))
        assert np.array_equal(graph.constants["c.weight"], arrays["c.weight"])
        assert np.array_equal(graph.constants["c.bias"].reshape(-1), arrays["c.bias"])
    b = cnncc.Builder()
    x = b.input("x", [1, 1, 5, 5])
    y = b.conv(x, out=2, k=3, weight=arrays["c.weight"], bias=arrays["c.bias"], id="c")
    assert str(b.graph(y)).splitlines()[1:] == str(graph).splitlines()[1:]


def test_cache_knows_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    path = single(tmp_path, "{x: [1, 2]}", "{id: l, op: linear, out: 1, bias: false}", "weights: w.npz")
    for value in (1, 2, 2):
        np.savez(tmp_path / "w.npz", **{"l.weight": np.full((1, 2), value, np.float32)})
        assert cnncc.compile(path)(np.ones((1, 2), np.float32))[0, 0] == 2 * value
    path.write_text(path.read_text().replace("}]", ", act: exp}]"))
    assert cnncc.compile(path)(np.zeros((1, 2), np.float32))[0, 0] == 1


# ---- mistakes

HEAD = "input: {x: [N, 3, 8, 8]}\nlayers:\n"
MISTAKES = {
    "unknown op": (HEAD + "- {op: cnov, out: 3}", "line 3: there is no op 'cnov' (is it 'conv'?)"),
    "misspelt key": (
        HEAD + "- op: conv\n  out: 3\n  k: 3\n  strid: 2",
        "line 6: conv takes out, k, stride, pad, dilation, groups, bias, drop_connect, id, of, act, repeat, "
        "not 'strid' (is it 'stride'?)"),
    "misspelt section": (
        "input: {x: [1]}\nlayer: []",
        "line 2: a definition has input, layers, name, output, blocks, seed, init, weights, preprocess, "
        "not 'layer' (is it 'layers'?)"),
    "missing key": (HEAD + "- {op: conv, out: 3}", "line 3: conv 'conv.1': needs the key 'k'"),
    "wrong type": (
        HEAD + "- {op: conv, k: 3,\n   out: 1.5}",
        "line 4: out: expected an integer of at least 1, got 1.5"),
    "not a flag": (
        HEAD + "- {op: conv, k: 3, out: 1, bias: 1}",
        "line 3: bias: expected true or false, got 1"),
    "text": (HEAD + "- {op: conv, k: three, out: 1}", "line 3: 'three' is neither a number nor a parameter"),
    "no layer": (HEAD + "- conv", "line 3: a layer: expected keys with values, got a name"),
    "no op": (HEAD + "- {out: 3}", "line 3: a layer needs the key 'op'"),
    "id used twice": (
        HEAD + "- {op: relu, id: a}\n- {op: relu, id: a}",
        "line 4: id: 'a' is used twice, first on line 3"),
    "id of an input": (HEAD + "- {op: relu, id: x}", "line 3: id: 'x' is an input"),
    "unknown id": (
        HEAD + "- {op: relu, id: conv1}\n- {op: relu, of: conv2}",
        "line 4: of: nothing is called 'conv2' (is it 'conv1'?)"),
    "cycle": (
        HEAD + "- {op: relu, id: a, of: b}\n- {op: relu, id: b}",
        "line 3: of: 'b' comes later, on line 4: layers are in order, and none can read itself"),
    "itself": (
        HEAD + "- {op: relu, id: a, of: a}",
        "line 3: of: 'a' comes later, on line 3: layers are in order, and none can read itself"),
    "too few": (HEAD + "- {op: add}", "line 3: add: name what it reads with 'of'"),
    "too many": (HEAD + "- {op: relu, of: [x, x]}", "line 3: relu 'relu.1': takes 1 value, got 2"),
    "two inputs": (
        "input: {x: [1], z: [1]}\nlayers: [{op: relu}]",
        "line 2: relu: name what it reads with 'of'"),
    "window": (
        HEAD + "- {op: max_pool, k: 9, id: p}",
        "line 3: max_pool 'p': operand x: an axis of 8 is too small for the window"),
    "broadcast": (
        HEAD + "- {op: conv, out: 4, k: 1, id: c}\n- {op: add, of: [x, c], id: a}",
        "line 4: add 'a': shapes don't broadcast: ['N', 3, 8, 8] and ['N', 4, 8, 8]"),
    "groups": (
        HEAD + "- {op: conv, out: 4, k: 1, groups: 2, id: c}",
        "line 3: conv 'c': groups: 2 doesn't divide its input's 3 channels and out, 4"),
    "reshape": (
        HEAD + "- {op: reshape, shape: [5, -1], id: r}",
        "line 3: reshape 'r': shape: can't reshape [3, 8, 8] to [5, -1]"),
    "sizes": (
        HEAD + "- {op: conv, out: 1, k: [3, 3, 3], id: c}",
        "line 3: conv 'c': k has 3 numbers, its input [N, 3, 8, 8] has 2 spatial dimensions"),
    "spatial": (
        "input: {x: [N, 3]}\nlayers: [{op: conv, out: 1, k: 1, id: c}]",
        "line 2: conv 'c': expected [N, C, ...] with 1 to 3 spatial dimensions, its input is [N, 3]"),
    "share": (
        HEAD + "- {op: conv, k: 1, out: 1,\n   drop_connect: 1}",
        "line 4: drop_connect: expected a number from 0 to less than 1, got 1"),
    "word": (
        HEAD + "- {op: upsample, factor: 2,\n   mode: bilinaer}",
        "line 4: mode: expected nearest or bilinear, got 'bilinaer'"),
    "neither": (
        HEAD + "- {op: upsample, id: u}",
        "line 3: upsample 'u': needs one of the keys 'factor' and 'size'"),
    "huge": (
        HEAD + "- {op: upsample, id: u, factor: 1000000, mode: bilinear}",
        "line 3: upsample 'u': its result, [8000000, 8000000], is too large"),
    "huge padding": (
        HEAD + "- {op: pad, id: p, begin: 2000000000, mode: edge}",
        "line 3: pad 'p': begin, end: its result is too large"),
    "mirror": (
        HEAD + "- {op: pad, id: p, begin: 8, mode: reflect}",
        "line 3: pad 'p': begin, end: a mirror of [8, 8] has fewer places"),
    "nothing to join": (HEAD + "- {op: concat}", "line 3: concat: name what it reads with 'of'"),
    "join": (
        HEAD + "- {op: flatten, id: f}\n- {op: concat, id: c, of: [x, f]}",
        "line 4: concat 'c': can't join ['N', 3, 8, 8] and ['N', 192] along axis 1"),
    "split": (
        HEAD + "- {op: split, id: s, parts: 2, index: 0}",
        "line 3: split 's': parts: 2 doesn't divide the 3 elements along axis 1"),
    "part": (
        HEAD + "- {op: split, id: s, parts: 3, index: 3}",
        "line 3: split 's': index: expected 0 to 2, got 3"),
    "empty slice": (
        HEAD + "- {op: slice, id: s, begin: 2, end: 1}",
        "line 3: slice 's': begin, end: there is nothing from 2 to 1 of 3"),
    "perm": (
        HEAD + "- {op: transpose, id: t, perm: [1, 0, 2, 3]}",
        "line 3: transpose 't': perm: the open batch stays the first axis"),
    "block": (
        HEAD + "- {op: depth_to_space, id: d, block: 2}",
        "line 3: depth_to_space 'd': block: 4 doesn't divide the 3 channels"),
    "shuffle": (
        HEAD + "- {op: channel_shuffle, id: c, groups: 2}",
        "line 3: channel_shuffle 'c': groups: 2 doesn't divide the 3 channels"),
    "group norm": (
        HEAD + "- {op: group_norm, id: g, groups: 2}",
        "line 3: group_norm 'g': groups: 2 doesn't divide the 3 channels"),
    "output_pad": (
        HEAD + "- {op: conv_transpose, id: c, out: 1, k: 2, stride: 2, output_pad: 2}",
        "line 3: conv_transpose 'c': output_pad: 2 is not less than stride or dilation"),
    "even window": (
        HEAD + "- {op: divisive_norm, id: d, k: 2}",
        "line 3: divisive_norm 'd': k: windows around an element have odd sizes"),
    "places": (
        HEAD + "- {op: locally_connected, id: l, out: 1, k: 9, pad: 0}",
        "line 3: locally_connected 'l': k: the window is larger than its padded input, [N, 3, 8, 8]"),
    "batch": (
        HEAD + "- {op: softmax, axis: 0, id: s}",
        "line 3: softmax 's': axis 0 of [N, 3, 8, 8] is open"),
    "activation": (
        HEAD + "- {op: exp, act: rleu, id: e}",
        "line 3: exp 'e': act: there is no activation 'rleu' (is it 'relu'?)"),
    "missing input": ("layers: [{op: relu}]", "line 1: a definition needs the key 'input'"),
    "no input": ("input: {}\nlayers: [{op: relu}]", "line 2: relu: name what it reads with 'of'"),
    "shape": (
        "input: {x: [N, 3, H, 8]}\nlayers: [{op: relu}]",
        "line 1: input 'x': expected sizes of at least 1, the first of which may be a name (any batch), "
        "got ['N', 3, 'H', 8]"),
    "huge input": (
        "input: {x: [N, 99999, 99999]}\nlayers: [{op: relu}]",
        "line 1: input 'x': expected sizes of at least 1, the first of which may be a name (any batch), "
        "got ['N', 99999, 99999]"),
    "batches": (
        "input: {x: [N, 3], z: [M, 3]}\nlayers: [{op: add, of: [x, z]}]",
        "line 1: input 'z': the batch has several names: M, N"),
    "no layers": ("input: {x: [1]}\nlayers: []", "line 2: layers: the list is empty"),
    "output": (
        HEAD + "- {op: relu, id: out1}\noutput: out",
        "line 4: output: nothing is called 'out' (is it 'out1'?)"),
    "bad repeat": (
        HEAD + "- {op: relu, repeat: -1}",
        "line 3: repeat: expected an integer from 0 on, got -1"),
    "huge repeat": (
        HEAD + "- {op: relu, repeat: 1000000000}",
        "line 3: more than 10,000 layers after repetition"),
    "many parameters": (
        HEAD + "- {op: linear, out: 2000000000, id: f}",
        "line 3: linear 'f': more than 536,870,912 parameters are too many"),
    "arithmetic": (HEAD + "- {op: relu, repeat: 9**9**9}", "line 3: '9**9**9' is no integer arithmetic"),
    "call": (HEAD + "- {op: relu, repeat: exit()}", "line 3: 'exit()' is no integer arithmetic"),
    "zero": (HEAD + "- {op: relu, repeat: 1 // 0}", "line 3: '1 // 0' is no integer arithmetic"),
    "alias bomb": ("a: &a [1, 1]\nb: &b [*a, *a]", "line 2: aliases are not supported: write a block"),
    "tag": (HEAD + "- !!python/object/apply:os.system ['true']", "line 3: tags are not supported"),
    "deep": ("input: " + "[" * 100_000, "line 1: nested too deep"),
    "tab": (
        HEAD + "\t- {op: relu}",
        "line 3: this is no YAML: found character '\\t' that cannot start any token"),
    "syntax": (
        HEAD + "- {op: relu\n- {op: relu}",
        "line 4: this is no YAML: expected ',' or '}', but got '{'"),
    "control": (
        "input: \x01",
        "line 1: this is no YAML: unacceptable character #x0001: special characters are not allowed"),
    "empty": ("", "line 1: a definition: expected keys with values, got None"),
    "two documents": ("a: 1\n---\nb: 1", "line 2: a second document"),
    "key twice": ("name: a\nname: b", "line 2: the key 'name' is given twice"),
    "key": ("1: a", "line 1: a key must be a name, not 1"),
    "seed": (HEAD + "- {op: relu}\nseed: -1", "line 4: seed: expected an integer of at least 0, got -1"),
    "init": (HEAD + "- {op: relu}\ninit: random", "line 4: init: expected he or glorot, got 'random'"),
    "weights outside": (
        HEAD + "- {op: relu}\nweights: ../w.npz",
        "line 4: weights: its data is in '../w.npz'; paths with '..' are not followed"),
    "weights missing": (
        HEAD + "- {op: relu}\nweights: v.npz",
        "line 4: weights: 'v.npz': can't read the file: No such file or directory"),
    "weights of another kind": (
        HEAD + "- {op: relu}\nweights: net.yaml",
        "line 4: weights: 'net.yaml': expected a .safetensors or .npz file"),
    "weights damaged": (
        HEAD + "- {op: relu}\nweights: bad.npz",
        "line 4: weights: 'bad.npz': can't read the file: it is no npz file"),
    "weights' shape": (
        HEAD + "- {op: linear, id: c, out: 2}\nweights: w.npz",
        "line 3: linear 'c': c.weight: expected float32[2, 192], got float32[2, 3]"),
    "weights' type": (
        HEAD + "- {op: conv, k: 1, id: d, out: 2}\nweights: w.npz",
        "line 3: conv 'd': d.weight: expected float32[2, 3, 1, 1], got float64[2, 3, 1, 1]"),
    "weights' name": (
        HEAD + "- {op: linear, id: cc, out: 2}\nweights: w.npz",
        "line 3: linear 'cc': there are no weights called 'cc.weight' (is it 'c.weight'?)"),
    "recursion": (
        "input: {x: [1]}\nblocks:\n  a: {layers: [{op: b}]}\n  b: {layers: [{op: a}]}\nlayers: [{op: "
        "a}]",
        "line 5: a 'a.1': line 3: b 'a.1.b.1': line 4: a 'a.1.b.1.a.1': the block 'a' contains itself"),
    "block's key": (
        "input: {x: [1]}\nblocks:\n  a: {params: {n: }, layers: [{op: relu, repeat: n}]}\nlayers: "
        "[{op: a}]",
        "line 4: a 'a.1': needs the key 'n'"),
    "in a block": (
        "input: {x: [1]}\nblocks:\n  a: {params: {n: 1}, layers: [{op: relu, repeat: n - 2}]}\n"
        "layers:\n- {op: a, id: b}",
        "line 5: a 'b': line 3: repeat: expected an integer from 0 on, got -1"),
    "block's name": (
        "input: {x: [1]}\nblocks: {conv: {layers: [{op: relu}]}}\nlayers: [{op: conv}]",
        "line 2: there is an op called 'conv' already"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(tmp_path: Path, mistake: str) -> None:
    text, message = MISTAKES[mistake]
    np.savez(tmp_path / "w.npz", **{"c.weight": floats(2, 3), "d.weight": np.zeros((2, 3, 1, 1))})
    (tmp_path / "bad.npz").write_bytes(b"\x80\x04K\x01.")     # a pickle
    path = definition(tmp_path, text)
    with pytest.raises(ModelError) as caught:
        read(path)
    assert str(caught.value) == f"{path}, {message}"


def test_files_that_are_no_definitions(tmp_path: Path) -> None:
    path = tmp_path / "net.yml"
    path.write_bytes(b"name: a\nname: \xff")
    with pytest.raises(ModelError, match=r"net.yml, line 2: this is no UTF-8 text"):
        read(path)
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ModelError, match=r"2,097,152 bytes are too many for a definition"):
        read(path)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "w.npz").symlink_to("/etc/hostname")
    link = definition(tmp_path / "outside", HEAD + "- {op: relu}\nweights: w.npz")
    with pytest.raises(ModelError, match=r"line 4: weights: .* 'w.npz', a link out of the model's folder"):
        read(link)
    blocks = "".join(f"  b{i}: {{layers: [{{op: b{i + 1}, repeat: 10}}]}}\n" for i in range(9))
    blocks += "  b9: {layers: [{op: relu, repeat: 0}]}\n"
    bomb = f"input: {{x: [1]}}\nblocks:\n{blocks}layers: [{{op: b0}}]"
    with pytest.raises(ModelError, match=r"more than 10,000 layers after repetition"):
        read(definition(tmp_path, bomb))


def test_mistakes_in_python() -> None:
    b = cnncc.Builder()
    x = b.input("x", ["N", 3, 8, 8])
    with pytest.raises(AttributeError, match=r"there are no layers called 'cnov' \(is it 'conv'\?\)"):
        b.cnov(x)
    with pytest.raises(ModelError, match=r"conv 'conv.1': takes out, k, .*, not 'ouf' \(is it 'out'\?\)"):
        b.conv(x, ouf=1, k=1)
    with pytest.raises(ModelError, match=r"'c': c.weight: expected float32\[1, 3, 1, 1\], got float32\[3\]"):
        b.conv(x, out=1, k=1, weight=floats(3), id="c")
    with pytest.raises(ModelError, match=r"relu 'x': the name is taken"):
        b.relu(x, id="x")
    with pytest.raises(ModelError, match=r"relu 'r': reads 'z', which nothing defines"):
        b.relu("z", id="r")
    with pytest.raises(InputError, match=r"a graph needs outputs"):
        b.graph()
    with pytest.raises(ModelError, match=r"the output 'y' is no value of this network"):
        b.graph("y")
    assert "conv" in dir(b)
