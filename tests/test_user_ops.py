"""Ops that users define: right results, shapes and errors; in the builder, in definitions and ONNX files."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_models import floats, model

import cnncc
from cnncc import InputError, ModelError, UnsupportedError, UserOp
from cnncc.compiler import optimize
from cnncc.ir.ops import OPS
from cnncc.ir.target import target_for
from cnncc.ir.text import parse_graph

E = np.einsum
LEAKY = cnncc.op("y = where(x < 0, x * alpha, x)", "my.domain.Leaky", alpha=0.1)
TABLE = np.array([[1, 2], [3, 4]])


def graph_of(op: UserOp, *shapes: Sequence[int | str], **attributes: Any) -> cnncc.Graph:
    b = cnncc.Builder("test")
    return b.graph(y=b.layer(op, *(b.input(f"x{i}", s) for i, s in enumerate(shapes)), **attributes))


def pad(x: np.ndarray, by: int) -> np.ndarray:
    return np.pad(x, [(0, 0)] * 2 + [(by, by)] * (x.ndim - 2))


def conv(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    y = torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(w), stride=(2, 1), padding=2, dilation=2)
    return np.asarray(y)


CASES: list[tuple[str, list[list[int | str]], Callable[..., Any], dict[str, Any]]] = [
    ("y[n,c,h,w] = max(x[n,c,h,w], 0) * 0.5", [["N", 3, 5, 7]], lambda x: np.maximum(x, 0) * 0.5, {}),
    ("y[n,h,w,c] = x[n,c,h,w] * 2", [["N", 3, 5, 7]], lambda x: x.transpose(0, 2, 3, 1) * 2, {}),
    ("y = x * w + u", [["N", 3, 6], [3, 1], [1, 6]], lambda x, w, u: x * w + u, {}),
    ("y[n,c,{p}] = x[n,c,{p}] * w[c]", [["N", 7, 2, 3], [7]], lambda x, w: x * w[:, None, None], {}),
    ("y[n,o] += a[n,i] * w[o,i,j] * b[n,j]", [["N", 5], [4, 5, 6], ["N", 6]],
     lambda a, w, b: E("ni,oij,nj->no", a, w, b), {}),
    ("y[n,i,j] max= a[n,i,k] + b[n,k,j]", [[2, 5, 7], [2, 7, 9]],
     lambda a, b: (a[:, :, :, None] + b[:, None]).max(2), {}),
    ("y[n] min= x[n,c,h]", [[4, 5, 6]], lambda x: x.min((1, 2)), {}),
    ("y[n,c] *= x[n,c,h]", [[4, 5, 3]], lambda x: x.prod(2), {}),
    ("y[n,c] += x[n,c,{p}] / (P0 * P1)", [["N", 5, 2, 4]], lambda x: x.mean((2, 3)), {}),
    ("y[n,c] += i32(x[n,c,h])", [["N", 7, 2]], lambda x: x.sum(2).astype(np.int32), {}),
    ("y[n,c,i] = x[n,c,i+1] - x[n,c,i|-1]", [["N", 5, 9]], lambda x: np.diff(x, axis=2), {}),
    ("y[n,c,i] = x[n,c,I-1-i] + x[n,c,i]", [["N", 5, 9]], lambda x: x[:, :, ::-1] + x, {}),
    ("y[n,k] = x[n,k,2]", [["N", 4, 5]], lambda x: x[:, :, 2], {}),
    ("y[n,k] = x[n]", [["N"]], lambda x: np.repeat(x[:, None], 4, 1), {"K": 4}),
    ("y[n,c,h*2+i,w*2+j] = x[n,c*4+i*2+j,h,w]", [["N", 12, 4, 5]], lambda x: x.reshape(
        2, 3, 2, 2, 4, 5).transpose(0, 1, 4, 2, 5, 3).reshape(2, 3, 8, 10), {"I": 2, "J": 2}),
    ("y[n,c,i] += x[n,c,i+r-1|1] * w[R-1-r]", [["N", 3, 6], [3]],
     lambda x, w: sum(pad(x, 1)[:, :, r:r + 6] * w[2 - r] for r in range(3)), {"R": 3}),
    ("y[n,c] += (x[n,c,p] + w[n,c]) * ((1,2,3),(4,5,6))[1,r]", [["N", 3, 6], ["N", 3]],
     lambda x, w: (x.sum(2) + 6 * w) * 15, {}),
    ("y[n,k,{p}] += x[n,c,{p*steps+r*d-a|a}] * w[k,c,{r}]", [["N", 7, 8, 9], [20, 7, 3, 3]], conv,
     {"steps": (2, 1), "d": 2, "a": 2}),
    ("y[n,d,h,w] += a[n,c,h,w] * b[n,c,h,w+d]", [["N", 3, 4, 8], ["N", 3, 4, 12]],
     lambda a, b: np.stack([(b[..., d:d + 8] * a).sum(1) for d in range(5)], 1), {"D": 5}),
    ("y[n,k,p] += x[n,c,p] * ((1,2),(3,4))[k,c]", [["N", 2, 20]], lambda x: E("ncp,kc->nkp", x, TABLE), {}),
    ("y[n,k] max= x[n,c] - ((1,2),(3,4))[k,c]", [["N", 2]], lambda x: (x[:, None] - TABLE).max(2), {})]


@pytest.mark.parametrize("text, shapes, oracle, attributes", CASES, ids=[c[0] for c in CASES])
def test_integers_are_exact(text: str, shapes: list[list[int | str]], oracle: Callable[..., Any],
                            attributes: dict[str, Any]) -> None:
    graph = graph_of(cnncc.op(text, **attributes), *shapes)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-2, 3, [2 if e == "N" else e for e in s]).astype(np.float32) for s in shapes]
    expected = oracle(*arrays)
    for run in (cnncc.compile(graph, cache=False), cnncc.reference(graph)):
        y = run(*arrays)
        assert y.shape == expected.shape and y.dtype == (np.int32 if "i32" in text else np.float32)
        np.testing.assert_allclose(y, expected, rtol=1e-6 if "/" in text else 0)


def test_it_fuses_as_any_other_op() -> None:
    b = cnncc.Builder()
    y = b.layer(LEAKY, b.conv(b.input("x", ["N", 3, 8, 8]), out=16, k=3), alpha=0.5)
    graph = b.graph(y=b.add(y, b.layer(LEAKY, y)))
    kernels = [n for n in optimize(graph, target_for("native", "strict")) if n.kernel is not None]
    assert dict(kernels[0].attrs)["does"].startswith("conv+add+formula")
    x = floats(2, 3, 8, 8)
    np.testing.assert_allclose(cnncc.compile(graph)(x), cnncc.reference(graph)(x), atol=1e-5)


def test_it_follows_its_formula_through_text_and_pickle() -> None:
    before = set(OPS)
    blur = cnncc.op("y[n, c, {p}] += x[n, c, {p + r - 1 | 1}] * f", R=3, f=0.125)
    graph = graph_of(blur, ["N", 3, 6])
    again = parse_graph(str(graph))
    assert str(again) == str(graph) and again.nodes == graph.nodes
    again.verify()
    compiled, x = cnncc.compile(graph), floats(2, 3, 6)
    assert np.array_equal(pickle.loads(pickle.dumps(compiled))(x), compiled(x))  # noqa: S301
    assert set(OPS) == before


def test_two_ops_of_one_name_are_two() -> None:
    b = cnncc.Builder()
    x = b.input("x", [4])
    y = b.layer(cnncc.op("y = x + 1", "a.B"), x)
    z = b.layer(cnncc.op("y = x + 2", "a.B"), x)
    y, z = cnncc.compile(b.graph(y, z))(np.zeros(4, np.float32))
    assert y[0] == 1 and z[0] == 2


@pytest.mark.parametrize("text, attributes, message", [
    (3, {}, "a text of at most"), ("y" * 3000, {}, "a text of at most"),
    ("", {}, "not a formula"), ("max(x, 0)", {}, "not a formula"), ("y[n] := x[n]", {}, "not a formula"),
    ("y[n] = x[n", {}, "never closed"), ("y[n] = x[n] x[n]", {}, "invalid syntax"),
    ("y[n] = x[n]\0", {}, "null byte"), ("y[n] = " + "(" * 300 + "x[n]" + ")" * 300, {}, "paren"),
    ("y[n] = " + "-" * 99 + "x[n]", {}, "levels of nesting"),
    ("y[n] = maxx(x[n], 0)", {}, "no function 'maxx' (is it 'max'?)"), ("y[n] = max(x[n])", {}, "takes 2"),
    ("y[n] = x.a(x[n])", {}, "no function 'x.a'"), ("y[n] = exp * x[n]", {}, "needs its arguments"),
    ("y[n] = x[n] if x[n] else 1", {}, "not a scalar expression"), ("y[n] = [x[n]]", {}, "not a scalar"),
    ("y[n] = 'a' * x[n]", {}, "not a scalar expression"), ("y[n] = x[n] + True", {}, "not a scalar"),
    ("y[n] = x[n // 2]", {}, "not an affine index: n // 2"), ("y[n] = x[n * m]", {}, "not an affine index"),
    ("y[n] = x[t[n]]", {}, "not an affine index: t[n]"), ("y[n] = x[n, 1.5]", {}, "not an affine index"),
    ("y[n] = x[n | r]", {}, "what follows |"), ("y[n] = x[n, {p, q}]", {}, "braces hold one index"),
    ("y[n] = x[Row]", {}, "no dimension"), ("y[n] = x[n + 99999999999]", {}, "too large"),
    (f"y = x * {'9' * 400}", {}, "too large"),
    ("y[n] = x[:, n]", {}, "not an affine index"), ("y[n] = x[n] + y[n]", {}, "made of itself"),
    ("y[n] = 1", {}, "reads 0 tensors"),
    ("y[n] = a[n]+b[n]+c[n]+d[n]+e[n]+f[n]+g[n]+h[n]+i[n]", {}, "reads 9 tensors"),
    ("y = x[n]", {}, "needs indices as well"), ("y += x", {}, "elementwise"),
    ("y = x", {"alpha": 1}, "no attribute 'alpha'"), ("y = x * a", {"a": "b"}, "attribute a"),
    ("y = x * a", {"a": float("nan")}, "attribute a"), ("y = x * a", {"a": 1 << 40}, "attribute a"),
    ("y[n] += x[n,c] * ((1,2),(3,))[n,c]", {}, "not a table"),
    ("y[n] += x[n,c] * ((1,'a'),(3,4))[n,c]", {}, "float")])
def test_what_is_wrong_in_a_formula(text: Any, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        cnncc.op(text, **attributes)
    assert message in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("text, shapes, attributes, message", [
    ("y[n,c] = x[n,c]", [[2, 3, 4]], {}, "rank 3, expected 2"),
    ("y[n,{p}] = x[n,{p}]", [[2]], {}, "rank 1, expected 2 or more"),
    ("y[n,c] = x[n,c] + w[c]", [[2, 3], [4]], {}, "4 elements where 3 are expected"),
    ("y = x + w", [[2, 3], [4]], {}, "don't broadcast"),
    ("y[n] = x[n,c]", [[2, 3]], {}, "c isn't on the left side"),
    ("y[n,c] = x[n]", [[2]], {}, "can't find the extent of c"),
    ("y[n] += x[n,p+q]", [[2, 5]], {}, "can't find the extents of the index p + q"),
    ("y[n] += x[n,3-p]", [[2, 5]], {}, "can't find the extents"),
    ("y[n] += x[n,p*K]", [[2, 5]], {}, "can't find the extents"),
    ("y[n] = x[n,7]", [[2, 5]], {}, "no element 7 of 5"),
    ("y[n,p] = x[n,p-1|1]", [[2, 5]], {}, "leaves its operand"),
    ("y[n,d,w] += a[n,w] * b[n,w+d-4|0]", [[1, 8], [1, 8]], {"D": 5}, "one dimension of the left side"),
    ("y[n,i] += x[n,i-r+1|1]", [[1, 8]], {"R": 3}, "one dimension of the left side"),
    ("y[n,n] = x[n]", [[2]], {}, "one by one"), ("y[n+1] = x[n]", [[2]], {}, "one by one"),
    ("y[2*n] = x[n]", [[2]], {}, "one by one"), ("y[n,p+r] += x[n,p]*w[r]", [[2, 3], [3]], {}, "one by one"),
    ("y[n,p] += x[n,p+r-1]", [[2, 3]], {"R": 9}, "too small for the window"),
    ("y[n,p] += x[n,p+r-1|9]", [[2, 3]], {"R": 0}, "extents are integers"),
    ("y[n,r] = x[n]", [[2]], {"R": 1 << 30}, "extents are integers"),
    ("y[n,r] = x[n]", [[2]], {"R": 1.5}, "extents are integers"),
    ("y[n,p] += x[n,p*s]", [[2, 3]], {"s": 1.5}, "s"),
    ("y[n,{p}] += x[n,{p*s}]", [[2, 3]], {"s": (1, 2)}, "2 numbers for 1 spatial"),
    ("y[n,c] = x[n,c] & w[n,c]", [[2, 3], [2, 3]], {}, "and can't be computed of f32"),
    ("y[n] += x[n,c] > 0", [[2, 3]], {}, "add can't be computed of bool"),
    ("y[n,c] = i32(x[n,c]) * 0.5", [[2, 3]], {}, "0.5 is no i32"),
    ("y[c,n] = x[n,c]", [["N", 3]], {}, "batch in another place"),
    ("y[n] += x[n,c] / N", [["N", 3]], {}, "N is neither"),
    ("y[n,c] += x[n,r] * ((1,2),(3,4))[c-1,r]", [[2, 2]], {}, "leaves its table"),
    ("y[n,c] += x[n,c,r] * ((1,2),(3,4))[0,r]", [[2, 2, 3]], {}, "2 elements where 3"),
    ("y[n,c] = x[n]", [[2]], {"C": None}, "needs the key 'C'")])
def test_operands_that_do_not_fit(text: str, shapes: list[list[int | str]], attributes: dict[str, Any],
                                  message: str) -> None:
    op = cnncc.op(text, **attributes)
    with pytest.raises(ModelError) as error:
        graph_of(op, *shapes)
    assert message in str(error.value) and "'formula.1'" in str(error.value)


# ---- functions


def test_a_function_of_layers() -> None:
    def gated(b: cnncc.Builder, x: str, w: str, *, factor: float = 1.0) -> str:
        return b.mul(b.layer(LEAKY, x, id="leak"), b.scale(b.softmax(w, axis=1), factor=factor), act="relu")
    b = cnncc.Builder()
    x, w = b.input("x", [2, 5]), b.input("w", [2, 5])
    graph = b.graph(y=b.layer(cnncc.op(gated), x, w, factor=3.0), z=b.layer(cnncc.op(gated), w, x))
    x, w = floats(2, 5), floats(2, 5, seed=1)
    soft = np.exp(w) / np.exp(w).sum(1, keepdims=True)
    y, _ = cnncc.compile(graph)(x, w)
    np.testing.assert_allclose(y, np.maximum(np.where(x < 0, x * 0.1, x) * soft * 3, 0), atol=1e-6)


def test_functions_that_are_no_ops() -> None:
    for function in (lambda: "", lambda b: "", lambda b, *x: "", lambda b, x, **k: ""):
        with pytest.raises(InputError, match="takes a builder"):
            cnncc.op(function)
    with pytest.raises(InputError, match="keyword-only"):
        cnncc.op(lambda b, x: x, a=1)
    with pytest.raises(InputError, match="words and dots"):
        cnncc.op("y = x", "a b")
    with pytest.raises(ModelError, match="returned 'z', which is no value"):
        graph_of(cnncc.op(lambda b, x: "z"), [2])


# ---- files


def custom(**attributes: Any) -> onnx.ModelProto:
    node = helper.make_node("Leaky", ["x"], ["h"], "mine", domain="my.domain", **attributes)
    return model([node, helper.make_node("Relu", ["h"], ["y"])], {"x": ["N", 3]}, ["y"])


def test_nodes_of_onnx_files() -> None:
    x, ops = floats(2, 3), {"my.domain.Leaky": LEAKY}
    expected = np.maximum(x, 0)
    for run in (cnncc.compile(custom(), ops=ops), cnncc.reference(custom(), ops=ops)):
        assert np.array_equal(run(x), expected)
    session = cnncc.InferenceSession(custom(alpha=-2.0).SerializeToString(), ops=ops)
    assert np.array_equal(session.run(None, {"x": x})[0], np.where(x < 0, -2 * x, x))
    composed = cnncc.op(lambda b, x, *, alpha=1.0: b.relu(b.scale(x, factor=alpha)))
    y = cnncc.compile(custom(alpha=2.0), ops={"my.domain.Leaky": composed})(x)
    assert np.array_equal(y, expected * 2)
    own = model([helper.make_node("Twice", ["x"], ["y"])], {"x": [3]}, ["y"])
    assert np.array_equal(cnncc.compile(own, ops={"Twice": cnncc.op("y = x * 2")})(x[0]), x[0] * 2)


def test_ops_that_are_none() -> None:
    b = cnncc.Builder()
    graph = b.graph(y=b.relu(b.input("x", ["N", 3])))
    for ops in ({"swish": 3}, [cnncc.op("y = x + 1")], "swish"):
        for run in (cnncc.compile, cnncc.reference):
            with pytest.raises(InputError, match="expected what"):
                run(graph, ops=ops)


def test_nodes_that_do_not_fit() -> None:
    with pytest.raises(UnsupportedError, match=r"my\.domain\.Leaky 'mine'.*cnncc\.op"):
        cnncc.compile(custom())
    ops = {"my.domain.Leaky": LEAKY}
    for attributes, message in (({"beta": 1.0}, "not 'beta'"), ({"alpha": "a"}, "is no number"),
                                ({"alpha": 1 << 40}, "alpha: expected a number")):
        with pytest.raises(ModelError, match=message) as error:
            cnncc.compile(custom(**attributes), ops=ops)
        assert "'mine'" in str(error.value)
    with pytest.raises(ModelError, match=r"'mine'.* 1 inputs, expected 2"):
        cnncc.compile(custom(), ops={"my.domain.Leaky": cnncc.op("y = x * w")})
    with pytest.raises(ModelError, match=r"'mine'.*rank 2"):
        cnncc.compile(custom(), ops={"my.domain.Leaky": cnncc.op("y[n] = x[n]")})


def test_the_formula_is_in_the_cache_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path))
    data, x = custom().SerializeToString(), np.full((1, 3), 3, np.float32)
    for factor in (1, 2):
        op = cnncc.op(f"y = x * {factor}")
        for _ in range(2):
            assert cnncc.compile(data, ops={"my.domain.Leaky": op})(x)[0, 0] == 3 * factor
    entries = len(list(tmp_path.rglob("*.cnncc")))
    factor = 5
    function = cnncc.op(lambda b, x: b.scale(x, factor=float(factor)))
    assert cnncc.compile(data, ops={"my.domain.Leaky": function})(x)[0, 0] == 15
    assert entries == 2 == len(list(tmp_path.rglob("*.cnncc")))


def test_definitions(tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    path.write_text("input: {x: [N, 3, 6]}\nlayers:\n  - {op: leaky, alpha: 0.5, act: leaky}\n"
                    "  - {op: blur, s: [2]}\n")
    blur = cnncc.op("y[n,c,{p}] += x[n,c,{p*s+r-1|1}]", R=3, s=1)
    ops, x = {"leaky": LEAKY, "blur": blur}, floats(2, 3, 6)
    y = np.where(x < 0, x * 0.05, x)
    expected = sum(pad(y, 1)[:, :, r:r + 6:2] for r in range(3))
    np.testing.assert_allclose(cnncc.compile(path, ops=ops)(x), expected, atol=1e-6)
    path.write_text("input: {x: [N, 3]}\nlayers:\n  - {op: leaky, beta: 0.5}\n")
    with pytest.raises(ModelError, match=r"line 3: leaky takes alpha.*not 'beta'"):
        cnncc.compile(path, ops=ops)


def test_written_as_onnx_and_read_back(tmp_path: Path) -> None:
    b = cnncc.Builder()
    x = b.input("x", ["N", 3, 6])
    blur = cnncc.op("y[n,c,{p}] += x[n,c,{p*s+r-1|1}] * f", R=3, s=1, f=0.5)
    graph = b.graph(y=b.layer(blur, b.layer(LEAKY, b.relu(x)), s=(2,)), z=b.layer(LEAKY, x, alpha=0.25))
    path = tmp_path / "custom.onnx"
    cnncc.convert(graph, path)
    onnx.checker.check_model(onnx.load(path))
    array = floats(2, 3, 6)
    again = cnncc.compile(path, ops={"my.domain.Leaky": LEAKY})(array)
    for a, c in zip(again, cnncc.compile(graph)(array), strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-6)


@pytest.mark.parametrize("text, message", [
    ("y[n] = x[n", "never closed"), ("y[n,c,d] += x[n,c] * w[d]", "1 inputs, its formula 2"),
    ("y[n,r] += x[n,c] * R", "no attribute"), ("", "not a formula"), ("y[n,c] = x[n,c-7|7]", "leaves")])
def test_hostile_formulas_in_files(text: str, message: str) -> None:
    node = helper.make_node("Formula", ["x"], ["y"], "f", domain="cnncc", formula=text)
    if "R" in text:
        node.attribute.append(helper.make_attribute("Q", 5))
    with pytest.raises(ModelError, match=message):
        cnncc.compile(model([node], {"x": ["N", 3]}, ["y"]))
