"""Tuning: what is kept, the file of schedules, and that compiled models use it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc import compiler, tuner
from cnncc.cli import main
from cnncc.ir.target import target_for
from cnncc.passes.schedules import candidates, weights_of
from cnncc.passes.tuned import Tuned, parse_tuned, target_text

DIGITS = str(Path(cnncc.__file__).parent / "data" / "digits.onnx")


def seconds_of(monkeypatch: pytest.MonkeyPatch, times: Sequence[float]) -> list[int]:
    """Kernels aren't timed: the i-th of those compared takes times[i]. How many were compared at a time."""
    compared: list[int] = []

    def alternate(runs: Sequence[Any], rounds: int) -> list[list[float]]:
        compared.append(len(runs))
        chosen = times if rounds == tuner.ROUNDS else sorted(times[1:])
        chosen = chosen if rounds == tuner.ROUNDS else [times[0], *chosen]
        return [[chosen[min(i, len(times) - 1)]] * rounds for i in range(len(runs))]
    monkeypatch.setattr(tuner, "alternate", alternate)
    return compared


def kernels(path: str, tuned: Tuned | None = None) -> list[str]:
    graph = compiler.optimize(compiler.read(path), target_for(), tuned)
    return [str(n.kernel) for n in graph if n.kernel is not None]


def test_the_fastest_is_kept_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = seconds_of(monkeypatch, [3e-6, 2e-6, 1e-6])
    file = tmp_path / "digits.schedules"
    report = tuner.tune(DIGITS, file, seconds=60, tries=3)
    assert report.rows and report.left == 0 and max(compared) == 3
    assert all(r.tuned == 1e-6 and r.priced == 3e-6 for r in report.rows if r.tried == 3)
    found = parse_tuned(file.read_text(), "")
    assert str(found) == file.read_text() and len(found.choices) == len(report.rows)
    assert kernels(DIGITS, found) != kernels(DIGITS)
    x = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)
    plain, tuned = (cnncc.compile(DIGITS, cache=False, schedules=s)(x) for s in (None, file))
    np.testing.assert_allclose(tuned, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("times", [[1e-6, 2e-6], [1e-6, 0.99e-6]])
def test_what_is_no_faster_is_not_kept(times: list[float], tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    seconds_of(monkeypatch, times)
    tuner.tune(DIGITS, tmp_path / "s", tries=2)
    assert kernels(DIGITS, compiler.schedules_from(tmp_path / "s", target_for())) == kernels(DIGITS)


def test_wrong_results_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds_of(monkeypatch, [2e-6, 1e-6])
    calls = iter(range(1000))
    monkeypatch.setattr(tuner.np, "array_equal", lambda *_, **__: next(calls) % 2 == 0)
    tuner.tune(DIGITS, tmp_path / "s", tries=2)
    assert kernels(DIGITS, compiler.schedules_from(tmp_path / "s", target_for())) == kernels(DIGITS)


def test_a_run_goes_on_where_the_last_one_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = seconds_of(monkeypatch, [2e-6, 1e-6])
    first = tuner.tune(DIGITS, tmp_path / "s", tries=2, seconds=0.0)
    assert not first.rows and first.left > 2 and not (tmp_path / "s").exists()

    def stop(what: str, fraction: float) -> None:
        if len(compared) == 4:              # two a kernel
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        tuner.tune(DIGITS, tmp_path / "s", tries=2, progress=stop)
    assert len(parse_tuned((tmp_path / "s").read_text(), "").choices) == 2
    again = tuner.tune(DIGITS, tmp_path / "s", tries=2)
    assert again.known == 2 and len(again.rows) == first.left - 2 and os.listdir(tmp_path) == ["s"]


def test_loops_that_are_no_candidate_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """The text can choose, it can't say what to run."""
    graph = next(g for name, g in compiler.stages(compiler.read(DIGITS), target_for())
                 if name == "choose_layouts")
    n = next(n for n in graph if n.kernel is not None and len(n.kernel.stages) == 1)
    assert n.kernel is not None
    weights = weights_of(n, graph)
    best = candidates(n.kernel, weights, target_for())[0]
    choice = tuner.Choice(str(best.loops) + ", unroll nothing", 1.0, 1.0)
    tuned = Tuned(target_text(target_for())).with_choice(n.kernel, weights, choice)
    assert kernels(DIGITS, tuned) == kernels(DIGITS)
    assert "no candidate" in caplog.text


GOOD = str(Tuned(target_text(target_for())))


@pytest.mark.parametrize(("text", "words"), [
    (None, ["can't read"]), ("", ["no file of schedules"]), ("{}", ["no file of schedules"]),
    (GOOD.replace("lanes", "lames"), ["measured for", "tune"]),
    (GOOD + "\nin x\nloops a, b\n", ["line 4"]),
    (GOOD + "\nin x\nloops a, b\nmeasured much us instead of 3\n", ["line 4"]),
    (GOOD + "\nin x\nloops a\nmeasured 1 us instead of 3\n\nin x\n", ["line 8"]),
])
def test_bad_files(text: str | None, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "s"
    if text is not None:
        file.write_text(text)
    with pytest.raises(cnncc.InputError) as caught:
        cnncc.compile(DIGITS, schedules=file)
    assert all(w in str(caught.value) for w in [str(file), *words])


def test_schedules_are_in_the_key_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnncc.runtime import cache
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    seconds_of(monkeypatch, [2e-6, 1e-6])
    tuner.tune(DIGITS, tmp_path / "s", tries=2)
    for schedules in (None, tmp_path / "s", tmp_path / "s"):
        cnncc.compile(DIGITS, schedules=schedules)
    assert len(cache.entries()) == 2


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                  monkeypatch: pytest.MonkeyPatch) -> None:
    seconds_of(monkeypatch, [2e-6, 1e-6])
    monkeypatch.setenv("CNNCC_CACHE_DIR", "")
    file = str(tmp_path / "s")
    assert main(["tune", DIGITS, "-o", file, "--tries", "2"]) == 0
    out = capsys.readouterr().out
    assert "0 left" in out and "us ->" in out
    assert main(["verify", DIGITS, "--schedules", file]) == 0
    assert main(["tune", DIGITS, "-o", str(tmp_path / "none" / "s")]) == 1
    assert main(["compile", DIGITS, "--schedules", DIGITS]) == 1
    assert "schedules" in capsys.readouterr().err


def test_sizes_of_caches_are_in_the_text_of_a_target() -> None:
    target = target_for()
    assert target_text(replace(target, strict=True)) == target_text(target)
    assert target_text(replace(target, l2=1)) != target_text(target)
