"""Training that is killed and goes on: the same bits as without, and for every number of threads.

    python benchmarks/resume.py --data mnist.npz --kills 20

LeNet-5 is trained for some epochs of a few thousand samples, with a checkpoint after every second step; the
process gets SIGKILL at random times, also within a checkpoint's write, until it has been killed so often.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cnncc import SGD, Trainer, zoo
from cnncc.train import Crop, Dataset, read_data
from cnncc.train.checkpoint import TEMPORARY, Folder


def trainer(threads: int | None = None) -> Trainer:
    optimizer = SGD(lr=0.05, momentum=0.9)
    return Trainer(zoo.path("lenet5"), optimizer=optimizer, augment=[Crop(2)], threads=threads)


def samples(path: str, n: int) -> Dataset:
    return read_data(path).train.part(np.arange(n))


def train(data: Dataset, epochs: int, folder: str | None = None, threads: int | None = None) -> Trainer:
    t = trainer(threads)
    t.fit(data, epochs=epochs, schedule="one_cycle", checkpoints=folder, every=2, resume=folder is not None)
    return t


def same(a: Trainer, b: Trainer) -> bool:
    first, second = a.state, b.state
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=3210)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    data = samples(args.data, args.samples)
    if args.folder:
        train(data, args.epochs, args.folder)
        return
    whole = train(data, args.epochs)
    print(f"{whole.position.step} steps, loss {whole.history['loss'][-1]:.4f}")
    few = samples(args.data, 50 * 64)
    ones = [train(few, 1, threads=n) for n in (1, 2, 3, 4)]
    print(f"{ones[0].position.step} steps with 1, 2, 3, 4 threads:",
          "equal bits" if all(same(ones[0], t) for t in ones[1:]) else "DIFFERENT BITS")
    rng, killed, writing = np.random.default_rng(0), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        own = Folder(Path(folder))
        while killed < args.kills:
            begin = [f.name for f in own.files()]
            process = subprocess.Popen([sys.executable, __file__, "--folder", folder, "--data", args.data,
                                        "--epochs", str(args.epochs), "--samples", str(args.samples)])
            while process.poll() is None and [f.name for f in own.files()] == begin:
                time.sleep(0.002)
            end = time.monotonic() + rng.random() * 0.5
            torn = killed % 2 == 0      # every other time in a write
            while process.poll() is None and (time.monotonic() < end or (torn and not unfinished(own.path))):
                time.sleep(0 if torn else 0.002)
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                break
            killed, writing = killed + 1, writing + bool(unfinished(own.path))
        again = train(data, args.epochs, folder)
        print(f"killed {killed} times, {writing} within a checkpoint's write:",
              "equal bits" if same(again, whole) else "DIFFERENT BITS", *again.warnings)


def unfinished(folder: Path) -> list[str]:
    return [f.name for f in folder.iterdir() if TEMPORARY.fullmatch(f.name)]


if __name__ == "__main__":
    main()
