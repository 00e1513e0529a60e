"""A sample of everything for every level of the instruction set, on CPUs that have it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from kernels import Net, Oracle, check_exact, check_sums, compiled, feeds, machine, missing, poison, results
from samples import SAMPLES

import cnncc
from cnncc.codegen.worker import assembly
from cnncc.compiler import optimize, plan
from cnncc.ir.errors import CnnccError
from cnncc.ir.target import LEVELS, Target, target_for


@pytest.fixture(params=sorted(LEVELS))
def target(request: pytest.FixtureRequest) -> Target:
    if absent := missing(request.param):
        pytest.skip(f"this CPU has no {absent}")
    return target_for(request.param, "strict")


@pytest.mark.parametrize("name", [n for i, n in enumerate(SAMPLES) if i % 3 == 0 or "conv" not in n])
def test_exact(name: str, target: Target) -> None:
    check_exact(SAMPLES[name](), 1, 3, reach=2, target=target)


@pytest.mark.parametrize(("c", "k", "r", "g"), [(37, 21, 3, 1), (33, 33, 5, 33), (64, 70, 1, 1)])
def test_sums(c: int, k: int, r: int, g: int, target: Target) -> None:
    net = Net(real=True)
    graph = net.result(net.conv(net.x("N", c, 13, 17), k, (r, r), begin=(r // 2,) * 2, group=g))
    check_sums(graph, c // g * r * r, feeds(graph, 2, real=True), target)


def test_functions(target: Target) -> None:
    net = Net(real=True)
    x = net.x("N", 100)
    graph = net.result(net.op("exp", [x], "exp"), net.op("softmax", [x], "softmax", axis=1))
    inputs = {"x0": np.random.default_rng(0).uniform(-4, 4, (9, 100)).astype(np.float32)}
    model = compiled(graph, target)
    poison(model, inputs)
    got = results(model, inputs)
    np.testing.assert_allclose(got["y0"], np.exp(np.float64(inputs["x0"])), rtol=4 * 2.0 ** -23)
    np.testing.assert_allclose(
        got["y1"], Oracle(graph, inputs).outputs["y1"], rtol=20 * 2.0**-23, atol=2.0**-126
    )


def test_specials(target: Target) -> None:
    net = Net()
    x = net.pool(net.x("N", 19, 6, 6), "max_pool", (3, 3), (1, 1), begin=(1, 1))
    graph = net.result(x, net.op("clip", [x], "clip", low=-1.0, high=1.0))
    a = np.random.default_rng(0).standard_normal((2, 19, 6, 6)).astype(np.float32)
    a[0, 3, 2, 2], a[1, 18, 5, 5], a[1, 0, 0, 0] = np.nan, -np.inf, np.inf
    got, oracle = results(compiled(graph, target), {"x0": a}), Oracle(graph, {"x0": a})
    for name, expected in oracle.outputs.items():
        np.testing.assert_array_equal(got[name], expected.astype(np.float32))


def test_instructions(target: Target) -> None:
    """Each level uses the vectors it has, and none that it hasn't."""
    net = Net()
    y = net.relu(net.bias(net.conv(net.x("N", 24, 20, 20), 40, (3, 3), begin=(1, 1))))
    y = net.op("softmax", [net.linear(net.flatten(net.pool(y, "max_pool", (3, 3), (2, 2))), 20)], "p", axis=1)
    text = "\n".join(
        assembly(t, machine(target)) for _, t in plan(optimize(net.result(y), target)).texts(target)
    )
    assert ("vfmadd" in text and "%ymm" in text) == (target.lanes > 4) == ("\tv" in text)
    wide = re.findall(r"%zmm\d+|%[xy]mm(?:1[6-9]|2\d|3[01])|%k[0-7]\b", text)
    assert bool(wide) == (target.lanes == 16)


def test_compile_takes_the_name_of_a_level(target: Target) -> None:
    net = Net()
    graph = net.result(net.relu(net.x("N", 20)))
    model = cnncc.compile(graph, target=target.level, cache=False)
    assert model.meta["target"]["features"] == LEVELS[target.level][1]


def test_levels_this_cpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    import cnncc.ir.target as module

    monkeypatch.setattr(
        module, "host_features", lambda: frozenset(f[1:] for f in LEVELS["x86-64-v3"][1].split(","))
    )
    module.target_for.cache_clear()
    try:
        assert module.target_for().level == "x86-64-v3"
        with pytest.raises(CnnccError, match="x86-64-v4"):
            module.target_for("x86-64-v4")
        monkeypatch.setattr(module, "host_features", frozenset)
        module.target_for.cache_clear()
        with pytest.raises(CnnccError, match=r"SSE4\.2"):
            module.target_for()
    finally:
        module.target_for.cache_clear()
