"""Networks embedded in C and C++ programs: the JIT's bits, however they are built; what is in an object."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import embedded
import numpy as np
import onnx
import pytest
from embedded import BATCH, HERE, LEVELS, NETWORKS, Program, compiler, program

import cnncc
from cnncc import tuner

ALL = "+".join(LEVELS)
BUILDS = [(cc, options) for cc in ("gcc", "clang") for options in (
    ("-std=c99",), ("-std=c++17",), ("-std=c99", "-fsanitize=address,undefined"))]
POOL = {"pthread_atfork", "pthread_create", "pthread_detach", "pthread_self", "pthread_sigmask"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Every network for all levels, in a folder of its own; threads and weights of every kind."""
    how = {"digits": {"threads": "pthread"}, "lenet": {"threads": "callback"}, "types": {"weights": "file"},
           "gather": {}, "count": {"threads": "pthread", "weights": "file"}}
    made = {}
    for name, model in NETWORKS.items():
        folder = tmp_path_factory.mktemp(name)
        made[name] = folder, cnncc.embed(model(), folder, name=f"{name}_net", target=ALL, **how[name]).record
    return made


@pytest.fixture(scope="module")
def truth() -> dict[str, dict[str, list[bytes]]]:
    """What the JIT gives, by network and level of this CPU."""
    return {name: {level: embedded.expected(model(), level) for level in HERE}
            for name, model in NETWORKS.items()}


def feeds(name: str) -> dict[str, np.ndarray]:
    return embedded.inputs(cnncc.compile(NETWORKS[name](), target="x86-64-v2"))


def failure(program: Program, arrays: dict[str, np.ndarray], *how: Any) -> tuple[int, str]:
    with pytest.raises(subprocess.CalledProcessError) as error:
        program.run(arrays, *how)
    return error.value.returncode, error.value.stderr.decode().strip()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("cc", "options"), BUILDS, ids=lambda x: x if isinstance(x, str) else x[-1])
def test_equal_to_the_jit(name: str, cc: str, options: tuple[str, ...], folders: Any, truth: Any) -> None:
    """Every way to build it; every level, number of threads; a level that the CPU lacks is an error."""
    built, arrays = program(*folders[name], cc, options), feeds(name)
    assert built.run(arrays) == truth[name][HERE[0]]
    for level in LEVELS:
        if level in HERE:
            assert built.run(arrays, level) == truth[name][level]
        else:
            assert failure(built, arrays, level) == (1, "the CPU lacks the instructions that this code needs")
    for threads in (1, 2, 5) if built.record["threads"] != "none" else ():
        assert built.run(arrays, "", threads) == truth[name][HERE[0]]
        assert built.run(arrays, HERE[-1], threads) == truth[name][HERE[-1]]


def test_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were measured, for the target that they are for: kernels and results are the JIT's."""
    monkeypatch.setattr(tuner, "alternate", lambda runs, rounds: [[1.0 / i] * rounds for i in
                                                                  range(1, len(runs) + 1)])
    model, file, last = NETWORKS["digits"](), tmp_path / "digits.schedules", LEVELS[-1]
    tuner.tune(model, file, seconds=600, tries=3, target=last)
    record, plain = (cnncc.embed(model, tmp_path / name, name="net", target=ALL, schedules=s).record
                     for name, s in (("tuned", file), ("plain", None)))
    assert record["targets"][:-1] == plain["targets"][:-1] and record["targets"] != plain["targets"]
    jit = cnncc.compile(model, target=last, schedules=file)
    assert [k["symbol"] for k in record["targets"][-1]["kernels"]] == [s.symbol for s in jit.plan.steps]
    arrays = embedded.inputs(jit)
    assert program(tmp_path / "tuned", record).run(arrays, last) == [jit(**arrays).tobytes()]
    with pytest.raises(cnncc.CnnccError, match="run cnncc tune here"):
        cnncc.embed(model, tmp_path / "out", target="x86-64-v4", schedules=file)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NETWORKS)
