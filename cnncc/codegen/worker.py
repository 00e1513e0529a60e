"""LLVM text to object bytes, in this process and in worker processes.

LLVM holds a global lock, so threads do not help. A worker process is `sys.executable` running `serve()` below
over one end of a socket, isolated (no site, no environment, no current directory): it finds only the standard
library, llvmlite and this package, and a user's script needs no `__main__` guard. It is sent the Machine as
JSON, which it answers when it is ready, then one text each, answered by a byte that says whether it is an
object or an error message, and that. Nothing is written to disk. It ends when the other end is closed.
"""

from __future__ import annotations

import functools
import heapq
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import llvmlite
import llvmlite.binding as llvm

from cnncc.ir.errors import InternalError

SECONDS_PER_BYTE = 3e-7  # parsing and code generation of unrolled vector code, one core
PAYS = 0.4  # seconds of predicted work for each process beyond this one

_OBJECT, _ERROR = b"o", b"e"  # the first byte of an answer


@dataclass(frozen=True)
class Machine:
    """What LLVM needs to know of a target; `opt` is the code generator's level, 0 to 3."""

    triple: str
    cpu: str
    features: str
    opt: int = 2


@functools.cache
def target_machine(machine: Machine) -> llvm.TargetMachine:
    """LLVM's code generator for a machine."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()      # for inline assembly
    return llvm.Target.from_triple(machine.triple).create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=machine.opt, reloc="pic", codemodel="small")


_generating = threading.Lock()


@contextmanager
def generating() -> Iterator[None]:
    """Where code is generated: LLVM's options, which are the whole process's, are ours meanwhile.

    Reduction of strength in loops takes three fifths of the time and gains nothing: addresses are constant
    offsets from what the loops carry.
    """
    with _generating:
        llvm.set_option("", "--disable-lsr")
        try:
            yield
        finally:
            llvm.set_option("", "--disable-lsr=false")


def _first_line(text: str) -> str:
    return text.lstrip().partition("\n")[0]


def module_of(text: str, context: llvm.ContextRef | None = None) -> llvm.ModuleRef:
    """A text as a module, verified. Raises InternalError with LLVM's message where it refuses it."""
    try:
        module = llvm.parse_assembly(text, context or llvm.create_context())
        module.verify()
    except RuntimeError as error:
        raise InternalError(f"LLVM refuses the text {_first_line(text)!r}: {error}") from error
    return module


def compile_text(text: str, machine: Machine) -> bytes:
    """The object of one module, made in this process; it is verified, not optimised.

    Raises InternalError with LLVM's message and the first line of a text that LLVM refuses.
    """
    module = module_of(text)
    with generating():
        return bytes(target_machine(machine).emit_object(module))


def assembly(text: str, machine: Machine) -> str:
    """The same as assembly, to read; raises as `compile_text` does."""
    module = module_of(text)
    with generating():
        return str(target_machine(machine).emit_assembly(module))


def serve(descriptor: str) -> None:
    """What a worker process runs: compile what comes until the other end is closed."""
    from multiprocessing.connection import Connection
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(int(descriptor))
    with suppress(EOFError, OSError):
        machine = Machine(**json.loads(pipe.recv_bytes()))
        target_machine(machine)
        pipe.send_bytes(b"")
        while True:
            text = pipe.recv_bytes().decode()
            try:
                answer = _OBJECT + compile_text(text, machine)
            except Exception as error:
                answer = _ERROR + str(error).encode()
            pipe.send_bytes(answer)


_BOOT = "import sys; sys.path += sys.argv[2:]; from cnncc.codegen.worker import serve; serve(sys.argv[1])"


class _Child:
    """One worker process. Raises OSError where it can't be started."""

    def __init__(self) -> None:
        from multiprocessing.connection import Pipe
        if not sys.executable or getattr(sys, "frozen", False):
            raise OSError("no Python interpreter to start")
        paths = Path(llvmlite.__file__).resolve().parents[1], Path(__file__).resolve().parents[2]
        self.pipe, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, str(number), *map(str, paths)], pass_fds=[number],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0)

    def ask(self, data: bytes) -> bytes:
        """The answer to a message; OSError or EOFError where the process has died."""
        self.pipe.send_bytes(data)
        return self.pipe.recv_bytes()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()


