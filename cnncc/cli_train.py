"""The verbs of the command line about training: arguments and printing only."""

from __future__ import annotations

from typing import Any

import click

from cnncc.console import Verbs, echo, image_options, numbers_option, quiet, tell, threads_option, writing

option = click.option
training = Verbs("training")
AUGMENTATIONS = ("auto", "digits", "elastic", "photos")


@training.verb(
    click.argument("model", metavar="MODEL"),
    option("--data", required=True, metavar="PATH", help="An .npz, or a folder: .npy or IDX files, images."),
    option("-o", "--out", metavar="FILE", help="Write the network (.onnx) or its weights (.safetensors)."),
    option("--epochs", type=click.IntRange(1), default=5, help="Passes over the data."),
    option("--batch", type=click.IntRange(1), default=64, help="Samples of a step."),
    option("--optimizer", type=click.Choice(["sgd", "adam", "adamw", "rmsprop"]), default="sgd",
           help="How weights follow gradients."),
    option("--lr", type=float, help="Learning rate (default: that of the optimizer)."),
    option("--momentum", type=float, help="Of sgd (default: 0.9) and rmsprop."),
    option("--decay", type=float, help="Weight decay, of all but biases and norms."),
    option("--clip", type=float, help="The most that the norm of all gradients may be."),
    option("--loss", default="softmax_cross_entropy", help="Or sigmoid_cross_entropy, mean_squared, l1 ..."),
    option("--smoothing", type=float, default=0.0, help="Label smoothing of a cross-entropy."),
    option("--schedule", default="constant", help="Or step, cosine, warmup, warmup_cosine, one_cycle."),
    option("--augment", type=click.Choice(AUGMENTATIONS), is_flag=False, flag_value="auto",
           help="Change images at random (auto: digits for one channel, else photos)."),
    numbers_option("--mean", default="0", help="Subtracted (bytes are 0 to 1): one number or one a channel."),
    numbers_option("--std", default="1", help="Divided by: one or one a channel."),
    option("--weights", metavar="FILE", help="Begin with these, by name: .safetensors, .npz or .onnx."),
    option("--freeze", multiple=True, metavar="PATTERN", help="Weights that stay, by name: 'conv*'."),
    option("--classes", type=click.IntRange(1), help="Give the network a new last layer of so many outputs."),
    option("--patience", type=click.IntRange(1), help="Stop when the test loss hasn't fallen for so long."),
    option("--checkpoints", metavar="DIR", help="Write what training goes on from after each epoch."),
    option("--every", type=click.IntRange(1), help="And after so many steps."),
    option("--resume", is_flag=True, help="Go on from the last checkpoint, if there is one (default "
                                          "folder: OUT.checkpoints)."),
    option("--log", "log_file", metavar="FILE", help="A row for each step: .csv or .jsonl."),
    option("--plot", metavar="FILE", help="Draw losses and measures (cnncc[plot])."),
    option("--seed", type=click.IntRange(0), default=0, help="Of everything random."), threads_option)
def train(model: str, data: str, out: str | None, epochs: int, batch: int, loss: str, smoothing: float,
          schedule: str, augment: str | None, mean: tuple[float, ...], std: tuple[float, ...],
          weights: str | None, freeze: tuple[str, ...], classes: int | None, patience: int | None,
          checkpoints: str | None, every: int | None, resume: bool, log_file: str | None, plot: str | None,
          seed: int, threads: int | None, **how: Any) -> None:
    """Train MODEL: a definition, the name of one in the package (cnncc zoo), or an ONNX file.

    The data's test part is what each epoch is judged by.
    """
    from pathlib import Path

    from cnncc import zoo
    from cnncc.train import augment as ways
    from cnncc.train.data import read_data
    from cnncc.train.history import EarlyStopping
    from cnncc.train.losses import loss_of
    from cnncc.train.trainer import Trainer, network
    if resume and not checkpoints:
        if not out:
            raise click.UsageError("--resume needs --checkpoints or --out")
        checkpoints = f"{out}.checkpoints"
    if out and Path(out).suffix.lower() not in (".onnx", ".safetensors"):
        raise click.UsageError("--out must end in .onnx or .safetensors")
    graph = network(zoo.source(model))
    shape = [int(e) for e in graph[graph.inputs[0]].type.shape[1:]]
    kind = loss_of(loss)
    if smoothing:
        kind = _smoothed(kind, smoothing)
    changes = {"digits": [ways.Rotate(10), ways.Rescale(0.1), ways.Crop(2)],
               "elastic": [ways.Elastic(), ways.Rotate(10), ways.Rescale(0.1), ways.Crop(2)],
               "photos": [ways.Flip(), ways.Crop(4)]}
    name = ("digits" if shape[:1] == [1] else "photos") if augment == "auto" else augment
    trainer = Trainer(graph, loss=kind, optimizer=_optimizer(**how), batch=batch, seed=seed, threads=threads,
                      mean=mean, std=std, augment=changes[name] if name else (), frozen=freeze,
                      weights=weights, classes=classes)
    found = read_data(data, shape)
    _ready(trainer, out, plot, log_file)
    own, outputs = len(found.classes), trainer.output.shape[1:2]
    if own and outputs != (own,):
        echo(f"note: the data have {own} classes, the network has {outputs[0] if outputs else 1} outputs: "
             f"--classes {own} makes it as many", err=True)
    stopping = EarlyStopping(patience=patience) if patience else None
    if stopping and found.test is None:
        raise click.UsageError("--patience needs data with a test part")

    def said(trainer: Trainer, row: dict[str, Any]) -> None:
        echo(_line(row, epochs), err=True)
    try:
        history = trainer.fit(found, epochs=epochs, schedule=schedule, early_stopping=stopping,
                              callbacks=[] if quiet() else [said], checkpoints=checkpoints, every=every,
                              resume=resume, log=log_file, progress=False if quiet() else None)
    except KeyboardInterrupt:
        how_on = "with --resume the same line goes on from the last checkpoint" if checkpoints else \
            "--checkpoints or --resume would have kept what was learned"
        echo(f"stopped after step {trainer.position.step}: {how_on}", err=True)
        raise
    result = trainer.evaluate(found.test) if found.test else trainer.evaluate(found.train)
    if out:
        with writing(out):
            trainer.save(out)
    if plot:
        history.plot(plot)
    part = "test" if found.test else "train"
    text = f"{part}: " + ", ".join(f"{k} {v:.4f}" for k, v in result.items()) + f"; {out}" * bool(out)
    tell({"history": history.rows, part: result, "output": out, "warnings": trainer.warnings,
          "classes": found.classes}, text)


