"""LLVM text to object bytes, in this process and in worker processes.

LLVM holds a global lock, so threads do not help. A worker process is `sys.executable` running `serve()` below
over its stdin and stdout, isolated (no site, no environment, no current directory): it finds only the
standard library, llvmlite and this package, and a user's script needs no `__main__` guard. A frame is one
byte, a length (u64, little endian) and the bytes: first the Machine as JSON, answered by an empty frame, then
one text each, answered by an object or an error message. Nothing is written to disk. A worker ends when its
stdin does.
"""

from __future__ import annotations

import functools
import heapq
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Self

import llvmlite
import llvmlite.binding as llvm

from cnncc.ir.errors import InternalError

SECONDS_PER_BYTE = 3e-7  # parsing and code generation of unrolled vector code, one core
PAYS = 0.4  # seconds of predicted work for each process beyond this one

_HEADER = struct.Struct("<BQ")
_READY, _OBJECT, _ERROR = range(3)


@dataclass(frozen=True)
class Machine:
    """What LLVM needs to know of a target; `opt` is the code generator's level, 0 to 3."""

    triple: str
    cpu: str
    features: str
    opt: int = 2


@functools.cache
def _target_machine(machine: Machine) -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_triple(machine.triple).create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=machine.opt, reloc="pic", codemodel="small")


def _module(text: str) -> llvm.ModuleRef:
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
        module.verify()
    except RuntimeError as error:
        raise InternalError(f"LLVM refuses the text {_first_line(text)!r}: {error}") from error
    return module


def _first_line(text: str) -> str:
    return text.lstrip().partition("\n")[0]


def compile_text(text: str, machine: Machine) -> bytes:
    """The object of one module, made in this process; it is verified, not optimised.

    Raises InternalError with LLVM's message and the first line of a text that LLVM refuses.
    """
    target = _target_machine(machine)
    return bytes(target.emit_object(_module(text)))


def assembly(text: str, machine: Machine) -> str:
    """The same as assembly, to read; raises as `compile_text` does."""
    target = _target_machine(machine)
    return str(target.emit_assembly(_module(text)))


def _send(pipe: IO[bytes], kind: int, data: bytes) -> None:
    pipe.write(_HEADER.pack(kind, len(data)))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[int, bytes]:
    """The next frame; raises EOFError at the end of the stream, in a frame or between two."""
    header = pipe.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise EOFError
    kind, size = _HEADER.unpack(header)
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return kind, data


def serve() -> None:
    """What a worker process runs: compile what comes on stdin until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        machine = Machine(**json.loads(_receive(source)[1]))
        _target_machine(machine)
        _send(sink, _READY, b"")
        while True:
            text = _receive(source)[1].decode()
            try:
                kind, answer = _OBJECT, compile_text(text, machine)
            except Exception as error:
                kind, answer = _ERROR, str(error).encode()
            _send(sink, kind, answer)
    except (EOFError, BrokenPipeError):
        os._exit(0)


_BOOT = "import sys; sys.path += sys.argv[1:]; from cnncc.codegen.worker import serve; serve()"


class _Child:
    """One worker process. Raises OSError where it can't be started."""

    def __init__(self) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise OSError("no Python interpreter to start")
        paths = str(Path(llvmlite.__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])
        self.process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _BOOT, *paths],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.sink, self.source = self.process.stdin, self.process.stdout

    def ask(self, data: bytes) -> tuple[int, bytes]:
        """The answer to a frame; OSError or EOFError where the process has died."""
        _send(self.sink, 0, data)
        return _receive(self.source)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.sink, self.source):
            try:
                pipe.close()
            except OSError:
                pass


@dataclass(order=True)
class _Job:
    key: tuple[int, int]  # (-bytes, position): the largest comes first
    text: str = field(compare=False)
    deaths: int = field(default=0, compare=False)
    result: bytes = field(default=b"", compare=False)