def test_symbols(name: str, folders: Any) -> None:
    """All that an object defines has its prefix; it needs three functions at most, a pool some more."""
    folder, record = folders[name]
    listed = subprocess.run([compiler("nm"), folder / f"{record['name']}.o"], capture_output=True, text=True,
                            check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    undefined = {row[1] for row in rows if row[0] == "U"}
    assert undefined <= {"memcpy", "memset", "memmove"} | (POOL if record["threads"] == "pthread" else set())
    functions = set(record["functions"])
    seen = {row[2] for row in rows if row[1:2] == ["T"]}
    assert functions <= seen and {re.sub("_header_[0-9a-f]{8}$", "", f) for f in seen} == functions
    kinds = {row[1] for row in rows if len(row) == 3}
    assert kinds <= set("Ttrb")
    written = {row[2].partition("_net_")[2] for row in rows if row[1] == "b"}
    pool = {"state", "holder", "slots"} if record["threads"] == "pthread" else set()
    assert written == {"level"} | pool
    assert all(row[2].startswith((record["name"], ".L")) for row in rows if len(row) == 3)


def test_the_archive(folders: Any, tmp_path: Path) -> None:
    """Its index names what the object defines; its only member is the object."""
    folder, record = folders["digits"]
    library = folder / "libdigits_net.a"
    index = subprocess.run([compiler("nm"), "-s", library], capture_output=True, text=True, check=True).stdout
    assert all(f"{f} in digits_net.o" in index for f in record["functions"])
    subprocess.run([compiler("ar"), "x", library], cwd=tmp_path, check=True)
    assert (tmp_path / "digits_net.o").read_bytes() == (folder / "digits_net.o").read_bytes()


@pytest.mark.parametrize("how", [{"optimize": "size"}, {"threads": "pthread"}, {"weights": "file"},
                                 {"target": ALL}, {"shapes": {"x": (1, 1, 8, 8)}}], ids=str)
def test_a_header_of_another_interface_does_not_link(how: dict[str, Any], tmp_path: Path) -> None:
    """Where sizes or arguments differ; the header of a network with other weights is as good as its own."""
    def link(header: str, network: str) -> str:
        command = [compiler("gcc"), f"-I{header}", "example.c", f"{network}/net.o", "-o", "example"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert bool(done.returncode) == bool(done.stderr)
        return done.stderr

    model = onnx.load_from_string(NETWORKS["digits"]())
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), weights.name))
    for name, source, options in (("a", NETWORKS["digits"](), {}), ("b", NETWORKS["digits"](), how),
                                  ("trained", model.SerializeToString(), {})):
        cnncc.embed(source, tmp_path / name, name="net", **{"target": HERE[-1], **options})
    (tmp_path / "example.c").write_text((tmp_path / "a" / "example.c").read_text())
    assert link("a", "a") == link("trained", "a") == ""
    assert re.search(r"undefined reference to .net_run_header_", link("a", "b"))
    assert (tmp_path / "a" / "net.h").read_bytes() == (tmp_path / "trained" / "net.h").read_bytes()


