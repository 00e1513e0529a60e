"""The benchmark: networks made here, all installed engines, a table in Markdown and plots.

Every network is measured at each batch size and number of threads: one process per engine, alternating
rounds, results checked. What is measured is kept in the folder, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from kernels import progress
from networks import NETWORKS, write

import cnncc
from cnncc.bench.engines import ENGINES
from cnncc.bench.peak import roof
from cnncc.bench.run import DISTURBED, bench
from cnncc.feeds import random_feeds
from cnncc.runtime.artifact import replacing
from cnncc.runtime.profiler import Roof, StepTime

QUICK = "lenet5", "mobilenetv1", "squeezenet1_1", "resnet18"


@dataclass(frozen=True)
class Setting:
    """What is measured of every network."""

    batch: int
    threads: int
    cold: bool

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.threads} thread{'s' * (self.threads > 1)}" + ", cold" * self.cold

    def file(self, folder: Path, network: str) -> Path:
        return folder / "measured" / f"{network}-{self.batch}-{self.threads}{'-cold' * self.cold}.json"


def measured(network: str, setting: Setting, engines: Sequence[str], seconds: float,
             folder: Path) -> dict[str, Any]:
    """The record of a network, from its file where that has all engines, else measured and written."""
    file = setting.file(folder, network)
    if file.exists():
        record: dict[str, Any] = json.loads(file.read_text())
        good = {r["engine"] for r in record["results"] if DISTURBED not in r["note"]}
        if {"cnncc", *engines} <= good:
            return record
    path = write(network, setting.batch, folder)
    what = f"{network}, {setting}"
    found = bench(str(path), engines, [setting.threads], setting.batch, seconds,
                  lambda step, part: progress(f"{what}: {step}"), cold=setting.cold)
    record = asdict(found)
    write_text(file, json.dumps(record, indent=1))
    return record


def write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as out:
        out.write(text.encode())


# ---- tables


def ratio(record: Mapping[str, Any]) -> float | None:
    """How many times as long as cnncc the fastest of the other engines takes; None without one."""
    times = {r["engine"]: r["median"] for r in record["results"] if r["note"] != "WRONG"}
    own, others = times.pop("cnncc", None), [t for t in times.values() if t]
    return min(others) / own if own and others else None


def markdown(records: Mapping[str, Mapping[str, Any]], setting: Setting, engines: Sequence[str]) -> str:
    """The table of a setting, and the geometric mean of its ratios."""
    rows = []
    for network, record in records.items():
        by = {r["engine"]: r for r in record["results"]}
        own = by["cnncc"]
        cells = [network, f"{record['flops'] / 1e9:.3g}"]
        for e in engines:
            r = by.get(e, {"median": None, "note": ""})
            mark = " (!)" * (r["note"] == "WRONG") + " (~)" * (DISTURBED in r["note"])
            cells.append(f"{r['median'] * 1e3:.3f}{mark}" if r["median"] else r["note"][:40])
        factor = ratio(record)
        cells += [f"{factor:.2f}" if factor else "", f"{own['percent']:.0f}" if own["percent"] else "",
                  "" if own["error"] is None else f"{own['error']:.0e}"]
        rows.append("| " + " | ".join(cells) + " |")
    factors = [f for f in map(ratio, records.values()) if f]
    head = ["network", "GFLOP", *(f"{e} ms" for e in engines), "ratio", "% of peak", "error"]
    mean = f"\nGeometric mean of the ratios: **{statistics.geometric_mean(factors):.2f}**, least " \
           f"{min(factors):.2f}.\n" if factors else ""
    rows[:0] = [f"### {setting}\n", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*rows, mean])


NOTE = """Medians of one call in milliseconds; (~): disturbed by other load, the next run measures it again.
Ratio: the time of the fastest other engine over that of cnncc. % of peak: of the multiply-adds of plain sums.
Error: max|y - reference| / max|reference|, of cnncc, against NumPy in float32; (!): more than rounding.
"""


# ---- plots


def plot_engines(records: Mapping[str, Mapping[str, Any]], setting: Setting, engines: Sequence[str],
                 file: Path) -> None:
    """Bars by network and engine on a logarithmic scale."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(max(6, 0.75 * len(records)), 4.5), layout="constrained")
    for i, engine in enumerate(engines):
        times = [next((r["median"] for r in record["results"] if r["engine"] == engine), None)
                 for record in records.values()]
        places = [x + (i - (len(engines) - 1) / 2) * 0.8 / len(engines) for x in range(len(records))]
        axes.bar(places, [t * 1e3 if t else math.nan for t in times], 0.8 / len(engines), label=engine)
    axes.set_yscale("log")
    axes.set_xticks(range(len(records)), list(records), rotation=45, ha="right")
    axes.set_ylabel("milliseconds")
    axes.set_title(str(setting))
    axes.legend()
    save(figure, file)


