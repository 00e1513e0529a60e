"""The command line: every verb, exit codes, what it says of bad input, nothing left behind."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import floats, model, single

import cnncc
from cnncc.cli import main

DIGITS = str(Path(cnncc.__file__).parent / "data" / "digits.onnx")
ROOT = Path(cnncc.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here, so that digits.onnx is compiled once."""
    return tmp_path_factory.mktemp("cache", numbered=True)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, no settings from outside."""
    for name in [n for n in os.environ if n.startswith("CNNCC_") or n == "OMP_NUM_THREADS"]:
        if name != "CNNCC_CI":
            monkeypatch.delenv(name)
    cache_folder.chmod(0o700)
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(cache_folder))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    logging.getLogger("cnncc").handlers.clear()     # of a stderr that is gone
    logging.getLogger("cnncc").setLevel(logging.NOTSET)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command: (exit code, stdout, stderr)."""
    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(args)
        out, err = capsys.readouterr()
        return code, out, err
    return run


def good(answer: tuple[int, str, str]) -> str:
    code, out, err = answer
    assert (code, err) == (0, "")
    return out


def bad(answer: tuple[int, str, str], *words: str) -> None:
    """Exit code 1 and one line, or a list, that says all of `words`."""
    code, out, err = answer
    assert code == 1 and out == "", (code, out, err)
    assert err.startswith("error: ") and "Traceback" not in err
    for word in words:
        assert word in err
    assert os.listdir() == ["f"] or os.listdir() == []


def digits(n: int) -> tuple[np.ndarray, np.ndarray]:
    with np.load(Path(DIGITS).with_suffix(".npz"), allow_pickle=False) as data:
        return data["images"][:n, None].astype(np.float32) / 16, data["labels"][:n]


def folder_of_inputs() -> None:
    x, _ = digits(3)
    os.mkdir("f")
    np.save("f/x.npy", x)
    np.savez("f/x.npz", x=x, y=np.zeros(3))
    np.savez("f/one.npz", other=x)
    np.savez("f/two.npz", a=x, b=x)
    np.save("f/double.npy", x.astype(np.float64))
    np.save("f/narrow.npy", x[..., :7])
    np.save("f/object.npy", np.array([{}], dtype=object))
    whole = Path("f/x.npy").read_bytes()
    Path("f/cut.npy").write_bytes(whole[:300])
    Path("f/empty.npy").write_bytes(b"")
    Path("f/huge.npy").write_bytes(whole.replace(b"(3, 1, 8, 8)", b"(1099511627776, 1, 8, 8)")[:128])
    Path("f/x.txt").write_text("1")
    Path("f/no.png").write_text("1")


# ---- good


def test_version_and_help(say: Any) -> None:
    assert good(say("--version")) == f"cnncc {cnncc.__version__}\n"
    out = good(say("--help"))
    for verb in ("demo", "compile", "run", "bench", "info", "show", "profile", "verify", "cache", "env"):
        assert f"\n  {verb} " in out
        assert "--help" in good(say(verb, "--help"))


def test_help_imports_nothing_heavy() -> None:
    code = ("import sys; from cnncc.cli import main; main(['--help'])\n"
            "print([m for m in ('numpy', 'onnx', 'llvmlite', 'rich', 'networkx', 'logging', 'PIL') "
            "if m in sys.modules], file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr == "[]\n"


def test_module_and_broken_pipe() -> None:
    command = [sys.executable, "-m", "cnncc", "show", "--after", "list", DIGITS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_compile_and_artifact(say: Any) -> None:
    out = good(say("compile", DIGITS, "-o", "d.cnncc"))
    assert "takes x: float32[N, 1, 8, 8]" in out and "d.cnncc" in out
    for node in ("conv1", "bn2", "flatten1", "softmax1"):
        assert node in out
    assert os.listdir() == ["d.cnncc"]
    assert "takes x: float32[N, 1, 8, 8]" in good(say("info", "d.cnncc"))
    record = json.loads(good(say("compile", DIGITS, "--json", "--threads", "1")))
    assert record["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", 1, 8, 8]}]
    x, labels = digits(4)
    np.save("x.npy", x)
    out = json.loads(good(say("run", "d.cnncc", "x.npy", "--json", "--top", "2")))["probabilities"]
    assert [row[0]["class"] for row in out["top"]] == labels.tolist() and len(out["top"][0]) == 2
    assert json.loads(good(say("info", "d.cnncc", "--json")))["plan"]["name"] == "digits"
    for verb in ("compile", "show", "verify", "bench"):
        code, _, err = say(verb, "d.cnncc")
        assert code == 1 and "needs the .onnx file" in err


