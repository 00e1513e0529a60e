"""What the machine and the environment variables say: how many threads, and whether we run here at all."""

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

from cnncc.ir.errors import CnnccError, InputError

MAX_THREADS = 1024


def thread_count(threads: int | None = None) -> int:
    """Threads to run with: `threads`, else CNNCC_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs we may use.

    Of a list such as OMP_NUM_THREADS=4,2 the first counts. Raises InputError, naming the argument or
    variable, for anything but a whole number from 1 to `MAX_THREADS`.
    """
    given = {"threads": "" if threads is None else str(threads),
             "CNNCC_NUM_THREADS": os.environ.get("CNNCC_NUM_THREADS", ""),
             "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "").split(",")[0]}
    for name, text in given.items():
        if text := text.strip():
            if text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MAX_THREADS:
                return int(text)
            raise InputError(f"{name}={text!r}: expected a whole number from 1 to {MAX_THREADS}")
    return available_cpus()


def available_cpus() -> int:
    """CPUs in our affinity mask, or fewer where the cgroup's CPU quota (rounded up) allows fewer."""
    return min(len(os.sched_getaffinity(0)), MAX_THREADS, cpu_quota() or MAX_THREADS)


def cpu_quota(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The tightest CPU quota (whole CPUs, rounded up) over our cgroup and its parents; None if unlimited.

    Reads version 2 (cpu.max) and version 1 (cpu.cfs_quota_us); what cannot be read does not limit.
    """
    quotas: list[int] = []
    with suppress(OSError, ValueError):
        for line in groups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                base, files = root, ["cpu.max"]
            elif "cpu" in controllers.split(","):
                named = root / controllers
                base = named if named.is_dir() else root / "cpu"
                files = ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            else:
                continue
            folder = base / path.strip("/")
            # In a container the path may be the host's, and only the root of the mount exists.
            for place in (folder, *folder.parents):
                with suppress(OSError, ValueError):     # absent, or "max"
                    if place.is_relative_to(base):
                        numbers = " ".join((place / name).read_text() for name in files)
                        quota, period = map(int, numbers.split())
                        if quota > 0 and period > 0:
                            quotas.append(-(-quota // period))
    return min(quotas, default=None)


def check_platform() -> None:
    """Raise CnnccError, naming the system, unless this is 64-bit Linux on x86-64."""
    machine, bits = platform.machine().lower(), 64 if sys.maxsize > 2**32 else 32
    if sys.platform != "linux" or machine not in ("x86_64", "amd64") or bits != 64:
        raise CnnccError(f"cnncc runs on Linux on x86-64 only; this is {sys.platform} on "
                         f"{machine or 'unknown hardware'} with a {bits}-bit Python")
