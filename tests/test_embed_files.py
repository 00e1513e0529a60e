"""What `cnncc.embed` writes: names, build systems, sizes, refusals; the same bytes whoever writes them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import embedded
import numpy as np
import pytest
from embedded import NETWORKS, compiler, program

import cnncc
from cnncc.cli import main
from cnncc.codegen.aot import frames
from cnncc.codegen.cpuid import EXTENDED, ONE, SEVEN, masks
from cnncc.compiler import optimize, plan, read
from cnncc.embedding.archive import archive
from cnncc.embedding.header import comment
from cnncc.embedding.names import KEYWORDS, check_name, distinct, mangled
from cnncc.ir.errors import InputError, UnsupportedError
from cnncc.ir.graph import Graph
from cnncc.ir.target import LEVELS, TRIPLE, Target

LEVEL = "x86-64-v3"


def test_equal_files_from_any_process(tmp_path: Path) -> None:
    """Whatever the folder, the hash seed, the environment."""
    script = ("import cnncc, sys; from embedded import NETWORKS\n"
              "cnncc.embed(NETWORKS['digits'](), sys.argv[1], target='x86-64-v2+x86-64-v3')\n"
              "cnncc.embed(NETWORKS['count'](), sys.argv[1], target='x86-64-v3', weights='file',\n"
              "            threads='pthread', optimize='size')\n")
    found = []
    path = f"{Path(cnncc.__file__).parents[1]}:{Path(__file__).parent}"
    for i, name in enumerate(("a", "some folder", 'quotes " and \\ more')):
        place = tmp_path / name
        place.mkdir()
        subprocess.run([sys.executable, "-c", script, place / "out"], check=True, cwd=place,
                       env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(i)})
        found.append({p.name: sha256(p.read_bytes()).hexdigest() for p in sorted((place / "out").iterdir())})
    assert len(found[0]) > 10 and found[0] == found[1] == found[2]


# ---- names


@pytest.mark.parametrize(("name", "expected"), [
    ("x", "x"), ("input.1", "input_1"), ("int", "int_"), ("0", "net_0"), ("__a__", "a"), ("", "net"),
    ("été/ß", "t"), ("日本", "net"), ("NULL", "NULL_"), ("a" * 99, "a" * 60), ("3d", "net_3d")])
def test_mangled(name: str, expected: str) -> None:
    assert mangled(name, "net") == expected
    assert check_name(mangled(name, "net")) == expected


def test_distinct() -> None:
    """Constants are in upper case, so that identifiers differ by more than that."""
    found = distinct([("x", "input"), ("X", "input"), ("x.", "input"), ("x_2", "input"), ("batch", "input"),
                      ("int", "output"), ("int ", "output"), ("7", "output")], ["batch"])
    assert found == ["x", "X_2", "x_3", "x_2_2", "batch_2", "int_", "int_2", "output_7"]
    assert len({f.upper() for f in found}) == len(found) and not KEYWORDS & set(found)


@pytest.mark.parametrize("name", ["", "3d", "a-b", "int", "_x", "x__y", "x" * 62, "é", "a b", "x\n", "x_"])
def test_refused_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="identifier"):
        cnncc.embed(NETWORKS["gather"](), tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


def test_the_name_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "3 x-y.onnx").write_bytes(NETWORKS["gather"]())
    assert "net_3_x_y.h" in cnncc.embed(tmp_path / "3 x-y.onnx", tmp_path / "a").files
    assert "places.h" in cnncc.embed(NETWORKS["gather"](), tmp_path / "b").files


@pytest.mark.parametrize("text", ["*/ int x; /*", "a\\\nb", "??/", "\x1b[31m", "é", "//", "a\r\nb"])
def test_comments_cannot_end_early(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.c").write_text(f"{comment(text)}\nint main(void) {{ return 0; }}\n")
    subprocess.run([compiler("gcc"), "-std=c99", "-trigraphs", *embedded.WARNINGS, "-fsyntax-only", "c.c"],
                   cwd=tmp_path, check=True)


# ---- what can't be embedded


def test_open_sizes_are_refused(tmp_path: Path) -> None:
    open_sizes = embedded.text("""pictures (float[N, 3, H, W] x) => (float[N, 3, K, L] y)
        { y = MaxPool<kernel_shape = [2, 2]>(x) }""")
    with pytest.raises(UnsupportedError, match=r"shapes=\{'x': \(1, 3, 1, 1\)\} or --shape"):
        cnncc.embed(open_sizes, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert cnncc.embed(open_sizes, tmp_path / "out", shapes={"x": (1, 3, 6, 8)}).record["batch"] is None


def test_shapes_that_values_decide_are_refused(tmp_path: Path) -> None:
    reshape = embedded.text("r (float[12] x, int64[2] shape) => (float[A, B] y) { y = Reshape(x, shape) }")
    with pytest.raises(UnsupportedError, match="values of shape"):
        cnncc.embed(reshape, tmp_path)


@pytest.mark.parametrize(("how", "said"), [
    ({"target": "x86-64-v9"}, "unknown 'x86-64-v9'"), ({"target": ""}, "unknown ''"),
    ({"target": "x86-64-v2,x86-64-v3"}, r"several with \+"),
    ({"target": "x86-64-v3+x86-64-v3"}, "twice"), ({"threads": "openmp"}, "none, pthread, callback"),
    ({"weights": "zip"}, "object, file"), ({"optimize": "fast"}, "speed, size"),
    ({"precision": "half"}, "fast, strict"), ({"shapes": 3}, "shapes"), ({"outputs": ["q"]}, "no value 'q'")])
def test_wrong_arguments(how: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        cnncc.embed(NETWORKS["gather"](), tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()


def test_folders_and_compilers_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half written stays."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no folder"):
        cnncc.embed(NETWORKS["gather"](), tmp_path / "file")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(InputError, match="no C compiler 'no-such-compiler'"):
        cnncc.embed(NETWORKS["gather"](), tmp_path / "out", shared=True)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(InputError, match="false -shared"):
        cnncc.embed(NETWORKS["gather"](), tmp_path / "out", shared=True)
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".") or p.suffix == ".so"]


def test_weights_beyond_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cnncc.embedding.embed as module
    monkeypatch.setattr(module, "MOST", 1000)
    with pytest.raises(InputError, match="--weights file"):
        cnncc.embed(NETWORKS["digits"](), tmp_path, target=LEVEL)
    assert "digits.weights" in cnncc.embed(NETWORKS["digits"](), tmp_path, target=LEVEL, weights="file").files


def test_a_level_without_halves(tmp_path: Path) -> None:
    halves = embedded.text("h (float16[4] x) => (float16[4] y) { f = Cast<to = 1>(x) y = Cast<to = 10>(f) }")
    with pytest.raises(UnsupportedError, match="x86-64-v3"):
        cnncc.embed(halves, tmp_path, target="x86-64-v2")


# ---- build systems


@pytest.mark.parametrize("threads", ["none", "pthread"])
def test_cmake_and_pkg_config(threads: str, tmp_path: Path) -> None:
    """Installed, a project finds it by find_package, another by pkg-config; a third has it as a part."""
    cmake, pkg_config = compiler("cmake"), compiler("pkg-config")
    out, build, where = (tmp_path / n for n in ("out", "build", "where"))
    cnncc.embed(NETWORKS["digits"](), out, name="test", threads=threads, target="x86-64-v2", weights="file")
    subprocess.run([cmake, "-S", out, "-B", build, "-Werror=dev", f"-DCMAKE_INSTALL_PREFIX={where}",
                    "-DCMAKE_INSTALL_LIBDIR=lib"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([cmake, "--build", build, "--target", "install"], check=True, stdout=subprocess.DEVNULL)
    (tmp_path / "main.c").write_text('#include <stdio.h>\n#include "test.h"\n'
                                     "int main(void) { printf(\"%d\", test_supported()); return 0; }\n")
    for name, how, option in (("found", "find_package(test 1.0 REQUIRED)", f"-DCMAKE_PREFIX_PATH={where}"),
                              ("part", f"add_subdirectory({out} part)", "-DA=B")):
        project = tmp_path / name
        project.mkdir()
        (project / "CMakeLists.txt").write_text(
            f"cmake_minimum_required(VERSION 3.15)\nproject(user C)\n{how}\n"
            "add_executable(main ../main.c)\ntarget_link_libraries(main PRIVATE test::test)\n")
        subprocess.run([cmake, "-S", project, "-B", project / "build", option], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run([cmake, "--build", project / "build"], check=True, stdout=subprocess.DEVNULL)
        assert subprocess.run([project / "build" / "main"], capture_output=True, check=True).stdout == b"1"
    for place in (out, where / "lib" / "pkgconfig"):
        flags = subprocess.check_output([pkg_config, "--cflags", "--libs", "test"], text=True,
                                        env={**os.environ, "PKG_CONFIG_PATH": str(place)}).split()
        subprocess.run([compiler("gcc"), "main.c", "-o", "main", *flags], check=True, cwd=tmp_path)
        assert subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout == b"1"
    assert (where / "share" / "test" / "test.weights").read_bytes() == (out / "test.weights").read_bytes()


@pytest.mark.parametrize("name", ["n.o", "a_rather_long_name_of_a_network.o"])
def test_archives(name: str, tmp_path: Path) -> None:
    """What `ar` says of one, with names and contents of odd lengths."""
    symbols, data = ["one", "another"], b"\x7fELF" + b"x" * 61
    (tmp_path / "lib.a").write_bytes(archive(name, data, symbols))
    assert subprocess.run([compiler("ar"), "tv", "lib.a"], cwd=tmp_path, capture_output=True, text=True,
                          check=True, env={**os.environ, "TZ": "UTC"}).stdout.split()[-1] == name
    subprocess.run([compiler("ar"), "x", "lib.a"], cwd=tmp_path, check=True)
    assert (tmp_path / name).read_bytes() == data


# ---- sizes


def live(graph: Graph) -> int:
    """The largest sum of the sizes of values that some kernel still needs, or makes, at one time."""
    root: dict[str, str] = {}
    for n in graph:
        root[n.name] = root[n.base or n.inputs[0]] if n.base or n.op == "reshape" else n.name
    own = {root[v] for v in (*graph.inputs, *(v for _, v in graph.outputs))}
    order = [n for n in graph if n.kernel is not None]
    last: dict[str, int] = {}
    first: dict[str, int] = {}
    for i, n in enumerate(order):
        first.setdefault(root[n.name], i)
        for v in (n.name, *n.needs):
            last[root[v]] = i
    nbytes = {root[n.name]: n.kernel.output.nbytes for n in order if n.kernel and root[n.name] not in own}
    return max(sum(b for v, b in nbytes.items() if first[v] <= i <= last[v]) for i in range(len(order)))


@pytest.mark.parametrize("optimized", ["speed", "size"])
@pytest.mark.parametrize("name", NETWORKS)
def test_workspace(name: str, optimized: str) -> None:
    """At most a tenth more than what lives at a time, rounded up to lines of the cache."""
    target = Target(TRIPLE, *LEVELS[LEVEL], small=optimized == "size")
    graph = optimize(read(NETWORKS[name]()), target)
    made = plan(graph).plan
    assert made.work <= 1.1 * live(graph) + 64 * len(made.steps)


def test_less_code(tmp_path: Path) -> None:
    """The same results to rounding, from half of the code."""
    model = NETWORKS["lenet"]()
    fast, small = (cnncc.embed(model, tmp_path / how, name="net", target=embedded.LEVELS[-1], optimize=how)
                   for how in ("speed", "size"))
    assert small.record["code"] < fast.record["code"] / 2
    m = cnncc.compile(model)
    arrays = embedded.inputs(m)
    [got] = program(tmp_path / "size", small.record).run(arrays)
    y = m(*arrays.values())
    np.testing.assert_allclose(np.frombuffer(got, np.float32), y.ravel(), rtol=1e-4, atol=1e-5)


STACK = r"""
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include "net.h"
static char stack[1 << 18];
static float x[NET_IMAGE_SIZE], y[NET_SCORES_SIZE];
static unsigned char memory[NET_WORKSPACE_BYTES + NET_ALIGNMENT];
static ucontext_t here, there;
static void nothing(void) { y[0] = (float)net_supported(); }
static void run(void) { y[0] = (float)net_run(x, y, memory + (64 - (uintptr_t)memory % 64)); }
static size_t used(void (*f)(void)) {
    size_t n = 0;
    memset(stack, 0x5a, sizeof stack);
    getcontext(&there);
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = sizeof stack;
    there.uc_link = &here;
    makecontext(&there, f, 0);
    swapcontext(&here, &there);
    while (stack[n] == 0x5a) n++;
    return sizeof stack - n;
}
int main(void) {
    size_t without = used(nothing), with = used(run);
    printf("%d %d\n", (int)(with - without), NET_STACK_BYTES);
    return 0;
}
"""


def test_stack(tmp_path: Path) -> None:
    """A call takes what the header says at most, and not much less."""
    cnncc.embed(NETWORKS["lenet"](), tmp_path, name="net", target=embedded.LEVELS[-1])
    (tmp_path / "stack.c").write_text(STACK)
    subprocess.run([compiler("gcc"), "-O1", "stack.c", "net.o", "-o", "stack"], cwd=tmp_path, check=True)
    taken, stated = map(int, subprocess.check_output(["./stack"], cwd=tmp_path).split())
    assert stated / 2 < taken <= stated


def test_frames() -> None:
    text = ("\t.type\tf,@function\nf:\n\tpushq\t%rbp\n\tandq\t$-64, %rsp\n\tsubq\t$192, %rsp\n.Lfunc_end0:\n"
            "\t.type\td,@object\nd:\n\t.type\tg,@function\ng:\n\taddq\t$-128, %rsp\n"
            "\tmovl %eax, -40(%rsp,%rcx)\n.Lfunc_end1:\n")
    assert frames(text) == {"f": 8 + 8 + 63 + 192, "g": 8 + 128 + 40}


# ---- levels


def test_masks() -> None:
    """Bits of CPUID as the manuals of the processors number them."""
    v2, v3, v4 = (masks(LEVELS[f"x86-64-v{n}"][1]) for n in (2, 3, 4))
    assert v2 == ({ONE: 0x00982201, SEVEN: 0, EXTENDED: 1}, 0)
    assert v3[0][SEVEN] == 0x128 and v3[0][EXTENDED] == 0x21 and v3[1] == 6
    assert v4[0][SEVEN] == 0x128 | 0xD0030000 and v4[1] == 0xE6
    for p in (ONE, SEVEN, EXTENDED):
        assert v4[0][p] & v3[0][p] == v3[0][p] and v3[0][p] & v2[0][p] == v2[0][p]


def test_code_stays_within_its_level(tmp_path: Path) -> None:
    """In one object with all levels: AVX and AVX-512 only in the functions of these levels."""
    objdump = compiler("objdump")
    cnncc.embed(NETWORKS["digits"](), tmp_path, name="net", target="+".join(LEVELS), threads="callback")
    text = subprocess.check_output([objdump, "-d", "--no-show-raw-insn", tmp_path / "net.o"], text=True)
    seen = set()
    for name, body in re.findall(r"^[0-9a-f]+ <(\w+)>:\n(.*?)^$", f"{text}\n", re.M | re.S):
        avx = bool(re.search(r"\t+v[a-z]", body))
        wide = bool(re.search(r"%zmm|%[xy]mm(1[6-9]|[23]\d)|%k[0-7]", body))
        kernel = re.match(r"net_x86_64_(v\d)_k_", name)
        seen.add((kernel[1], avx, wide) if kernel else ("other", avx, wide))
    assert {("v4", True, True), ("v3", True, False), ("v2", False, False), ("other", False, False)} <= seen
    assert all(not avx for level, avx, _ in seen if level in ("v2", "other"))
    assert all(not wide for level, _, wide in seen if level != "v4")


def test_every_level_has_schedules() -> None:
    """Also where a tile has more values than there are registers."""
    for level in LEVELS:
        for small in (False, True):
            graph = optimize(read(NETWORKS["digits"]()), Target(TRIPLE, *LEVELS[level], small=small))
            assert all(n.kernel.stages for n in graph if n.kernel is not None)


# ---- the command line


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits.onnx").write_bytes(NETWORKS["digits"]())
    assert main(["embed", "digits.onnx", "-o", "out", "--name", "digits", "--target", "x86-64-v2",
                 "--threads", "--optimize", "size"]) == 0
    shown = capsys.readouterr().out
    assert "out: digits.o" in shown and "workspace per N" in shown
    record = json.loads(Path("out/digits.json").read_text())
    assert (record["threads"], record["optimize"]) == ("pthread", "size")
    Path("ops.yaml").write_text("twice: y = 2 * x\n")
    Path("own.yaml").write_text("input: {x: [3]}\nlayers: [{op: twice}]\n")
    assert main(["embed", "own.yaml", "-o", "out", "-q", "--ops", "ops.yaml"]) == 0
    capsys.readouterr()
    assert main(["embed", "digits.onnx", "-o", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "digits"
    assert main(["embed", "digits.onnx", "-o", "out", "--name", "my-digits"]) == 1
    assert "such as 'my_digits'" in capsys.readouterr().err
    assert main(["embed", "missing.onnx", "-o", "out"]) == 1 and main(["embed", "digits.onnx"]) == 2
