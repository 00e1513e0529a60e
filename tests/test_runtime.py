"""The runtime: a plan of kernels written by hand, loaded, called in every way, saved, opened, profiled."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import binding as llvm

from cnncc.codegen.driver import driver
from cnncc.codegen.threads import pool_ir
from cnncc.codegen.worker import Machine, compile_text
from cnncc.ir.errors import ArtifactError, InputError
from cnncc.ir.plan import Place, Plan, Step, Value
from cnncc.runtime import artifact, loader, profiler
from cnncc.runtime.model import CompiledModel, load
from cnncc.runtime.profiler import StepTime

REPOSITORY = Path(__file__).resolve().parent.parent
MACHINE = Machine(llvm.get_default_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
ROW, ROWS = 16, 4           # floats in a row, which is a task; rows in a unit of the batch
BYTES = 4 * ROW * ROWS


def kernel(name: str, operands: int, body: str) -> str:
    """A kernel over rows: `body` makes %v, to be stored, of elements of the operands before, %a, %b ..."""
    letters = "abcdef"[:operands - 1]
    load = "\n".join(f"  %s{x} = getelementptr i64, ptr %args, i64 {2 + i}\n  %p{x} = load ptr, ptr %s{x}"
                     for i, x in enumerate(letters + "z"))
    fetch = "\n".join(f"  %q{x} = getelementptr float, ptr %p{x}, i64 %i\n"
                      f"  %{x} = load float, ptr %q{x}, align 4" for x in letters)
    return f"""
