"""`cnncc demo`: a small network for handwritten digits compiled, run, checked and timed, in a few lines."""

from __future__ import annotations

import functools
import time
import timeit
from collections.abc import Generator, Iterator
from importlib.resources import files

import numpy as np

from cnncc import zoo
from cnncc.compiler import as_onnx, compile, read, reference, stages
from cnncc.ir.errors import InternalError
from cnncc.ir.signature import Array
from cnncc.ir.target import target_for
from cnncc.reference_model import error_of
from cnncc.train.augment import Crop
from cnncc.train.optimizers import SGD
from cnncc.train.trainer import Trainer
from cnncc.verify import tolerance

SHADES = "  .:-=+*#%@"
SHOWN = 6
EPOCHS = 20
NEXT = """
Next, with a model of your own:
  cnncc info model.onnx                      # are all of its ops supported?
  cnncc run model.onnx input.npy             # or a .png, with cnncc[images]
  cnncc verify model.onnx                    # right?
  cnncc bench model.onnx                     # fast? against what is installed
  python -c "import cnncc; help(cnncc.compile)\""""


def _digits(name: str) -> tuple[Array, Array]:
    """Images and labels of a file in the package."""
    with (files("cnncc") / "data" / name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]


def _trained(threads: int | None) -> Generator[str, None, bytes]:
    """The network trained on the other digits, as an ONNX file."""
    images, labels = _digits("digits_train.npz")
    trainer = Trainer(zoo.path("digits"), optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4), batch=32,
                      threads=threads, augment=[Crop(1)])
    yield f"Training on {len(labels)} digits: each step, with its gradients and update, is one native call."
    begin = time.perf_counter()
    x = images[:, None].astype(np.float32) / 16
    history = trainer.fit(x, labels, epochs=EPOCHS, schedule="one_cycle")
    for row in history.rows[::EPOCHS // 5]:
        yield f"  epoch {row['epoch']:3}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.1%}"
    yield f"Trained in {time.perf_counter() - begin:.1f} s, compiled in that: {trainer.position.step} steps."
    yield ""
    return as_onnx(trainer.inference())


def demo(threads: int | None = None, train: bool = False) -> Iterator[str]:
    """The lines of the demonstration, as they become known. Raises InternalError if a result is wrong.

    With `train` it begins by training the network, instead of with one that is trained.
    """
    images, labels = _digits("digits.npz")
    x = images[:, None].astype(np.float32) / 16
    content = (files("cnncc") / "data" / "digits.onnx").read_bytes()
    if train:
        content = yield from _trained(threads)

    yield f"The model: digits.onnx, {len(content) / 1e3:.0f} KB; 8 x 8 grey values in, 10 probabilities out."
    target = target_for()
    steps = dict(stages(read(content), target))
    for name, note in (("read", "as the file has it"), ("fold_batchnorm", "normalisation is in the weights"),
                       ([*steps][-1], "fused: one kernel each, layouts and loops chosen")):
        yield f"  {name:17} {steps[name].summary()}  ({note})"
    yield ""

    begin = time.perf_counter()
    model = compile(content, threads=threads, cache=False)
    yield (f"Compiled to {target.level} in {time.perf_counter() - begin:.2f} s: "
           f"{len(model.plan.steps)} kernels, {model.threads} thread{'s' * (model.threads > 1)}.")
    for step in model.plan.steps:
        yield f"  {step.ops:24} <- {', '.join(step.nodes)}"
    yield ""

    p = model(x)
    found = p.argmax(1)
    wrong = np.flatnonzero(found != labels)
    chosen = [*range(SHOWN - 1), *wrong[:1]] if wrong.size else [*range(SHOWN)]
    for row in range(images.shape[1]):
        grey = (images[:, row].astype(int) * (len(SHADES) - 1)) // 16
        yield "   ".join("".join(SHADES[v] * 2 for v in grey[i]) for i in chosen).rstrip()
    said = (f"{found[i]} ({p[i].max():.0%})" + f", is {labels[i]}" * (i in wrong) for i in chosen)
    yield "   ".join(f"{text:16}" for text in said).rstrip()
    yield f"\nAccuracy on {len(labels)} held-out digits: {(found == labels).mean():.1%} ({wrong.size} wrong)."

    interpreter = reference(content)
    [truth], [single] = (r.run(None, {"x": x}) for r in (reference(content, "float64"), interpreter))
    error, limit = error_of(p, truth), tolerance([error_of(single, truth)])
    if not error <= limit:
        raise InternalError(f"the compiled digits differ from the reference by {error:.1e}, not {limit:.1e}")
    yield f"All {p.size:,} outputs agree with the NumPy reference in double precision to {error:.1e}."
    for n in (1, len(x)):
        timers = (timeit.Timer(functools.partial(call, x[:n])) for call in (model, interpreter))
        ours, other = (total / calls for calls, total in (timer.autorange() for timer in timers))
        yield (f"Speed, {n:3} image{'s' if n > 1 else ' '} a call: {ours / n * 1e6:7.1f} us an image, NumPy "
               f"{other / n * 1e6:7.1f} us: {other / ours:,.0f} times as fast.")
    yield from NEXT.splitlines()