class Compiler:
    """Compiles texts while others are still being generated; a context manager, used from one thread.

    `jobs` counts the processes that compile, this one included: it takes part from `results()` on. `expected`
    is the work to come in seconds of one core: worker processes start as soon as it, or what was submitted,
    makes them worth their start. Leaving the context ends them.
    """

    def __init__(self, machine: Machine, jobs: int, expected: float = 0.0) -> None:
        self.machine, self.jobs = machine, jobs
        self._jobs: list[_Job] = []
        self._queue: list[_Job] = []
        self._work = 0.0
        self._feeders: list[threading.Thread] = []
        self._changed = threading.Condition()  # guards what follows, and the queue
        self._children: set[_Child] = set()
        self._closing = threading.Event()
        self._done = 0
        self._error: Exception | None = None
        self._staff(expected)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, text: str) -> int:
        """Hands in a text; returns its position in `results()`."""
        job = _Job((-len(text), len(self._jobs)), text)
        self._jobs.append(job)
        self._put(job)
        self._work += len(text) * SECONDS_PER_BYTE
        self._staff(self._work)
        return len(self._jobs) - 1

    def results(self, progress: Callable[[int, int], None] | None = None) -> list[bytes]:
        """The objects of all texts in the order of `submit`; `progress(done, total)` is called from here.

        Raises InternalError for a text that LLVM refuses, or that ended two worker processes.
        """
        total, reported = len(self._jobs), 0
        while reported < total:
            with self._changed:
                while not (self._queue or self._error or self._done > reported):
                    self._changed.wait()
                job = heapq.heappop(self._queue) if self._queue and not self._error else None
            if job is not None:
                self._finish(job, compile_text(job.text, self.machine))
            if self._error is not None:
                raise self._error
            if progress is not None and self._done > reported:
                progress(self._done, total)
            reported = self._done
        return [job.result for job in self._jobs]

    def close(self) -> None:
        """Ends the worker processes, whatever they are doing; may be called twice."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
            for child in self._children:
                child.process.kill()
        for feeder in self._feeders:
            feeder.join()

    def _staff(self, seconds: float) -> None:
        while len(self._feeders) < min(self.jobs - 1, int(seconds / PAYS)):
            feeder = threading.Thread(target=self._feed, name="cnncc-compile", daemon=True)
            feeder.start()
            self._feeders.append(feeder)

    def _put(self, job: _Job) -> None:
        with self._changed:
            heapq.heappush(self._queue, job)
            self._changed.notify_all()

    def _take(self) -> _Job | None:
        """The next text for a worker process; None when the compiler closes."""
        with self._changed:
            while not (self._queue or self._closing.is_set()):
                self._changed.wait()
            return None if self._closing.is_set() else heapq.heappop(self._queue)

    def _finish(self, job: _Job, result: bytes | Exception) -> None:
        with self._changed:
            if isinstance(result, Exception):
                self._error = result
            else:
                job.result = result
                self._done += 1
            self._changed.notify_all()

    def _start(self) -> _Child | None:
        """A worker process that is ready; None where none starts or the compiler closes."""
        if self._closing.is_set():
            return None
        try:
            child = _Child()
        except OSError:
            return None
        with self._changed:
            self._children.add(child)
            if self._closing.is_set():
                child.process.kill()
        try:
            child.ask(json.dumps(asdict(self.machine)).encode())
        except (OSError, EOFError):
            self._end(child)
            return None
        return child

    def _end(self, child: _Child) -> None:
        with self._changed:
            self._children.discard(child)
        child.end()

    def _feed(self) -> None:
        """Feeds one worker process and, where it dies, its successor, which tries the same text once more."""
        job: _Job | None = None
        while (child := self._start()) is not None:
            try:
                while (job := job or self._take()) is not None:
                    kind, answer = child.ask(job.text.encode())
                    self._finish(job, answer if kind == _OBJECT else InternalError(answer.decode()))
                    job = None
                return
            except (OSError, EOFError):
                if job is not None and job.deaths:
                    self._finish(job, InternalError(f"LLVM crashed twice on {_first_line(job.text)!r}"))
                    job = None
                elif job is not None:
                    job.deaths += 1
            finally:
                self._end(child)
        if job is not None:
            self._put(job)


def compile_all(texts: Sequence[str], machine: Machine, jobs: int,
                progress: Callable[[int, int], None] | None = None) -> list[bytes]:
    """The objects of `texts` in their order, made by up to `jobs` processes; raises as `results` above."""
    with Compiler(machine, jobs) as compiler:
        for text in texts:
            compiler.submit(text)
        return compiler.results(progress)