declare float @llvm.maxnum.f32(float, float)
define void @{name}(ptr %args, i64 %begin, i64 %end, i64 %thread) nounwind {{
entry:
{load}
  %sg = getelementptr i64, ptr %args, i64 1
  %scratch0 = load ptr, ptr %sg
  %own = mul i64 %thread, 4096
  %scratch = getelementptr i8, ptr %scratch0, i64 %own
  %first = mul i64 %begin, {ROW}
  %last = mul i64 %end, {ROW}
  br label %loop
loop:
  %i = phi i64 [ %first, %entry ], [ %i1, %loop ]
{fetch}
{body}
  %qz = getelementptr float, ptr %pz, i64 %i
  store float %v, ptr %qz, align 4
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %last
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""


KERNELS = [
    kernel("double", 2, "  %v = fmul float %a, 2.0"),
    kernel("add", 3, "  store volatile float %a, ptr %scratch\n  %c = load volatile float, ptr %scratch\n"
                     "  %v = fadd float %c, %b"),
    kernel("relu", 2, "  %v = call float @llvm.maxnum.f32(float %a, float 0.0)"),
]


def step(symbol: str, *places: Place, batched: bool = True, nodes: tuple[str, ...] = ()) -> Step:
    return Step(symbol, places, ROWS if batched else 1, batched, 4096, nodes, symbol, BYTES // 4, 3 * BYTES)


X, Y, C, W = Place("input", 0), Place("output", 0), Place("output", 1), Place("weights", 64)
T, U = Place("work", 0), Place("work", BYTES)
SHAPE = ("N", ROWS, ROW)
# y = relu(2x + x), c = 2 * weights
PLAN = Plan(
    "tiny", (Value("x", "float32", SHAPE),), (Value("y", "float32", SHAPE), Value("c", "float32", (ROW,))),
    (step("double", X, T, nodes=("scale",)), step("add", T, X, U, nodes=("sum", "identity")),
     step("double", W, C, batched=False, nodes=("constant",)), step("relu", U, Y, nodes=("act",))),
    2 * BYTES, 4096, 128, "N")
SINGLE = Plan("single", PLAN.inputs, PLAN.outputs[:1], (step("relu", X, Y, nodes=("act",)),), 0, 0, 0, "N")
FIXED = Plan("fixed", (Value("a", "float32", (ROWS, ROW)), Value("b", "float32", (ROWS, ROW))),
             (Value("y", "float32", (ROWS, ROW)),), (step("add", X, Place("input", 1), Y),), 0, 4096, 0, None)
HUGE = Plan("huge", SINGLE.inputs, SINGLE.outputs, SINGLE.steps, 1 << 50, 0, 0, "N")
META: dict[str, Any] = {"target": {"features": "+sse4.2"}, "folded": {"bn1": "into scale"}}
WEIGHTS = np.zeros(128, np.uint8)
WEIGHTS[64:].view(np.float32)[:] = np.arange(ROW)

_objects: dict[str, bytes] = {}


def objects(plan: Plan) -> list[bytes]:
    texts = [*KERNELS, driver(plan), pool_ir()]
    for text in texts:
        if text not in _objects:
            _objects[text] = compile_text(text, MACHINE)
    return [_objects[text] for text in texts]


def model(plan: Plan = PLAN, threads: int | None = 1, **meta: Any) -> CompiledModel:
    weights = WEIGHTS if plan.weights else np.empty(0, np.uint8)
    return CompiledModel(plan, objects(plan), weights, {**META, **meta}, threads)


def data(n: int = 3) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, ROWS, ROW), np.float32)


def check(x: np.ndarray, results: Any) -> None:
    y, c = results
    np.testing.assert_array_equal(y, np.maximum(2 * x + x, 0))
    np.testing.assert_array_equal(c, 2 * np.arange(ROW))


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_batches_and_threads(threads: int) -> None:
    m = model(threads=threads)
    assert m.threads == threads
    for n in (1, 3, 64, 1, 64):
        check(data(n), m(data(n)))
    m.threads = 5 - threads
    check(data(64), m(data(64)))
    assert len(m._free) == 1


def test_what_it_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    m = model()
    assert m.name == "tiny" and m.inputs == PLAN.inputs and m.outputs == PLAN.outputs
    assert repr(m) == "<CompiledModel 'tiny': x: float32[N, 4, 16] -> y: float32[N, 4, 16], c: float32[16]>"
    summary = m.summary()
    for text in ("4 kernel calls", "4/batch", "scale", "sum, identity", "constant", "act", "bn1 (into"):
        assert text in summary
    for wrong in (0, -1, 5000, "two"):
        with pytest.raises(InputError, match="threads"):
            m.threads = wrong       # type: ignore[assignment]
    monkeypatch.setenv("CNNCC_NUM_THREADS", "3")
    assert model(threads=None).threads == 3


def test_ways_to_call() -> None:
    m, x = model(), data()
    check(x, m(x=x))
    check(x, m.run(None, {"x": x}))
    check(x, m.run([], {"x": x}))
    check(x, m.run(["c", "y"], {"x": x})[::-1])
    y = model(SINGLE)(x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    fixed = model(FIXED)
    np.testing.assert_array_equal(fixed(b=x[0], a=x[1]), x[0] + x[1])
    np.testing.assert_array_equal(fixed(x[1], b=x[0]), x[0] + x[1])


def test_wrong_calls() -> None:
    m, x = model(), data()
    calls = [((), {}), ((x, x), {}), ((x,), {"x": x}), ((), {"z": x}), ((x.astype(np.float64),), {}),
             ((x[:, 1:],), {}), ((x[:0],), {}), ((x[0],), {}), ((object(),), {})]
    for args, feeds in calls:
        with pytest.raises(InputError):
            m(*args, **feeds)
    with pytest.raises(InputError, match="unknown output 'z'"):
        m.run(["z"], {"x": x})
    with pytest.raises(InputError, match="'z'"):
        m.run(None, {"z": x})
    with pytest.raises(InputError, match="repeat"):
        m.profile(x, repeat=0)
    check(x, m(x))


def test_inputs_of_any_stride_and_alignment() -> None:
    m, x = model(), data()
    raw = np.zeros(x.nbytes + 1, np.uint8)
    odd = raw[1:].view(np.float32).reshape(x.shape)
    odd[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.repeat(x, 2, axis=2)
    for given in (odd, frozen, wide[:, :, ::2], np.asfortranarray(x), np.ascontiguousarray(x[::-1])[::-1],
                  np.ma.masked_array(x)):
        before = given.copy()
        check(x, m(given))
        np.testing.assert_array_equal(given, before)
    same = np.broadcast_to(x[:1], x.shape)
    check(same, m(same))


def test_out() -> None:
    m, x = model(SINGLE), data()
    out = np.empty_like(x)
    assert m(x, out=out) is out
    np.testing.assert_array_equal(out, np.maximum(x, 0))
    both = [np.empty_like(x), np.empty(ROW, np.float32)]
    results = model()(x, out=both)
    assert results[0] is both[0] and results[1] is both[1]
    check(x, results)
    frozen = np.empty_like(x)
    frozen.flags.writeable = False
    large = np.empty((4, ROWS, ROW), np.float32)
    odd = np.empty(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    sparse = np.empty((3, ROWS, 2 * ROW), np.float32)[..., ::2]
    for wrong, reason in [(x, "overlaps"), (frozen, "writable"), (sparse, "contiguous"), (odd, "aligned"),
                          (large, "expected"), (np.empty(x.shape), "expected"), ([out, out], "expected 1"),
                          ([None], "expected"), ([], "expected 1")]:
        with pytest.raises(InputError, match=reason):
            m(x, out=wrong)
    large[:3] = x
    with pytest.raises(InputError, match="overlaps"):
        m(large[:3], out=large[1:])
    shared = np.empty(x.size + ROW, np.float32)
    with pytest.raises(InputError, match="overlaps"):
        model()(x, out=(shared[:x.size].reshape(x.shape), shared[x.size - 1:-1][:ROW]))
    # A strided input is copied first, so it may be overwritten.
    strided = x[::-1]
    np.testing.assert_array_equal(m(strided, out=x), np.maximum(data()[::-1], 0))


def test_memory_that_is_not_there() -> None:
    m = model(HUGE)
    with pytest.raises(InputError, match=r"batch of 3 on 1 threads .* 3,377,699,720,527,872 bytes"):
        m(data(3))
    with pytest.raises(InputError, match="batch of 3"):
        m(data(3))


def test_denormals_are_flushed_inside_only() -> None:
    x = np.full((1, ROWS, ROW), 1e-40, np.float32)
    for threads in (1, 2):
        y, _ = model(threads=threads)(x)
        assert not y.any()
        assert (x * np.float32(0.5) > 0).all()


def test_many_callers() -> None:
    m = model(threads=2)
    failures: list[BaseException] = []

    def call(seed: int) -> None:
        try:
            for i in range(300):
                x = data(1 + (seed + i) % 5)
                check(x, m(x))
        except BaseException as error:
            failures.append(error)
    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for t in callers:
        t.start()
    for t in callers:
        t.join()
    assert not failures
    assert 1 <= len(m._free) <= 4


def test_fork() -> None:
    m, x = model(threads=2), data(64)
    check(x, m(x))
    child = os.fork()
    if child == 0:
        try:
            check(x, m(x))
            check(x, model(threads=3)(x))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    check(x, m(x))


def test_profile() -> None:
    m, x = model(threads=2), data(5)
    check(x, m(x))
    times = m.profile(x, repeat=5)
    assert [t.index for t in times] == [0, 1, 2, 3] and [t.tasks for t in times] == [20, 20, 1, 20]
    assert all(t.seconds >= 0 and t.flops == 5 * BYTES // 4 for t in times)
    assert sum(t.share for t in times) == pytest.approx(1) or not any(t.seconds for t in times)
    text = m.format_profile(times, profiler.Roof(1e11, 1e11, 1e10, 1 << 20))
    for part in ("% roof", "scale", "sum, identity", "constant", "act", "bn1 (into scale)"):
        assert part in text
    assert "roof" not in profiler.format_profile(times)
    assert len({line.index("act") for line in text.splitlines() if "act" in line}) == 1
    check(x, m(x))              # the bounds of the last step are gone
    check(data(2), m(data(2)))


def test_ranges_of_steps() -> None:
    ran = []
    times = profiler.measure(PLAN.steps, 2, lambda first, last: ran.append((first, last)), 2)
    steps = [(i, j) for i in range(4) for j in (i, i, i + 1)]
    assert ran == [(0, 4), *steps, *steps]
    assert len(times) == 4 and times[0].flops == 2 * PLAN.steps[0].flops
    short = [replace(times[0], seconds=0.0), replace(times[1], seconds=2e-6)]
    rows = [line.split()[1] for line in profiler.format_profile(short).splitlines()]
    assert rows == ["us", "<0.1", "2.00", "2.00"]


def test_what_limits_a_step() -> None:
    t = StepTime(0, "k", ("a|b",), "conv", 1, 8000, 1000, 1e-6, 1.0, "f32[1, 2]")
    assert profiler.Roof(1e10, 1e10, 1e9, 1000).limit(t) == ("FMA", pytest.approx(0.8))
    assert profiler.Roof(1e11, 2e9, 1e9, 1000).limit(t) == ("cache", pytest.approx(0.5))
    assert profiler.Roof(1e11, 1e11, 4e9, 999).limit(t) == ("memory", pytest.approx(0.25))
    assert profiler.Roof(1e10, 1e10, 1e9, 1000).limit(replace(t, seconds=0.0))[1] == 0
    text = profiler.format_profile([t, t], profiler.Roof(1e11, 2e9, 1e9, 1000), markdown=True).splitlines()
    assert len({line.count("|") for line in text}) == 1 and len(text) == 5
    assert "| 50%* | 1 | f32[1, 2] | conv | a&#124;b |" in text[2] and text[-1].count("50%") == 1


def test_models_are_freed() -> None:
    m = model()
    m(data())
    memory, gone = weakref.ref(m._free[0].memory), weakref.ref(m)
    gc.disable()
    del m
    assert gone() is None and memory() is None
    gc.enable()


def test_objects_that_do_not_fit_together(capfd: pytest.CaptureFixture[str]) -> None:
    *kernels, main, pool = objects(PLAN)
    for wrong in ([main], [*kernels], [*kernels, main, main], [b"nonsense", main], [main[:200]], []):
        with pytest.raises(ArtifactError, match="cannot be loaded"):
            loader.load_code(wrong, pool)
    assert capfd.readouterr().err == ""
    with pytest.raises(ArtifactError, match="weights"):
        CompiledModel(PLAN, objects(PLAN), WEIGHTS[:64], META)
    with pytest.raises(ArtifactError, match="objects"):
        CompiledModel(PLAN, [], WEIGHTS, META)


def test_weights_of_any_alignment() -> None:
    raw = np.zeros(256, np.uint8)
    weights = raw[1:129]
    weights[:] = WEIGHTS
    check(data(), CompiledModel(PLAN, objects(PLAN), weights, META, 1)(data()))


CHILD = """
import sys
import numpy as np
from cnncc.runtime.model import load
m = load(sys.argv[1], threads=2, verify=True)
x = np.load(sys.argv[2])
y, c = m(x)
np.savez(sys.argv[3], y=y, c=c)
m.save(sys.argv[1] + ".again")
bad = [n for n in sys.modules if n.startswith(("cnncc.codegen", "cnncc.passes", "cnncc.frontend"))
       or n in ("onnx", "networkx")]
assert not bad, bad
"""


def test_saved_and_opened_by_another_process(tmp_path: Path) -> None:
    path, x = tmp_path / "tiny.cnncc", data(5)
    model().save(path)
    np.save(tmp_path / "x.npy", x)
    subprocess.run([sys.executable, "-c", CHILD, path, tmp_path / "x.npy", tmp_path / "y.npz"],
                   cwd=REPOSITORY, check=True, timeout=60)
    with np.load(tmp_path / "y.npz") as found:
        check(x, (found["y"], found["c"]))
    assert Path(f"{path}.again").read_bytes() == path.read_bytes()
    m = load(path)
    assert m.plan == PLAN and m.meta == META
    check(x, m(x))


def test_opened_by_a_later_version_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the number of the native interface, neither the package's version nor the place."""
    artifact.write(tmp_path / "m.cnncc", {**model().record(), "version": "99.1"}, b"".join(objects(PLAN)),
                   WEIGHTS.data)
    (tmp_path / "other").mkdir()
    (tmp_path / "m.cnncc").rename(tmp_path / "other" / "moved.cnncc")
    monkeypatch.chdir(tmp_path / "other")
    m, x = load("moved.cnncc", verify=True), data(3)
    monkeypatch.chdir("/")
    check(x, m(x))
    assert m.meta["version"] == "99.1"


def test_artifacts_that_are_refused(tmp_path: Path) -> None:
    path, m = tmp_path / "m.cnncc", model()

    def refused(reason: str, **changes: Any) -> None:
        meta = {k: v for k, v in {**m.record(), **changes}.items() if v is not None}
        artifact.write(path, meta, b"".join(objects(PLAN)), WEIGHTS.data)
        with pytest.raises(ArtifactError, match=reason) as caught:
            load(path)
        assert str(path) in str(caught.value)
    refused("no nosuchfeature: compile", target={"features": "+sse4.2,+nosuchfeature,-avx"})
    refused("native interface", abi=loader.ABI + 1)
    refused("native interface", abi=None)
    refused("incomplete", target=None)
    refused("incomplete", target=7)
    refused("incomplete", plan=None)
    refused("incomplete", plan={**PLAN.record(), "steps": [{"symbol": "x"}]})
    refused("weights", plan={**PLAN.record(), "weights": 64})
    refused("incomplete", objects=None)
    refused("incomplete", objects=["x"])
    refused("damaged object code", objects=[])
    refused("damaged object code", objects=[*map(len, objects(PLAN)), 1])
    artifact.write(path, m.record(), b"nonsense", WEIGHTS.data)
    with pytest.raises(ArtifactError, match=r"m\.cnncc: damaged object code"):
        load(path)
    artifact.write(path, m.record(), b"".join(objects(PLAN)), WEIGHTS.data)
    with pytest.raises(InputError, match="threads"):
        load(path, threads=0)