@pytest.mark.parametrize("files", [["f/x.npy"], ["f/x.npz"], ["f/one.npz"], ["x=f/x.npy"], ["x=f/one.npz"]])
def test_run_arrays(say: Any, files: list[str]) -> None:
    folder_of_inputs()
    Path("f/labels").write_text("\n".join(["zero", "one", "two", "three", "four", "five", "six", "seven"]))
    out = good(say("run", DIGITS, *files, "--labels", "f/labels", "--top", "1"))
    assert "float32[3, 10]" in out and "  0: seven 0.9" in out
    code, out, err = say("run", DIGITS, *files, "--output", "f/out.npz")
    assert (code, out) == (0, "") and "probabilities" in err
    with np.load("f/out.npz", allow_pickle=False) as written:
        assert written["probabilities"].shape == (3, 10)


def test_run_images(say: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    x, labels = digits(2)
    for i in range(2):
        pixels = np.repeat(np.repeat((x[i, 0] * 255).astype(np.uint8), 5, 0), 5, 1)
        image.fromarray(pixels).save(f"{i}.png")
    out = json.loads(good(say("run", DIGITS, "0.png", "1.png", "--json")))["probabilities"]
    assert out["shape"] == [2, 10] and [row[0]["class"] for row in out["top"]] == labels.tolist()
    code, out, err = say("run", DIGITS, "0.png", "--mean", "1,2,3")
    assert code == 1 and "mean: expected 1 number, got 3" in err
    code, out, err = say("run", DIGITS, "0.png", "--layout", "nhwc")
    assert code == 1 and "--layout" in err
    code, out, err = say("run", DIGITS, "0.png", "x=1.png")
    assert code == 1 and "0.png" in err


def test_images_become_the_inputs_they_should(say: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    onnx.save(single("Relu", [1, 3, 2, 4]), "m.onnx")
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image.fromarray(rgb).save("a.png")
    say("run", "m.onnx", "a.png", "--scale", "1", "--mean", "1,2,3", "--std", "2", "--output", "y.npz")
    with np.load("y.npz", allow_pickle=False) as y:
        expected = np.maximum((rgb.astype(np.float32) - [1, 2, 3]) / 2, 0).transpose(2, 0, 1)[None]
        np.testing.assert_allclose(y["y"], expected.astype(np.float32))
    bad_batch = say("run", "m.onnx", "a.png", "a.png")
    assert bad_batch[0] == 1 and "a.png, a.png: input 'x': expected shape [1, 3, 2, 4]" in bad_batch[2]


def test_run_several_inputs_and_nan(say: Any) -> None:
    add = helper.make_node("Add", ["a", "b"], ["y"])
    onnx.save(model([add], {"a": [2, 3, 4], "b": [2, 3, 4]}, ["y"]), "m.onnx")
    np.save("a.npy", floats(2, 3, 4))
    np.save("b.npy", np.full((2, 3, 4), np.nan, np.float32))
    out = json.loads(good(say("run", "m.onnx", "b=b.npy", "a.npy", "--json")))
    assert out == {"y": {"dtype": "float32", "shape": [2, 3, 4], "min": None, "mean": None, "max": None}}
    code, _, err = say("run", "m.onnx", "a.npy")
    assert code == 1 and "missing input 'b'" in err


def test_info(say: Any) -> None:
    out = good(say("info", DIGITS))
    assert "opset" in out and "3 Conv" in out and "everything in it can be compiled" in out
    nodes = [helper.make_node("Det", ["x"], ["h"], name="first"),
             helper.make_node("Strange", ["h"], ["y"], name="second")]
    onnx.save(model(nodes, {"x": [2, 3]}, ["y"]), "m.onnx")
    out = good(say("info", "m.onnx"))
    assert "Det 'first'" in out and "Strange 'second'" in out
    assert len(json.loads(good(say("info", "m.onnx", "--json")))["unsupported"]) == 2
    code, _, err = say("compile", "m.onnx")
    assert code == 1 and "Det 'first'" in err and "Strange 'second'" in err


def test_names_cannot_control_the_terminal(say: Any) -> None:
    onnx.save(model([helper.make_node("Relu", ["x"], ["y\x1b]0;hi\x07"])], {"x": [2, 3]}, ["y\x1b]0;hi\x07"]),
              "m.onnx")
    _, out, err = say("info", "m.onnx")
    assert "\x1b" not in out + err and "\x07" not in out + err


def test_show(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = [line.split()[0] for line in good(say("show", DIGITS, "--after", "list")).splitlines()]
    assert passes[0] == "read" and "fuse" in passes and passes == list(json.loads(
        good(say("show", DIGITS, "--after", "list", "--json"))))
    assert "batch_norm(" in good(say("show", DIGITS, "--after", "read"))
    monkeypatch.setenv("CNNCC_DUMP", "dump")
    final = good(say("show", DIGITS))
    assert [name.split("-")[1] for name in sorted(os.listdir("dump"))] == [f"{p}.txt" for p in passes]
    monkeypatch.setenv("CNNCC_DUMP", "every")
    good(say("compile", DIGITS))
    assert sorted(os.listdir("every")) == sorted(os.listdir("dump"))
    monkeypatch.delenv("CNNCC_DUMP")
    assert "kernel(" in final and "return probabilities=" in final
    one = good(say("show", DIGITS, "--node", "relu2"))
    assert one.count(" = kernel(") == 1 and "conv2" in one
    assert good(say("show", DIGITS, "--emit", "kernels")).count(" = kernel(") == final.count(" = kernel(")
    assert json.loads(good(say("show", DIGITS, "--json")))["after"] == passes[-1]
    code, _, err = say("show", DIGITS, "--after", "nonsense")
    assert code == 1 and all(p in err for p in passes)
    code, _, err = say("show", DIGITS, "--node", "relu9")
    assert code == 1 and "'relu2'" in err


def test_show_native_code(say: Any) -> None:
    text = good(say("show", DIGITS, "--emit", "llvm", "--node", "conv2", "--precision", "strict"))
    assert text.count("; ----") == 1 and "define" in text and "conv2" in text
    assert good(say("show", DIGITS, "--emit", "llvm")).count("; ----") > 3
    assert "vfmadd" in good(say("show", DIGITS, "--emit", "asm", "--node", "conv2"))
    assert "zmm" not in good(say("show", DIGITS, "--emit", "asm", "--node", "conv2", "--target", "x86-64-v3"))
    assert say("show", DIGITS, "--emit", "asm", "--after", "fuse")[0] == 2


def test_show_why(say: Any) -> None:
    for node in ("relu2", "gemm1", "softmax1"):
        out = good(say("show", DIGITS, "--why", node))
        assert "->" in out and "cycles" in out and "computes" in out and node in out
        found = json.loads(good(say("show", DIGITS, "--why", node, "--json")))["kernels"]
        assert found and all(k["chosen"] is not None for k in found)
        assert all(k["best"] == sorted(k["best"], key=lambda row: row[0]) for k in found)
    nodes = [helper.make_node("Flatten", ["x"], ["h"], name="view"), helper.make_node("Relu", ["h"], ["y"])]
    onnx.save(model(nodes, {"x": [2, 3, 4]}, ["y"]), "m.onnx")
    assert good(say("show", "m.onnx", "--why", "view")) == "no kernel: a view\n"


def test_show_check(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    out = good(say("show", DIGITS, "--check"))
    assert "fold_batchnorm" in out and "WRONG" not in out
    assert all(row["ok"] for row in json.loads(good(say("show", DIGITS, "--check", "--json"))))
    from cnncc import compiler
    passes = compiler.pipeline()

    def break_weights(graph: Any, target: Any) -> Any:
        return replace(graph, constants={k: 2 * v for k, v in graph.constants.items()})
    monkeypatch.setattr(compiler, "pipeline", lambda tuned=None: (passes[0], break_weights, *passes[1:]))
    code, out, _ = say("show", DIGITS, "--check")
    wrong = [line.split()[0] for line in out.splitlines() if "WRONG" in line]
    assert code == 1 and wrong == ["break_weights"]


def test_profile(say: Any) -> None:
    out = good(say("profile", DIGITS, "--threads", "1", "--batch", "2"))
    for node in ("conv1", "bn3", "pool2", "flatten1", "softmax1"):
        assert node in out
    found = json.loads(good(say("profile", DIGITS, "--json", "--threads", "2")))
    assert found["threads"] == 2 and found["peak"] > 0 and found["roof"]["near"] > 0
    assert all(s["result"] for s in found["steps"]) and len(found["limits"]) == len(found["steps"])
    assert {row["limit"] for row in found["limits"]} <= {"FMA", "cache", "memory"}
    out = good(say("profile", DIGITS, "--threads", "1", "--markdown"))
    assert out.startswith("| step | us | share |") and "% roof" in out


def test_verify(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the compiled model is right" in good(say("verify", DIGITS))
    folder_of_inputs()
    found = json.loads(good(say("verify", DIGITS, "f/x.npy", "--json")))
    assert found["ok"] and found["outputs"][0]["error"] < found["outputs"][0]["limit"] and not found["values"]
    from cnncc.runtime.model import CompiledModel
    run = CompiledModel.run
    monkeypatch.setattr(CompiledModel, "run", lambda *args: [y * np.float32(1.001) for y in run(*args)])
    code, out, _ = say("verify", DIGITS)
    assert code == 1 and "MISMATCH, first in" in out and "conv1" in out.splitlines()[-1]
    code, out, _ = say("verify", DIGITS, "--json")
    assert code == 1 and not json.loads(out)["ok"]


def test_verify_finds_a_reference_that_is_wrong() -> None:
    from cnncc.verify import PLAUSIBLE, Report, Row, error_of, tolerance
    row = Row("y", ("node",), 1e-6, 3e-6)
    assert Report((row,), {"onnxruntime": 1e-6}, ()).ok
    assert not Report((row,), {"onnxruntime": 0.5}, ()).ok
    assert not Report((replace(row, error=float("nan")),), {}, ()).ok
    assert tolerance([], "strict") == tolerance([1e-9, 2 * PLAUSIBLE], "strict") == pytest.approx(3e-6)
    assert tolerance([1e-5, 1e-6], "strict") == pytest.approx(3e-5)
    assert tolerance([1e-5, 1e-6]) == pytest.approx(2e-4)
    nan, one = np.array([np.nan, 1.0]), np.array([1.0, 1.0])
    assert error_of(nan, nan) == 0 and error_of(nan, one) == error_of(one, nan) == float("inf")
    assert error_of(np.array([1.0, 3.0]), np.array([1.0, 4.0])) == 0.25


def test_bench(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnncc.bench import engines
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "openvino" else name)
    args = ("--against", "numpy,openvino", "--seconds", "0.02", "--json")
    found = json.loads(good(say("bench", DIGITS, *args)))
    ours, reference, missing = found["results"]
    assert ours["engine"] == "cnncc" and ours["ratio"] == 1 and ours["error"] < 1e-5
    assert reference["calls"] > 0 and reference["minimum"] <= reference["median"] and found["peak"]["1"] > 0
    assert missing["note"] == "not installed: openvino" and missing["median"] is None
    found = json.loads(good(say("bench", DIGITS, "--mode", "throughput", "--threads", "2", *args)))
    assert [(r["engine"], r["mode"]) for r in found["results"]] == [
        ("cnncc", "throughput"), ("cnncc", "latency"), ("numpy", "throughput"), ("openvino", "throughput")]
    assert all(r["rate"] * r["median"] == pytest.approx(1) for r in found["results"][:3])
    code, _, err = say("bench", DIGITS, "--against", "tensorrt")
    assert code == 2 and "tensorrt" in err
    onnx.save(single("Relu", [1, 4]), "m.onnx")
    code, _, err = say("bench", "m.onnx", "--batch", "3")
    assert code == 1 and "fixed to 1" in err


def test_bench_ends_its_processes(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnncc.bench import run
    started: list[subprocess.Popen[str]] = []

    def interrupted(self: run._Engine, message: Any) -> None:
        assert self.process is not None
        started.append(self.process)
        raise KeyboardInterrupt
    monkeypatch.setattr(run._Engine, "ask", interrupted)
    assert say("bench", DIGITS, "--against", "numpy", "--seconds", "0.1")[0] == 130
    assert [p.poll() is not None for p in started] == [True]


def test_cache(say: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "own"))
    assert str(tmp_path / "own") in good(say("cache"))
    good(say("compile", DIGITS))
    found = json.loads(good(say("cache", "list", "--json")))
    assert found["path"] == str(tmp_path / "own") and len(found["entries"]) == 1
    assert found["entries"][0]["key"] in good(say("cache", "list"))
    assert good(say("cache", "clear")).startswith("1 ")
    good(say("compile", DIGITS, "--no-cache"))
    assert json.loads(good(say("cache", "--json")))["entries"] == []
    monkeypatch.setenv("CNNCC_CACHE", "0")
    assert "off" in good(say("cache"))


def test_env(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCC_NUM_THREADS", "3")
    found = json.loads(good(say("env", "--json")))
    assert found["cnncc"] == cnncc.__version__ and found["threads"] == 3
    assert found["level"].startswith("x86-64")
    assert "CNNCC_NUM_THREADS=3" in good(say("env"))


# ---- bad


@pytest.mark.parametrize(("args", "words"), [
    (["f/narrow.npy"], ["f/narrow.npy", "[N, 1, 8, 8]", "[3, 1, 8, 7]"]),
    (["f/double.npy"], ["f/double.npy", "float64", "float32"]),
    (["f/object.npy"], ["f/object.npy", "Python objects"]),
    (["f/cut.npy"], ["f/cut.npy", "cannot be read"]),
    (["f/empty.npy"], ["f/empty.npy", "cannot be read"]),
    (["f/huge.npy"], ["f/huge.npy", "cannot be read"]),
    (["f/two.npz"], ["f/two.npz", "holds a, b", "takes x"]),
    (["f/none.npy"], ["f/none.npy", "No such file"]),
    (["f/none.npz"], ["f/none.npz", "No such file"]),
    (["f"], ["f: expected"]),
    (["f/x.txt"], ["f/x.txt: expected .npy"]),
    (["f/no.png"], ["f/no.png"]),
    (["f/x.npy", "f/x.npy"], ["no input is left"]),
    (["x=f/x.npy", "x=f/x.npy"], ["second file for the input 'x'"]),
    (["z=f/x.npy"], ["unknown input 'z'"]),
    ([], ["missing input 'x'"]),
    (["f/x.npy", "--labels", "f/nothing"], ["f/nothing"]),
    (["f/x.npy", "--threads", "0"], ["threads='0'"]),
    (["f/x.npy", "--output", "f/no/y.npz"], ["f/no/y.npz: cannot be written"]),
])
def test_bad_inputs(say: Any, args: list[str], words: list[str]) -> None:
    folder_of_inputs()
    bad(say("run", DIGITS, *args), *words)


def _hostile(name: str) -> onnx.ModelProto | bytes:
    match name:
        case "empty":
            return b""
        case "text":
            return b"hello, this is not a model " * 9
        case "truncated":
            return Path(DIGITS).read_bytes()[:20_000]
        case "huge":
            return single("Relu", [2**40, 2**10])
        case "cycle":
            return model([helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])],
                         {"x": [2, 3]}, ["b"])
        case "shapes":
            return single("Conv", [1, 3, 8, 8], floats(4, 5, 3, 3))
        case _:
            made = single("Conv", [1, 3, 8, 8], floats(4, 3, 3, 3))
            weights = made.graph.initializer[0]
            weights.CopyFrom(TensorProto(name=weights.name, data_type=1, dims=[4, 3, 3, 3],
                                         data_location=TensorProto.EXTERNAL))
            weights.external_data.add(key="location", value="../../../../../../etc/passwd")
            return made


@pytest.mark.parametrize("verb", ["compile", "run", "info", "show", "profile", "verify", "bench"])
@pytest.mark.parametrize("name", ["empty", "text", "truncated", "huge", "cycle", "shapes", "external"])
def test_bad_models(say: Any, verb: str, name: str) -> None:
    os.mkdir("f")
    content = _hostile(name)
    Path("f/m.onnx").write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    answer = say(verb, "f/m.onnx", "--json")
    if verb == "info" and answer[0] == 0:       # reads no weights, and may list why it can't be compiled
        assert name in ("huge", "external") and json.loads(answer[1])
        return
    bad(answer, "f/m.onnx")
    assert os.listdir("f") == ["m.onnx"]


@pytest.mark.parametrize("verb", ["compile", "run", "info", "show", "profile", "verify", "bench"])
@pytest.mark.parametrize("name", ["none.onnx", ".", "none"])
def test_no_model(say: Any, verb: str, name: str) -> None:
    bad(say(verb, name), name)


@pytest.mark.parametrize("content", [b"", b"CNNCC\0", b"hello"])
def test_bad_artifacts(say: Any, content: bytes) -> None:
    os.mkdir("f")
    Path("f/m.cnncc").write_bytes(content)
    for verb in ("run", "info", "profile"):
        bad(say(verb, "f/m.cnncc"), "f/m.cnncc")


def test_usage(say: Any) -> None:
    for args in (["nonsense"], ["compile"], ["compile", DIGITS, "--nonsense"],
                 ["compile", DIGITS, "--target", "arm"], ["profile", DIGITS, "--batch", "0"],
                 ["cache", "nonsense"], ["run", DIGITS, "--mean", "a"], ["run", DIGITS, "--std", "0"],
                 ["run", DIGITS, "--output", "y.npy"], ["bench", DIGITS, "--threads", "many"]):
        code, out, err = say(*args)
        assert (code, out) == (2, "") and "Usage:" in err, args


def test_our_fault_and_interruption(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnncc import compiler

    def fail(error: BaseException) -> None:
        def raises(*_: Any, **__: Any) -> None:
            raise error
        monkeypatch.setattr(compiler, "read", raises)
    fail(RuntimeError("went wrong"))
    code, out, err = say("show", DIGITS)
    assert (code, out) == (3, "") and "went wrong" in err and "-v" in err and "Traceback" not in err
    code, _, err = say("-v", "show", DIGITS)
    assert code == 3 and "Traceback" in err
    code, _, err = say("show", DIGITS, "-v")
    assert code == 3 and "Traceback" in err
    fail(cnncc.InternalError("broken"))
    assert say("show", DIGITS)[0] == 3
    fail(KeyboardInterrupt())
    assert say("show", DIGITS)[0] == 130
    fail(MemoryError())
    assert say("show", DIGITS)[0] == 1
    fail(OSError(28, "No space left on device", "somewhere"))
    code, _, err = say("show", DIGITS)
    assert code == 1 and err == "error: somewhere: No space left on device\n"


def test_log_goes_to_stderr(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    good(say("compile", DIGITS))
    code, out, err = say("-v", "compile", DIGITS)
    assert code == 0 and "cache hit" in err and "cache hit" not in out
    monkeypatch.setenv("CNNCC_LOG", "nonsense")
    assert "CNNCC_LOG" in say("cache")[2]
    assert say("cache", "-q")[2] == ""


def test_results_with_odd_names(tmp_path: Path) -> None:
    from cnncc.feeds import write_results
    arrays = {"file": np.ones(2, np.float32), "a/b": np.zeros((0, 3)), "allow_pickle": np.arange(3)}
    write_results(tmp_path / "y.npz", arrays)
    with np.load(tmp_path / "y.npz", allow_pickle=False) as read:
        assert sorted(read.files) == sorted(arrays)
        assert all(np.array_equal(read[k], v) for k, v in arrays.items())


def test_ops_of_a_file(say: Any) -> None:
    Path("ops.yaml").write_text('snake: {formula: "y = x + sin(a * x) / a", a: 1.0}\nmy.Twice: y = x * 2\n')
    Path("net.yaml").write_text("input: {x: [N, 3]}\nlayers:\n  - {op: snake, a: 2.0}\n  - {op: my.Twice}\n")
    np.save("x.npy", x := np.ones((2, 3), np.float32))
    code, _, _ = say("run", "net.yaml", "x.npy", "--ops", "ops.yaml", "--output", "y.npz")
    assert code == 0
    np.testing.assert_allclose(next(iter(np.load("y.npz").values())), (x + np.sin(2 * x) / 2) * 2, 1e-6)
    good(say("verify", "net.yaml", "--ops", "ops.yaml"))
    good(say("convert", "net.yaml", "--ops", "ops.yaml", "-o", "net.onnx"))
    for verb in ("compile", "info", "show", "profile"):
        good(say(verb, "net.onnx", "--ops", "ops.yaml"))
    code, _, error = say("run", "net.yaml", "x.npy")
    assert code == 1 and "snake" in error
    for text, words in (("- a", "expected formulas by name"), ("a: {b: 1}", "'a' has no formula"),
                        ("a: y = x +", "ops.yaml, line 1"), ("a b: y = x", "made of words"),
                        ("a: {formula: y = x * f, f: [1, z]}", "ops.yaml, line 1: attribute f")):
        Path("ops.yaml").write_text(text)
        code, _, error = say("compile", "net.yaml", "--ops", "ops.yaml")
        assert code == 1 and error.startswith("error: ops.yaml") and words in error, error