def test_two_networks_in_one_program(folders: Any, truth: Any, tmp_path: Path) -> None:
    """Each with a pool of its own, called by turns and by threads of the program at a time."""
    (a, one), (b, two) = folders["digits"], folders["count"]
    (tmp_path / "two.c").write_text("\n".join(
        f"#define main {r['name']}_main\n#undef BATCH\n{embedded.source(r)}\n#undef main" for r in (one, two))
        + "\nint main(int argc, char **argv) {\n  return argc > 3 ? count_net_main(argc, argv) : "
          "digits_net_main(argc, argv); }\n")
    path = tmp_path / "two"
    subprocess.run([compiler("gcc"), "-std=c99", *embedded.WARNINGS, f"-I{a}", f"-I{b}", tmp_path / "two.c",
                    f"-L{a}", f"-L{b}", "-ldigits_net", "-lcount_net", "-o", path, "-pthread"], check=True)
    for name in NETWORKS:
        if name in ("digits", "count"):
            data = b"".join(feeds(name)[v["name"]].tobytes() for v in folders[name][1]["inputs"])
            extra = ["again"] if name == "count" else []
            got = subprocess.run([path, "", "3", *extra], input=data, capture_output=True, check=True,
                                 cwd=folders[name][0]).stdout
            if name == "digits":
                assert got == b"".join(truth[name][HERE[0]])
            else:
                assert got[-8:] == np.int64(len(truth[name][HERE[0]][0]) // 16).tobytes()


# ---- through ctypes


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Digits as a shared library with a pool."""
    compiler("cc")
    folder = tmp_path_factory.mktemp("shared")
    return folder, cnncc.embed(NETWORKS["digits"](), folder, name="digits", target=HERE[0], threads="pthread",
                               weights="file", shared=True).record


def call(library: tuple[Path, dict[str, Any]], **wrong: Any) -> tuple[int, bytes]:
    """(code, output) of a call of the shared library, with arguments put in the place of right ones."""
    folder, record = library
    functions = ctypes.CDLL(str(folder / "libdigits.so"))
    memory = np.zeros(1 << 20, np.uint8)
    workspace = memory.ctypes.data + -memory.ctypes.data % 64
    weights = np.zeros(record["weights"]["bytes"] + 64, np.uint8)
    at = -weights.ctypes.data % 64
    weights[at:at + record["weights"]["bytes"]] = np.fromfile(folder / "digits.weights", np.uint8)
    x = feeds("digits")["x"]
    y = np.full((BATCH, 10), np.nan, np.float32)
    given = {"batch": BATCH, "x": x.ctypes.data, "y": y.ctypes.data, "weights": weights.ctypes.data + at,
             "workspace": workspace, "threads": 2} | {
                 k: v(workspace, weights.ctypes.data + at) if callable(v) else v for k, v in wrong.items()}
    code = functions.digits_run_parallel(*map(ctypes.c_size_t, given.values()))
    functions.digits_strerror.restype = ctypes.c_char_p
    assert functions.digits_strerror(code) == next(
        text.encode() for number, text in _texts().items() if number == code)
    return code, y.tobytes()


def _texts() -> dict[int, str]:
    from cnncc.codegen.interface import ERRORS
    return dict(enumerate(["no error", *ERRORS.values()]))


def test_error_codes(library: Any, truth: Any) -> None:
    """A wrong argument is a code of its own, and nothing has been computed."""
    errors = {name.rpartition("ERROR_")[2]: code for name, code in library[1]["errors"].items()}
    assert call(library) == (0, truth["digits"][HERE[0]][0])
    for what in ("x", "weights", "workspace"):
        assert call(library, **{what: 0})[0] == errors["NULL"]
    for what, value in (("batch", 0), ("threads", 0), ("batch", 2**64 - 1)):
        assert call(library, **{what: value})[0] == errors["COUNT"]
    assert call(library, workspace=lambda work, weights: work + 16)[0] == errors["ALIGNMENT"]
    assert call(library, weights=lambda work, weights: weights + 32)[0] == errors["ALIGNMENT"]
    code, output = call(library, weights=lambda work, weights: weights + 64)
    assert code == errors["WEIGHTS"] and np.isnan(np.frombuffer(output, np.float32)).all()


def test_a_library_with_a_pool_stays_loaded(library: Any) -> None:
    """Its threads would run code that is gone."""
    script = ("import ctypes, _ctypes, sys; d = ctypes.CDLL(sys.argv[1]); at = ctypes.cast(d.digits_run, "
              "ctypes.c_void_p).value; _ctypes.dlclose(d._handle); ctypes.string_at(at, 8); print('there')")
    command = [sys.executable, "-c", script, library[0] / "libdigits.so"]
    assert subprocess.check_output(command, text=True) == "there\n"


def test_many_threads_at_a_time(library: Any, truth: Any) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: call(library), range(200)))
    assert set(found) == {(0, truth["digits"][HERE[0]][0])}


def test_examples(library: Any, folders: Any) -> None:
    """example.py and example.c print the same, whatever the folder they are called from."""
    folder = library[0]
    shown = subprocess.check_output([sys.executable, "-I", "-S", folder / "example.py"], text=True, cwd="/")
    subprocess.run([compiler("gcc"), "-std=c99", *embedded.WARNINGS, "example.c", "digits.o", "-o", "example",
                    "-pthread"], check=True, cwd=folder)
    printed = subprocess.run(["./example"], capture_output=True, text=True, check=True, cwd=folder).stdout
    a, b = (np.array(text.split()[1:], float) for text in (shown, printed))
    assert len(a) == 10 and abs(sum(a) - 1) < 1e-5
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for name, (place, _) in folders.items():
        option = ["-pthread"] * (name in ("digits", "count"))
        for cc, standard in (("gcc", ["-std=c99"]), ("gcc", ["-std=c++17", "-x", "c++"])):
            subprocess.run([compiler(cc), *standard, *embedded.WARNINGS, "example.c", "-x", "none",
                            f"{name}_net.o", "-o", "example", *option], check=True, cwd=place)
            subprocess.run(["./example"], check=True, cwd=place, capture_output=True)


def test_data_decide_an_error(folders: Any) -> None:
    built, arrays = program(*folders["gather"]), feeds("gather")
    arrays["i"][2] = 6
    code, said = failure(built, arrays)
    assert code == folders["gather"][1]["errors"]["GATHER_NET_ERROR_DATA_0"] and "out of range" in said
