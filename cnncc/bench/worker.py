"""One engine in a process of its own: `python -m cnncc.bench.worker ENGINE THREADS`.

A message is a line of JSON. It is told the files {"path", "inputs", "expected"}, then {"seconds", "calls"}
for each round; it answers {"error", "load", "first"}, then {"times", "foreign", "peak"}, or {"failed": why};
times are in seconds. It ends when its stdin does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import numpy as np

from cnncc.bench.engines import ENGINES, Array, Call


def busy() -> float:
    """CPU seconds that the whole machine has used, what a hypervisor took from it included."""
    with open("/proc/stat") as file:
        ticks = [int(x) for x in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _round(call: Call, feeds: dict[str, Array], seconds: float, calls: int) -> dict[str, Any]:
    """Times of at least `calls` calls, for `seconds`; the cores that others used meanwhile."""
    if calls > 1:
        call(feeds)
    times: list[float] = []
    wall, used, own = time.perf_counter(), busy(), time.process_time()
    while len(times) < calls or time.perf_counter() - wall < seconds:
        begin = time.perf_counter()
        call(feeds)
        times.append(time.perf_counter() - begin)
    foreign = busy() - used - (time.process_time() - own)
    return {"times": times, "foreign": max(0.0, foreign) / max(0.05, time.perf_counter() - wall)}


def serve(engine: str, threads: int) -> None:
    """Answer messages until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                       # what libraries print is no answer
    call: Call | None = None
    feeds: dict[str, Array] = {}
    for line in sys.stdin:
        message = json.loads(line)
        answer: dict[str, Any]
        try:
            if call is None:
                from cnncc.verify import error_of
                feeds, expected = (dict(np.load(message[what], allow_pickle=False))
                                   for what in ("inputs", "expected"))
                begin = time.perf_counter()
                call = ENGINES[engine](message["path"], threads, feeds)
                loaded = time.perf_counter()
                results = call(feeds)
                done = time.perf_counter()
                error = max(map(error_of, results, expected.values()))
                answer = {"error": error if np.isfinite(error) else None, "load": loaded - begin,
                          "first": done - loaded}
            else:
                answer = _round(call, feeds, message["seconds"], message["calls"])
                if engine == "cnncc":
                    from cnncc.bench.peak import peak
                    answer["peak"] = peak(threads, 0.05)
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        with suppress(BrokenPipeError):
            print(json.dumps(answer), file=sink, flush=True)
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
