"""Which parts of an image decided: saliency, Grad-CAM, occlusion, and pictures of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cnncc.compiler import Source, compile, read
from cnncc.ir.errors import InputError, ModelError, hint
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.signature import Array
from cnncc.ir.types import TensorType
from cnncc.passes.differentiate import gradients

METHODS = ("saliency", "gradcam", "occlusion")


def saliency(source: Source, x: Array, target: Sequence[int] | None = None) -> Array:
    """How much each pixel moves the score of a class (Simonyan, Vedaldi, Zisserman 2014): [n, height, width].

    It is the greatest magnitude over the channels of the gradient of that score, before a last softmax. `x`
    is a batch of images as the network takes them, `target` a class for each (None: that of the best score).
    Raises InputError for images or classes that don't fit, ModelError for another kind of network.
    """
    graph = _scores(source, x)
    slopes, _ = _slopes(graph, graph.inputs[0], x, _targets(graph, x, target))
    result: Array = np.abs(slopes).max(1)
    return result


def gradcam(source: Source, x: Array, target: Sequence[int] | None = None, layer: str | None = None) -> Array:
    """Where a layer speaks for a class (Selvaraju et al. 2017): [n, height, width], from 0 to 1.

    `layer` names a value [n, channels, ...] of the network; None is the last one that has places. Raises as
    `saliency`.
    """
    graph = _scores(source, x)
    layer = _layer(graph, layer)
    slopes, values = _slopes(graph, layer, x, _targets(graph, x, target))
    heat = np.maximum((slopes.mean((2, 3), keepdims=True) * values).sum(1), 0)
    heat = np.stack([_resized(h, x.shape[2:]) for h in heat])
    top = heat.max((1, 2), keepdims=True)
    result: Array = heat / np.where(top > 0, top, 1)
    return result


def occlusion(source: Source, x: Array, target: Sequence[int] | None = None, size: int = 8,
              stride: int | None = None, value: float = 0.0) -> Array:
    """How much the score of a class falls where a patch hides the image (Zeiler, Fergus 2014).

    [n, height, width]: of each pixel the mean over the patches of `size` pixels, `stride` apart (None: half
    of the size), that hide it. `value` is what a patch is filled with. Raises as `saliency`.
    """
    graph, step = _scores(source, x), max(1, size // 2) if stride is None else stride
    height, width = x.shape[2:]
    if not 1 <= size <= min(height, width) or not 1 <= step <= size:
        raise InputError(f"occlusion: expected patches of 1 to {min(height, width)} pixels, at most as far "
                         f"apart, got size {size} and stride {step}")
    classes, model, rows = _targets(graph, x, target), compile(graph), np.arange(len(x))
    whole = model(x)[rows, classes]
    total, count = np.zeros((len(x), height, width)), np.zeros((height, width))
    for top in _places(height, size, step):
        for left in _places(width, size, step):
            hidden = x.copy()
            hidden[:, :, top:top + size, left:left + size] = value
            fall = whole - model(hidden)[rows, classes]
            total[:, top:top + size, left:left + size] += fall[:, None, None]
            count[top:top + size, left:left + size] += 1
    result: Array = (total / count).astype(np.float32)
    return result


def _places(extent: int, size: int, step: int) -> list[int]:
    return sorted({*range(0, extent - size + 1, step), extent - size})


def picture(image: Array, heat: Array, path: str | os.PathLike[str], strength: float = 0.6) -> None:
    """Write an image [channels, height, width] of any range with the heat map [height, width] over it.

    Needs Pillow: cnncc[images]. Raises InputError where the file can't be written.
    """
    try:
        from PIL import Image
    except ImportError:
        raise InputError('pictures need Pillow: pip install "cnncc[images]"') from None
    grey = _unit(image[:3] if len(image) >= 3 else image[:1])
    warm = _unit(np.maximum(heat, 0))
    colours = np.stack([np.clip(3 * warm - i, 0, 1) for i in range(3)])     # black, red, yellow, white
    mixed = grey * (1 - strength * warm) + colours * strength * warm
    pixels = np.rint(mixed.transpose(1, 2, 0) * 255).astype(np.uint8)
    drawn = Image.fromarray(pixels)
    drawn = drawn.resize([max(1, 256 // max(drawn.size)) * e for e in drawn.size], Image.Resampling.NEAREST)
    try:
        drawn.save(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)}: cannot be written: {error}") from None


def explain(method: str) -> Callable[..., Array]:
    """The function of that name. Raises InputError for another."""
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, got {method!r:.60}")
    return {"saliency": saliency, "gradcam": gradcam, "occlusion": occlusion}[method]


# ---- networks


def _scores(source: Source, x: Array) -> Graph:
    """The network without a last softmax or sigmoid. Raises ModelError unless it maps images to scores."""
    graph = read(source)
    if len(graph.inputs) == 1 and len(graph.shown) == 1:
        name, value = graph.shown[0]
        if graph[value].op in ("softmax", "sigmoid"):
            value = graph[value].inputs[0]
        graph = replace(graph, outputs=((name, value),), signals=()).live()
        if graph[graph.inputs[0]].type.rank == 4 and graph[value].type.rank == 2:
            own = graph[graph.inputs[0]].type.shape
            if x.ndim != 4 or x.shape[1:] != own[1:] or x.dtype != np.float32:
                wanted = ", ".join(map(str, own))
                raise InputError(f"expected float32[{wanted}], got {x.dtype}{list(x.shape)}")
            return graph
    raise ModelError(f"{graph.name}: expected a network with one input, images [batch, channels, height, "
                     "width], and one output, scores [batch, classes]")


def best(source: Source, x: Array) -> Array:
    """The class with the best score for each image. Raises as `saliency`."""
    result: Array = np.asarray(compile(_scores(source, x))(x)).argmax(1)
    return result


def _targets(graph: Graph, x: Array, target: Sequence[int] | None) -> Array:
    count = int(graph[graph.outputs[0][1]].type.shape[1])
    if target is None:
        return best(graph, x)
    classes = np.asarray(target)
    if classes.shape != (len(x),) or classes.dtype.kind not in "iu" \
            or not ((classes >= 0) & (classes < count)).all():
        raise InputError(f"target: expected {len(x)} classes from 0 to {count - 1}, got {target!r:.100}")
    return classes


def _layer(graph: Graph, layer: str | None) -> str:
    def fits(name: str) -> bool:
        shape = graph[name].type.shape
        return graph[name].op != "const" and len(shape) == 4 and shape[2:] != (1, 1)
    names = [n.name for n in graph if fits(n.name) and n.op != "input"]
    if layer is None and names:
        return names[-1]
    if layer not in names:
        raise InputError(f"layer: expected a value [n, channels, height, width] of the network, got {layer!r}"
                         f"{hint(layer or '', names)}; those are {', '.join(names[-10:]) or 'none'}")
    return layer


def _slopes(graph: Graph, value: str, x: Array, classes: Array) -> tuple[Array, Array]:
    """The gradient of the scores of these classes with respect to a value; that value."""
    out = graph[graph.outputs[0][1]]
    b = Builder(graph.name, graph.constants)
    b.nodes, b.inputs = dict(graph.nodes), list(graph.inputs)
    mask = b.input(b.fresh("chosen"), TensorType("f32", out.type.shape))
    chosen = b.op("mul", [out.name, mask], "score")
    total = b.op("reduce_sum", [b.op("reduce_sum", [chosen], "scores", axes=(1,), keepdims=False)], "sum",
                 axes=(0,), keepdims=False)
    whole = gradients(b.graph([("sum", total), ("value", value)]), total, [value])
    hot = np.zeros((len(x), int(out.type.shape[1])), np.float32)
    hot[np.arange(len(x)), classes] = 1
    model: Any = compile(whole)
    _, own, slopes = model(x, hot)
    return slopes, own


# ---- pixels


def _unit(a: Array) -> Array:
    low, high = a.min(), a.max()
    result: Array = (a - low) / (high - low if high > low else 1)
    return result


def _resized(a: Array, shape: Sequence[int]) -> Array:
    """An image between whose pixels is read, so that the corners' edges meet (half-pixel centres)."""
    for axis, size in enumerate(shape):
        places = ((np.arange(size) + 0.5) * a.shape[axis] / size - 0.5).clip(0, a.shape[axis] - 1)
        low = np.floor(places).astype(int)
        high, part = np.minimum(low + 1, a.shape[axis] - 1), places - low
        part = part.reshape(-1, 1) if axis == 0 else part
        a = a.take(low, axis) * (1 - part) + a.take(high, axis) * part
    return a