def _ready(trainer: Any, out: str | None, plot: str | None, log: str | None) -> None:
    """Raises InputError, UnsupportedError where what was learned could not be written in the end."""
    from pathlib import Path

    from cnncc.compiler import as_onnx
    from cnncc.ir.errors import InputError
    from cnncc.train.history import check_plots
    for path in (out, plot, log):
        if path and not Path(path).resolve().parent.is_dir():
            raise InputError(f"{path}: there is no folder {str(Path(path).parent)!r} to write it to")
    if plot:
        check_plots()
    if out and Path(out).suffix.lower() == ".onnx":
        as_onnx(trainer.inference())


def _smoothed(loss: Any, smoothing: float) -> Any:
    from cnncc.train.losses import SigmoidCrossEntropy, SoftmaxCrossEntropy
    if not isinstance(loss, SigmoidCrossEntropy | SoftmaxCrossEntropy):
        raise click.UsageError("--smoothing is for cross-entropies")
    return type(loss)(label_smoothing=smoothing)


def _line(row: dict[str, Any], epochs: int) -> str:
    numbers = ", ".join(f"{k} {v:.4f}" for k, v in row.items()
                        if k not in ("epoch", "step", "seconds", "samples_per_second", "lr"))
    return (f"epoch {row['epoch']}/{epochs}: {numbers} ({row['seconds']:.1f} s, "
            f"{row['samples_per_second']:,.0f} samples/s)")


def _optimizer(optimizer: str, lr: float | None, momentum: float | None, decay: float | None,
               clip: float | None) -> Any:
    from cnncc.train.optimizers import NAMES
    from cnncc.train.regularizers import ClipNorm
    if momentum is not None and optimizer not in ("sgd", "rmsprop"):
        raise click.UsageError(f"--momentum is of sgd and rmsprop, not of {optimizer}")
    given = {"lr": lr, "momentum": 0.9 if momentum is None and optimizer == "sgd" else momentum,
             "weight_decay": decay, "regularizers": None if clip is None else (ClipNorm(clip),)}
    return NAMES[optimizer](**{k: v for k, v in given.items() if v is not None})


@training.verb(
    click.argument("model", metavar="MODEL"), click.argument("image", metavar="IMAGE"),
    option("-o", "--output", metavar="FILE", required=True, help="The picture to write."),
    option("--method", type=click.Choice(["saliency", "gradcam", "occlusion"]), default="gradcam",
           help="Gradients of the pixels, of a layer, or patches hidden."),
    option("--class", "target", type=click.IntRange(0), help="The class to explain (default: the best)."),
    option("--layer", metavar="NAME", help="Of gradcam (default: the last one that has places)."),
    option("--size", type=click.IntRange(1), help="Pixels of a patch of occlusion."), *image_options)
def explain(model: str, image: str, output: str, method: str, target: int | None, layer: str | None,
            size: int | None, **pixels: Any) -> None:
    """Show which parts of IMAGE (.png, .npy ...) decided what MODEL says: a heat map over it."""
    from cnncc import zoo
    from cnncc.compiler import read
    from cnncc.explanations import best, explain, picture
    from cnncc.feeds import read_feeds
    from cnncc.frontend.preprocess import Preprocess
    from cnncc.ir.signature import Signature
    if (layer and method != "gradcam") or (size and method != "occlusion"):
        raise click.UsageError("--layer is of gradcam, --size of occlusion")
    graph = read(zoo.source(model))
    x = next(iter(read_feeds(Signature.of(graph).inputs, [image], Preprocess(**pixels)).values()))
    chosen = best(graph, x[:1])[0] if target is None else target
    own = {k: v for k, v in (("layer", layer), ("size", size)) if v}
    heat = explain(method)(graph, x[:1], [int(chosen)], **own)
    picture(x[0], heat[0], output)
    tell({"class": int(chosen), "method": method, "output": output}, f"class {chosen}: {method} in {output}")


@training.verb(click.argument("what", type=click.Choice(["list", "show"]), default="list"),
               click.argument("name", required=False))
def zoo(what: str, name: str | None) -> None:
    """The definitions that come with the package: `list` them, `show NAME`."""
    from cnncc import zoo
    if what == "show":
        if not name:
            raise click.UsageError(f"show needs a name: {', '.join(zoo.names())}")
        text = zoo.path(name).read_text(encoding="utf-8")
        tell({"name": name, "path": str(zoo.path(name)), "text": text}, text.rstrip())
        return
    rows = {n: zoo.about(n) for n in zoo.names()}
    tell(rows, "\n".join(f"{n:16} {text}" for n, text in rows.items()))
