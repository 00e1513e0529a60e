"""The process of one engine: `python -m cnncc.bench.process ENGINE THREADS CALLS`.

So many threads work on each call, and so many calls run at a time. A message is a line of JSON. The process
is told the files {"path", "inputs", "expected"}, then {"seconds", "calls", "cold"} for each round, the last
the bytes that are walked over before each call; it answers {"error", "load", "first"}, then {"times",
"foreign", "peak"}, or {"failed": why}; times are in seconds, of calls at the same time the wall time for
each. It ends when its stdin does.
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

from cnncc.bench.engines import ENGINES, Call, Feeds
from cnncc.ir.signature import Array
from cnncc.reference_model import error_of
from cnncc.runtime.throughput import in_order


def busy() -> float:
    """CPU seconds that the whole machine has used, what a hypervisor took from it included."""
    with open("/proc/stat") as file:
        ticks = [int(x) for x in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _round(call: Call, feeds: Feeds, seconds: float, calls: int, cold: int, streams: int) -> dict[str, Any]:
    """Times of at least `calls` calls, for `seconds`; the cores that others used meanwhile.

    Before each call `cold` bytes are walked over, which leave nothing in the caches.
    """
    once = _timed(call, feeds, 1, 0, np.zeros(0, np.uint8))[0] if calls > 1 or streams > 1 else seconds
    wall, used, own = time.perf_counter(), busy(), time.process_time()
    if streams > 1:
        many = streams * max(calls, round(seconds / once))
        for _ in in_order(lambda _, given: call(given), [feeds] * many, streams, streams):
            pass
        times = [(time.perf_counter() - wall) / many] * many
    else:
        times = _timed(call, feeds, calls, seconds, np.zeros(cold, np.uint8))
    foreign = busy() - used - (time.process_time() - own)
    return {"times": times, "foreign": max(0.0, foreign) / max(0.05, time.perf_counter() - wall)}


def _timed(call: Call, feeds: Feeds, calls: int, seconds: float, walked: Array) -> list[float]:
    """The time of each call, at least `calls`, for `seconds`; `walked` is written before each."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < calls or time.perf_counter() < end:
        np.add(walked, 1, out=walked)
        begin = time.perf_counter()
        call(feeds)
        times.append(time.perf_counter() - begin)
    return times


def serve(engine: str, threads: int, streams: int) -> None:
    """Answer messages until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                       # what libraries print is no answer
    call: Call | None = None
    feeds: Feeds = {}
    for line in sys.stdin:
        message = json.loads(line)
        answer: dict[str, Any]
        try:
            if call is None:
                feeds, expected = (dict(np.load(message[what], allow_pickle=False))
                                   for what in ("inputs", "expected"))
                begin = time.perf_counter()
                call = ENGINES[engine].prepare(message["path"], threads, feeds, streams)
                loaded = time.perf_counter()
                results = call(feeds)
                first = time.perf_counter() - loaded
                error = max(map(error_of, results, expected.values()))
                answer = {"error": error if np.isfinite(error) else None, "load": loaded - begin,
                          "first": first}
            else:
                answer = _round(call, feeds, message["seconds"], message["calls"], message["cold"], streams)
                if engine == "cnncc":
                    from cnncc.bench.peak import peak
                    answer["peak"] = peak(threads * streams, 0.05)
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        with suppress(BrokenPipeError):
            print(json.dumps(answer), file=sink, flush=True)
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1], *map(int, sys.argv[2:]))