class Compiler:
    """Compiles texts while others are still being generated; a context manager, used from one thread.

    `jobs` counts the processes that compile, this one included: it takes part from `results()` on. `expected`
    is the work to come in seconds of one core: worker processes start as soon as it, or what was submitted,
    makes them worth their start. Leaving the context ends them, whatever they are doing.
    """

    def __init__(self, machine: Machine, jobs: int, expected: float = 0.0) -> None:
        self.machine, self.jobs = machine, jobs
        self._texts: list[str] = []
        self._work = 0.0
        self._feeders: list[threading.Thread] = []
        self._changed = threading.Condition()       # guards all that follows
        self._queue: list[tuple[int, int]] = []     # (-bytes, position): the largest comes first
        self._objects: dict[int, bytes] = {}
        self._children: set[_Child] = set()
        self._closing = False
        self._error: Exception | None = None
        self._staff(expected)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            for child in self._children:
                child.process.kill()
        for feeder in self._feeders:
            feeder.join()

    @property
    def _done(self) -> int:
        return len(self._objects)

    def submit(self, text: str) -> int:
        """Hands in a text; returns its position in `results()`."""
        self._texts.append(text)
        self._put(len(self._texts) - 1)
        self._work += len(text) * SECONDS_PER_BYTE
        self._staff(self._work)
        return len(self._texts) - 1

    def results(self, progress: Callable[[int, int], None] | None = None) -> list[bytes]:
        """The objects of all texts in the order of `submit`; `progress(done, total)` is called from here.

        Raises InternalError for a text that LLVM refuses, or that ended two worker processes.
        """
        total, reported = len(self._texts), 0
        while reported < total:
            with self._changed:
                while not (self._queue or self._error or self._done > reported):
                    self._changed.wait()
                job = heapq.heappop(self._queue)[1] if self._queue and not self._error else None
            if job is not None:
                self._finish(job, compile_text(self._texts[job], self.machine))
            if self._error is not None:
                raise self._error
            if progress is not None and self._done > reported:
                progress(self._done, total)
            reported = self._done
        return [self._objects[job] for job in range(total)]

    def _staff(self, seconds: float) -> None:
        while len(self._feeders) < min(self.jobs - 1, int(seconds / PAYS)):
            self._feeders.append(threading.Thread(target=self._feed, name="cnncc-compile", daemon=True))
            self._feeders[-1].start()

    def _put(self, job: int) -> None:
        with self._changed:
            heapq.heappush(self._queue, (-len(self._texts[job]), job))
            self._changed.notify_all()

    def _take(self) -> int | None:
        """The next text for a worker process; None when the compiler closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return None if self._closing else heapq.heappop(self._queue)[1]

    def _finish(self, job: int, result: bytes | Exception) -> None:
        with self._changed:
            if isinstance(result, Exception):
                self._error = result
            else:
                self._objects[job] = result
            self._changed.notify_all()

    def _start(self) -> _Child | None:
        """A new worker process; None where none starts or the compiler closes."""
        with self._changed, suppress(OSError):
            if not self._closing:
                child = _Child()
                self._children.add(child)
                return child
        return None

    def _feed(self) -> None:
        """Feeds one worker process and, where it dies, its successor, which tries the same text once more."""
        job: int | None = None
        deaths, ready = 0, True
        while ready and (child := self._start()) is not None:
            ready = False
            try:
                child.ask(json.dumps(asdict(self.machine)).encode())
                ready = True
                while job is not None or (job := self._take()) is not None:
                    answer = child.ask(self._texts[job].encode())
                    good = answer[:1] == _OBJECT
                    self._finish(job, answer[1:] if good else InternalError(answer[1:].decode()))
                    job, deaths = None, 0
                return
            except (OSError, EOFError):
                deaths += ready
            finally:
                with self._changed:
                    self._children.discard(child)
                child.end()
            if job is not None and deaths == 2:
                self._finish(job, InternalError(f"LLVM crashed twice on {_first_line(self._texts[job])!r}"))
                job, deaths = None, 0
        if job is not None:
            self._put(job)


def compile_all(texts: Sequence[str], machine: Machine, jobs: int) -> list[bytes]:
    """The objects of `texts` in their order, made by up to `jobs` processes; raises as `results` above."""
    with Compiler(machine, jobs) as compiler:
        for text in texts:
            compiler.submit(text)
        return compiler.results()
