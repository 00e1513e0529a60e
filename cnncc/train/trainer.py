"""Training a network: data in, steps, what is shown and kept, and what comes out."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from cnncc.compiler import Source, as_onnx, compile, read
from cnncc.frontend.user import Ops
from cnncc.ir.errors import InputError, ModelError, UnsupportedError
from cnncc.ir.graph import Graph
from cnncc.ir.signature import Array, OpenError
from cnncc.runtime.artifact import replacing
from cnncc.train import checkpoint
from cnncc.train.augment import Augmentation, Change
from cnncc.train.batches import Batch, Numbers, Preparation, prefetched
from cnncc.train.batches import Source as Batches
from cnncc.train.data import Data, Dataset, Rows
from cnncc.train.diagnosis import Recorder, first_bad
from cnncc.train.finetune import matching, with_head, with_weights
from cnncc.train.history import EarlyStopping, History, Log
from cnncc.train.losses import Loss, SoftmaxCrossEntropy, loss_of, value_of
from cnncc.train.optimizers import Optimizer, optimizer_of
from cnncc.train.progress import Report, display
from cnncc.train.schedules import AnySchedule, schedule_of
from cnncc.train.step import Step

log = logging.getLogger("cnncc")

Callback: TypeAlias = "Callable[[Trainer, dict[str, Any]], None]"
STEPS = 4               # compiled steps that are kept, for as many sizes of a batch
INFERENCE = 256         # samples at a time where nothing is learned


@dataclass
class Position:
    """Where training is: `base` epochs of calls before this one, `epoch` of it, `number` batches of that."""

    base: int = 0
    epoch: int = 0
    number: int = 0
    step: int = 0
    samples: int = 0
    loss: float = 0.0           # times samples, of this epoch
    measure: float = 0.0
    per_epoch: int = 0          # batches, as far as known


class Trainer:
    """A network in training.

    `source` is what `cnncc.compile` takes: one input and one output, whose first extent is an open batch. A
    softmax or sigmoid at the end of a network is a part of the cross-entropy: it is trained without that, and
    predicts with it.

    `loss` and `optimizer` are objects or names. `batch` is the size of a step; the last of an epoch may be
    smaller. Samples are prepared as (values - mean) / std, bytes scaled to 0..1 before, images changed by
    `augment` between. Everything random follows from `seed`. `threads` only decides the speed. Weights that
    match `frozen`, patterns such as "conv*", stay. `weights` are those to begin with, a safetensors, npz or
    ONNX file, by name; `classes` gives the network a new last layer of so many outputs.

    Raises ModelError where the network can't be trained, InputError for a bad argument.
    """

    def __init__(self, source: Source, *, loss: Loss | str = "softmax_cross_entropy",
                 optimizer: Optimizer | str = "sgd", batch: int = 64, seed: int = 0,
                 threads: int | None = None, mean: Numbers = None, std: Numbers = None,
                 augment: Sequence[Change] = (), frozen: Sequence[str] = (),
                 weights: str | os.PathLike[str] | Mapping[str, Array] | None = None,
                 classes: int | None = None, ops: Ops | None = None) -> None:
        if type(batch) is not int or batch < 1:
            raise InputError(f"batch: expected a whole number of samples from 1 on, got {batch!r:.60}")
        if type(seed) is not int or not 0 <= seed < 1 << 63:
            raise InputError(f"seed: expected an integer from 0 to 2**63 - 1, got {seed!r:.60}")
        graph = network(source, ops)
        self.missing: tuple[str, ...] = ()
        if weights is not None:
            graph, self.missing = with_weights(graph, weights)
        self.graph = graph if classes is None else with_head(graph, classes, seed)
        self.loss, self.optimizer = loss_of(loss), optimizer_of(optimizer)
        self.batch, self.seed, self.threads = batch, seed, threads
        self.trained = _without(self.graph, self.loss.removes)
        self.output = _check(self.trained)
        self.loss.target(self.output)
        self.frozen = matching(self.graph, frozen)
        sample = [int(e) for e in self.graph[self.graph.inputs[0]].type.shape[1:]]
        self.prepare = Preparation(sample, mean, std, Augmentation(augment, seed) if augment else None)
        self.position, self.history, self.warnings = Position(), History(), list[str]()
        self._steps: OrderedDict[int, Step] = OrderedDict()
        self._newest: Step | None = None        # the step that has the state
        self._models: dict[str, Any] = {}

    # ---- state

    @property
    def ends(self) -> bool:
        """Whether the network ends with what the loss contains, such as a softmax."""
        return self.trained is not self.graph

    @property
    def state(self) -> dict[str, Array]:
        """All that training goes on from: weights, what the optimizer remembers, statistics, counters."""
        return dict((self._newest or self._step(self.batch)).state)

    @state.setter
    def state(self, value: Mapping[str, Array]) -> None:
        (self._newest or self._step(self.batch)).state = dict(value)

    def weights(self) -> dict[str, Array]:
        """The network's constants by name, as trained so far."""
        return dict(self._current(self.graph).constants)

    def _step(self, n: int) -> Step:
        """The compiled step for batches of n samples, with the newest state."""
        if n not in self._steps:
            self._steps[n] = Step(self.trained, self.loss, self.optimizer, batch=n, frozen=self.frozen,
                                  seed=self.seed, threads=self.threads)
        self._steps.move_to_end(n)
        found = self._steps[n]
        if self._newest is not None and self._newest is not found:
            found.state = self._newest.state
        self._newest = found
        while len(self._steps) > STEPS:
            self._steps.popitem(last=False)
        return found

    def _current(self, graph: Graph) -> Graph:
        """A graph with the weights as trained so far."""
        if self._newest is None:
            return graph
        state = self._newest.state
        trained = {name: state[f"w:{name}"] for name in graph.constants if f"w:{name}" in state}
        return replace(graph, constants=graph.constants.changed(trained))

    def _model(self, graph: Graph) -> Any:
        """The graph compiled for inference, once: with the weights as state, set to those of now."""
        key = graph.outputs[0][1]
        if key not in self._models:
            self._models[key] = compile(_with_state(graph), threads=self.threads)
        model = self._models[key]
        model.state = {name: a for name, a in self._current(graph).constants.items() if a.dtype == np.float32}
        return model

    # ---- one step

    def step(self, x: Array, y: Array, lr: float | None = None) -> tuple[float, float]:
        """Train on one batch of any size; its loss and measure before the update. Raises as `fit`."""
        index = np.arange(len(x))
        batch = Batch(self.prepare(np.asarray(x), 0, index, False), self._targets(y), index)
        return self._train(batch, self.optimizer.lr if lr is None else lr, Recorder())

    def _targets(self, y: Any) -> Array:
        y = np.asarray(y)
        self._see(y)
        return self.loss.targets(y, self.output)

    def _see(self, y: Rows) -> None:
        """Targets of the outputs' shape are probabilities, or ones and zeros, instead of labels."""
        if isinstance(self.loss, SoftmaxCrossEntropy) and not self.loss.soft and not self._steps \
                and len(y.shape) == self.output.rank and tuple(y.shape[1:]) == self.output.shape[1:]:
            self.loss = replace(self.loss, soft=True)

    def _train(self, batch: Batch, lr: float, recorder: Recorder) -> tuple[float, float]:
        step = self._step(len(batch))
        recorder.note(step, batch, lr)
        loss, outputs = step(batch.x, batch.y, lr)
        if not math.isfinite(loss):
            self._stop(batch, lr, recorder)
        self.position.step += 1
        return float(loss), self.loss.score(outputs, batch.y)

    def _stop(self, batch: Batch, lr: float, recorder: Recorder) -> None:
        """The loss is no number: the state before this step comes back, and is asked where that began."""
        self.state = recorder.before_the_last()
        at = f"step {self.position.step + 1} (epoch {self.position.epoch + 1})"
        bad = np.flatnonzero(~np.isfinite(batch.x.reshape(len(batch), -1)).all(1))
        if bad.size:
            raise InputError(f"{at}: sample {batch.index[bad[0]]} of the data has values that are not finite")
        where = first_bad(self._current(self.trained), batch.x)
        first = f"the first value that isn't is {where}" if where else "all layers are: it is too large"
        raise InputError(f"{at}: the loss is not finite; {first}. The weights are those before this step; "
                         f"its learning rate is {lr:g}: a lower one, or ClipNorm, may help")

    # ---- training

    def fit(self, x: Data | Dataset | Rows | Iterable[tuple[Any, Any]], y: Rows | None = None, *,
            epochs: int = 1, validation: Any = None, schedule: AnySchedule = None,
            early_stopping: EarlyStopping | None = None, callbacks: Sequence[Callback] = (),
            checkpoints: str | os.PathLike[str] | None = None, every: int | None = None, keep: int = 3,
            resume: bool = False, log: str | os.PathLike[str] | None = None,
            progress: bool | None = None) -> History:
        """Train for so many epochs; the history.

        `x` and `y` are arrays (also mapped ones), or x is what `cnncc.train.data.read_data` gives, or any
        iterable of batches (x, y) that can be read again. `validation` is (x, y), or another such. `schedule`
        multiplies the learning rate. `callbacks` are called with this trainer and each epoch's row.

        `checkpoints` is a folder: what training goes on from is written there after every epoch and after
        `every` so many steps, and the last `keep` stay. With `resume` training goes on from the newest good
        one, to the same bits as if it had never stopped. `log`, .csv or .jsonl, gets a row for each
        step. `progress` shows a bar (None: on a terminal).

        Raises InputError for data that don't fit and where the loss is no number: that says in which layer.
        """
        if type(epochs) is not int or epochs < 1:
            raise InputError(f"epochs: expected a whole number from 1 on, got {epochs!r:.60}")
        if resume and checkpoints is None:
            raise InputError("resume: needs the folder of checkpoints")
        if isinstance(x, Data):
            validation, x = x.test if validation is None else validation, x.train
        source = self._source(x, y)
        held_out = None if validation is None else self._source(*_pair(validation))
        with ExitStack() as stack:
            self.position = Position(self.position.base + self.position.epoch, step=self.position.step)
            folder = None
            if checkpoints is not None:
                folder = checkpoint.Folder(Path(checkpoints), keep)
                stack.enter_context(folder.held())
                self._begin(folder, resume, early_stopping)
            rows = stack.enter_context(Log(log, self.position.step)) if log is not None else None
            report = stack.enter_context(display(progress))
            run = _Run(self, source, epochs, schedule_of(schedule), folder, every, early_stopping, rows,
                       report)
            while self.position.epoch < epochs and not (early_stopping and early_stopping.over):
                row = run.epoch()
                if held_out is not None:
                    row |= {f"val_{name}": value for name, value in self._evaluate(held_out).items()}
                self.history.rows.append(row)
                for callback in callbacks:
                    callback(self, row)
                run.finish(row)
            if early_stopping and early_stopping.restore and early_stopping.kept:
                self.state = early_stopping.kept
        return self.history

    def _source(self, x: Any, y: Any = None) -> Batches:
        if y is not None:
            x = Dataset(*(rows if hasattr(rows, "shape") else np.asarray(rows) for rows in (x, y)))
        elif not isinstance(x, Dataset) and hasattr(x, "shape"):
            raise InputError("data: there are no targets: give x and y, or batches of both")
        elif not isinstance(x, Dataset) and not hasattr(x, "__iter__"):
            raise InputError(f"data: expected arrays x and y, or batches of both, got {type(x).__name__}")
        if isinstance(x, Dataset):
            self._see(x.y)
        return Batches(x, self.batch, self.prepare, self.seed, self._targets)

    def _begin(self, folder: checkpoint.Folder, resume: bool, stopping: EarlyStopping | None) -> None:
        """Go on from a checkpoint, or see that there is none."""
        if not resume:
            if folder.files():
                raise InputError(f"{folder.path}: has checkpoints of another run: go on with resume=True, or "
                                 "choose another folder")
            return
        found, problems = folder.latest()
        for problem in problems:
            self._warn(f"{problem}; going on from the one before")
        if found is None:
            if problems:
                raise InputError(f"{folder.path}: no checkpoint is good: {problems[0]}")
            return
        own, theirs = self._record(), found.meta.get("run", {})
        if different := [key for key in own if own[key] != theirs.get(key)]:
            key = different[0]
            raise InputError(f"{found.path}: is of a run with another {', '.join(different)}: {key} was "
                             f"{theirs.get(key)!s:.200}, now {own[key]!s:.200}")
        parts: dict[str, dict[str, Array]] = {"state": {}, "best": {}}
        try:
            for name, array in found.state.items():
                part, _, name = name.partition(":")
                parts[part][name] = array
            self.position, self.history = Position(**found.meta["position"]), History(found.meta["history"])
            if stopping and found.meta["stopping"]:
                stopping.restored(found.meta["stopping"], parts["best"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{found.path}: is a checkpoint of another version: {error}") from None
        self.state = parts["state"]
        log.info("%s: going on from step %d", found.path, self.position.step)

    def _record(self) -> dict[str, Any]:
        """What must be the same for training to go on."""
        structure = str(replace(self.trained, name=""))
        made = self.prepare.augmentation
        return {"network": hashlib.sha256(structure.encode()).hexdigest(), "loss": repr(self.loss),
                "optimizer": repr(self.optimizer), "batch": self.batch, "seed": self.seed,
                "frozen": list(self.frozen), "augment": repr(made.changes) if made else "",
                "mean": self.prepare.mean.reshape(-1).tolist(), "std": self.prepare.std.reshape(-1).tolist()}

    def keep(self, folder: checkpoint.Folder, stopping: EarlyStopping | None) -> None:
        """Write a checkpoint. A disk that refuses is a warning: training goes on, the older ones stay."""
        arrays = {f"state:{name}": a for name, a in self.state.items()}
        arrays |= {f"best:{name}": a for name, a in (stopping.kept if stopping else {}).items()}
        meta = {"run": self._record(), "position": asdict(self.position), "history": self.history.rows,
                "stopping": stopping.record() if stopping else None}
        try:
            folder.save(self.position.step, arrays, meta)
        except OSError as error:
            last = folder.files()
            self._warn(f"{folder.path}: the checkpoint of step {self.position.step} cannot be written: "
                       f"{error.strerror or error}; training goes on, the last good one is "
                       f"{last[-1].name if last else 'none'}")

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        log.warning("%s", text)

    # ---- using what was learned

    def evaluate(self, x: Any, y: Any = None) -> dict[str, float]:
        """The loss and the measure (such as `accuracy`) of data, given as to `fit`."""
        return self._evaluate(self._source(*((x.test or x.train,) if isinstance(x, Data) else (x, y))))

    def _evaluate(self, source: Batches) -> dict[str, float]:
        source = Batches(source.data, INFERENCE, self.prepare, self.seed, self._targets)
        model, rows = self._model(self.trained), []
        for batch in prefetched(source.epoch(0, train=False)):
            outputs, (lost, measured) = model(batch.x), self.loss.counts(batch.y)
            rows.append((lost, lost * value_of(self.loss, outputs, batch.y),
                         measured, measured * self.loss.score(outputs, batch.y)))
        if not rows:
            raise InputError("data: there are no samples")
        lost, loss, measured, measure = map(sum, zip(*rows, strict=True))
        return {"loss": loss / (lost or 1), self.loss.measure: measure / (measured or 1)}

    def predict(self, x: Rows) -> Array:
        """The network's outputs for samples, which are prepared as those to train on."""
        x = x if hasattr(x, "shape") else np.asarray(x)
        if not len(x):
            raise InputError("data: there are no samples")
        self.prepare.check(x)
        model = self._model(self.graph)
        chunks = (np.arange(i, min(i + INFERENCE, len(x))) for i in range(0, len(x), INFERENCE))
        return np.concatenate([model(self.prepare(x[index], 0, index, False)) for index in chunks])

    def inference(self) -> Graph:
        """The network with the weights as trained so far: for `cnncc.compile`."""
        return self._current(self.graph)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network, `.onnx`, or its weights alone, `.safetensors`. Raises InputError, OSError."""
        suffix = Path(path).suffix.lower()
        if suffix == ".onnx":
            data = as_onnx(self.inference())
        elif suffix == ".safetensors":
            from safetensors.numpy import save
            flat = {n: a.reshape(-1) if n.endswith(".bias") else a for n, a in self.weights().items()}
            data = save({name: np.ascontiguousarray(a) for name, a in flat.items()})
        else:
            raise InputError(f"{os.fspath(path)}: expected .onnx or .safetensors")
        with replacing(path) as file:
            file.write(data)


@dataclass
class _Run:
    """The epochs of one call of `fit`."""

    trainer: Trainer
    source: Batches
    epochs: int
    schedule: Callable[[float, float], float]
    folder: checkpoint.Folder | None
    every: int | None
    stopping: EarlyStopping | None
    rows: Log | None
    report: Report

    def epoch(self) -> dict[str, Any]:
        """Train for what is left of an epoch; its row of the history."""
        trainer, at, name = self.trainer, self.trainer.position, self.trainer.loss.measure
        begin, done, lr, recorder = time.perf_counter(), 0, 0.0, Recorder()
        at.per_epoch = self.source.steps or at.per_epoch
        for batch in prefetched(self.source.epoch(at.base + at.epoch, at.number)):
            now = at.epoch + (min(at.number / at.per_epoch, 1.0) if at.per_epoch else 0.0)
            lr = trainer.optimizer.lr * self.schedule(now, self.epochs)
            loss, measure = trainer._train(batch, lr, recorder)
            at.number, at.samples, done = at.number + 1, at.samples + len(batch), done + len(batch)
            at.loss, at.measure = at.loss + loss * len(batch), at.measure + measure * len(batch)
            seconds = time.perf_counter() - begin
            if self.rows:
                self.rows.write({"step": at.step, "epoch": at.epoch + 1, "loss": loss, "measure": measure,
                                 "lr": lr, "seconds": seconds, "samples_per_second": done / seconds})
            self.report(f"epoch {at.epoch + 1}/{self.epochs} loss {at.loss / at.samples:.4f} {name} "
                        f"{at.measure / at.samples:.4f} {done / seconds:,.0f} samples/s", now / self.epochs)
            if self.folder and self.every and at.step % self.every == 0:
                trainer.keep(self.folder, self.stopping)
        if not at.samples:
            raise InputError("data: there are no samples")
        seconds = time.perf_counter() - begin
        return {"epoch": at.base + at.epoch + 1, "step": at.step, "loss": at.loss / at.samples,
                name: at.measure / at.samples, "lr": lr, "seconds": seconds,
                "samples_per_second": done / seconds}

    def finish(self, row: Mapping[str, Any]) -> None:
        """Go to the next epoch, note whether this was the best, and keep it."""
        at = self.trainer.position
        if self.stopping and self.stopping.improved(row) and self.stopping.restore:
            self.stopping.kept = {name: np.array(a) for name, a in self.trainer.state.items()}
        at.per_epoch = at.number
        at.epoch, at.number, at.samples, at.loss, at.measure = at.epoch + 1, 0, 0, 0.0, 0.0
        if self.folder:
            self.trainer.keep(self.folder, self.stopping)


def network(source: Source, ops: Ops | None = None) -> Graph:
    """The graph of what is to be trained. Raises ModelError, also where its batch can't be open."""
    try:
        return read(source, ops=ops)
    except OpenError as error:
        raise UnsupportedError(f"{error.name} can't be trained: that needs a batch that is open, and the "
                               "first axis of all values", error.rows) from None


def _pair(data: Any) -> tuple[Any, ...]:
    """(x, y) of a pair of arrays; else the one thing that it is."""
    if isinstance(data, tuple) and len(data) == 2 and all(hasattr(part, "__len__") for part in data):
        return data
    return (data,)


def _with_state(graph: Graph) -> Graph:
    """The graph with its float32 constants as state, which stays as it is set."""
    own = {name for name, a in graph.constants.items() if a.dtype == np.float32}
    nodes = {n.name: replace(n, op="input") if n.name in own else n for n in graph}
    constants = graph.constants.only(graph.constants.keys() - own)
    return replace(graph, nodes=nodes, constants=constants, state=tuple((name, name) for name in sorted(own)))


def _without(graph: Graph, op: str) -> Graph:
    """The graph without its last node, where that is of this op."""
    name, value = graph.outputs[0]
    n = graph[value]
    if not op or n.op != op or (op == "softmax" and n.attr["axis"] != 1):
        return graph
    return replace(graph, outputs=((name, n.inputs[0]), *graph.outputs[1:])).live()


def _check(graph: Graph) -> Any:
    """The type of the output of a network that can be trained. Raises ModelError."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ModelError(f"{graph.name}: has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; "
                         "networks with one of each can be trained")
    x, y = graph[graph.inputs[0]].type, graph[graph.outputs[0][1]].type
    for what, type in (("input", x), ("output", y)):
        if not type.rank or not isinstance(type.shape[0], str) or type.dtype != "f32":
            raise ModelError(f"{graph.name}: its {what} is {type}; expected float32 with an open batch, such "
                             "as [N, 3, 32, 32]")
    return y
