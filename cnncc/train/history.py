"""What became of each epoch, a log of each step in a file, and when to stop."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from cnncc.ir.errors import InputError, hint
from cnncc.ir.signature import Array

FIELDS = ("step", "epoch", "loss", "measure", "lr", "seconds", "samples_per_second")


@dataclass
class History:
    """A row for each epoch: `epoch`, `step`, `loss`, the measure, `val_loss` ..., `lr`, `seconds`."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def __getitem__(self, name: str) -> list[Any]:
        """One column. Raises InputError for one that no row has."""
        known = dict.fromkeys(key for row in self.rows for key in row)
        if name not in known:
            held = ", ".join(known) or "nothing"
            raise InputError(f"history: there is no {name!r}{hint(name, known)}, but {held}")
        return [row.get(name) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw losses and measures over the epochs into a picture. Needs matplotlib: cnncc[plot]."""
        check_plots()
        from matplotlib.figure import Figure
        names = [n for n in dict.fromkeys(key for row in self.rows for key in row)
                 if n not in ("epoch", "step", "seconds", "samples_per_second", "lr")]
        losses = [n for n in names if n.endswith("loss")]
        parts = [part for part in (losses, [n for n in names if n not in losses]) if part]
        if not parts:
            raise InputError("history: there are no epochs to plot")
        figure = Figure(figsize=(5 * len(parts), 4), layout="constrained")
        for i, part in enumerate(parts):
            axes = figure.add_subplot(1, len(parts), i + 1)
            for name in part:
                axes.plot(self["epoch"], [float("nan") if v is None else v for v in self[name]], label=name,
                          marker=".")
            axes.set_xlabel("epoch")
            axes.legend()
        try:
            figure.savefig(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{os.fspath(path)}: cannot be written: {error}") from None


def check_plots() -> None:
    """Raises InputError where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise InputError('plots need matplotlib: pip install "cnncc[plot]"')


@dataclass
class EarlyStopping:
    """Stop where `monitor`, of the history, has not become better by `min_delta` for `patience` epochs.

    A loss or error is better where it is less, all else where it is more. With `restore` the best state comes
    back in the end.
    """

    monitor: str = "val_loss"
    patience: int = 5
    min_delta: float = 0.0
    restore: bool = True
    best: float | None = field(default=None, init=False)
    waited: int = field(default=0, init=False)
    kept: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if type(self.patience) is not int or self.patience < 1 or not self.min_delta >= 0:
            raise InputError("early stopping: expected patience of at least 1 epoch and min_delta of at "
                             f"least 0, got {self.patience!r:.60} and {self.min_delta!r:.60}")

    def improved(self, row: Mapping[str, Any]) -> bool:
        """Note an epoch; whether it is the best so far. Raises InputError where the value is missing."""
        value = row.get(self.monitor)
        if value is None:
            held = ", ".join(row)
            raise InputError(f"early stopping: an epoch has no {self.monitor!r}{hint(self.monitor, row)}, "
                             f"but {held}; val_... needs data to validate with")
        sign = 1 if self.monitor.endswith(("loss", "error")) else -1
        better = self.best is None or sign * value < sign * self.best - self.min_delta
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return better

    @property
    def over(self) -> bool:
        return self.waited >= self.patience

    def record(self) -> dict[str, Any]:
        """What a checkpoint has to remember besides `kept`."""
        return {"monitor": self.monitor, "best": self.best, "waited": self.waited}

    def restored(self, record: Mapping[str, Any], kept: dict[str, Array]) -> None:
        self.best, self.waited, self.kept = record["best"], record["waited"], kept


class Log:
    """A file with a row for each step: `.csv`, or `.jsonl` with one JSON object a line."""

    def __init__(self, path: str | os.PathLike[str], after: int = 0) -> None:
        """Begin a file; where training goes on `after` a step, the rows up to it stay."""
        self.path = Path(path)
        if self.path.suffix not in (".csv", ".jsonl"):
            raise InputError(f"{path}: a log is a .csv or .jsonl file")
        rows = [row for row in self._rows() if int(row["step"]) <= after] if after else []
        try:
            self._file: TextIO = open(self.path, "w", newline="", encoding="utf-8")     # noqa: SIM115
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        self._csv = csv.DictWriter(self._file, FIELDS) if self.path.suffix == ".csv" else None
        if self._csv:
            self._csv.writeheader()
        for row in rows:
            self.write(row)

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                found = list(csv.DictReader(file)) if self.path.suffix == ".csv" else [
                    json.loads(line) for line in file if line.endswith("}\n")]
        except (OSError, ValueError):
            return []
        return [row for row in found if str(row.get("step")).isdecimal() and {*row} == {*FIELDS}]

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row. Raises OSError."""
        if self._csv:
            self._csv.writerow(row)
        else:
            self._file.write(json.dumps(dict(row)) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._file.close()