def profiled(path: Path, roof: Roof) -> tuple[list[StepTime], str]:
    """Every kernel of a network on one thread, and the table of them."""
    model = cnncc.compile(path, threads=1)
    assert isinstance(model, cnncc.CompiledModel)
    times = model.profile(*random_feeds(model.inputs, 1).values())
    return times, f"{model.format_profile(times, roof, markdown=True)}\n\nOne thread; {roof}.\n"


def plot_roofline(network: str, times: Sequence[StepTime], roof: Roof, file: Path) -> None:
    """Every kernel of a network: what it reaches, over its operations per byte."""
    plt = pyplot()
    steps = [s for s in times if s.flops and s.nbytes and s.seconds]
    top = roof.flops / 1e9
    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    ends = [min(s.flops / s.nbytes for s in steps) / 2, 2 * max(s.flops / s.nbytes for s in steps)]
    for rate, where in ((roof.near / 1e9, "cache"), (roof.far / 1e9, "memory")):
        xs = sorted({*ends, max(ends[0], min(ends[1], top / rate))})
        axes.plot(xs, [min(top, rate * x) for x in xs], label=f"{where}: {rate:.0f} GB/s")
    axes.scatter([s.flops / s.nbytes for s in steps], [s.flops / s.seconds / 1e9 for s in steps],
                 [2000 * s.share + 4 for s in steps], alpha=0.5, color="black")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(f"{network}: kernels, areas by their part of the time; peak {top:.0f} GFLOP/s")
    axes.legend()
    save(figure, file)


def pyplot() -> Any:
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot as plt
    return plt


def save(figure: Any, file: Path) -> None:
    with replacing(file) as out:
        figure.savefig(out, format=file.suffix[1:])
    pyplot().close(figure)


# ---- the command


def settings(args: argparse.Namespace) -> Iterator[Setting]:
    for batch, threads in product(args.batch, args.threads):
        yield Setting(batch, threads, args.cold)


def numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default="", help=f"of {', '.join(NETWORKS)} (all)")
    parser.add_argument("--engines", default="", help="to compare with (all that are installed but numpy)")
    parser.add_argument("--threads", type=numbers, default=[1], metavar="N[,N...]")
    parser.add_argument("--batch", type=numbers, default=[1], metavar="N[,N...]")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each engine (%(default)g)")
    parser.add_argument("--quick", action="store_true", help=f"half a second, only {', '.join(QUICK)}")
    parser.add_argument("--cold", action="store_true", help="caches are emptied before every call")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="folder (%(default)s)")
    args = parser.parse_args(argv)
    networks = [n for n in args.networks.split(",") if n] or list(QUICK if args.quick else NETWORKS)
    if unknown := [n for n in networks if n not in NETWORKS]:
        parser.error(f"unknown network {unknown[0]}: choose from {', '.join(NETWORKS)}")
    installed = [e for e in ENGINES if e not in ("cnncc", "numpy") and not ENGINES[e].missing]
    engines = [e for e in args.engines.split(",") if e] or installed
    if unknown := [e for e in engines if e not in ENGINES]:
        parser.error(f"unknown engine {unknown[0]}: choose from {', '.join(ENGINES)}")
    args.out.mkdir(parents=True, exist_ok=True)
    plots = find_spec("matplotlib") is not None
    parts = [NOTE]
    for setting in settings(args):
        records = {}
        for network in networks:
            seconds = 0.5 if args.quick else args.seconds
            records[network] = measured(network, setting, engines, seconds, args.out)
            part = markdown(records, setting, ["cnncc", *engines])
            write_text(args.out / "table.md", "\n".join([*parts, part]))
        parts.append(part)
        if plots:
            name = str(setting).replace(", ", "-").replace(" ", "")
            plot_engines(records, setting, ["cnncc", *engines], args.out / f"engines-{name}.svg")
    best = roof()
    for network in networks:
        progress(f"{network}: kernels")
        times, layers = profiled(write(network, 1, args.out), best)
        write_text(args.out / f"layers-{network}.md", f"### {network}\n\n{layers}")
        if plots:
            plot_roofline(network, times, best, args.out / f"roofline-{network}.svg")
    progress("")
    print("\n".join(parts))
    print(f"written to {args.out}: table.md, layers-NETWORK.md" + (" and the plots" if plots else
                                                "; no plots without matplotlib (the extra `plot`)"))


if __name__ == "__main__":
    main()
