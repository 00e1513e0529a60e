"""What the machine and the environment variables say: how many threads, and whether we run here at all."""

import os
import platform
import re
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
    for name, given in (("threads", "" if threads is None else str(threads)),
                        ("CNNCC_NUM_THREADS", os.environ.get("CNNCC_NUM_THREADS", "")),
                        ("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "").split(",")[0])):
        if text := given.strip():
            if re.fullmatch("[0-9]{1,9}", text) and 1 <= int(text) <= MAX_THREADS:
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
            base, files = root, ["cpu.max"]
            if controllers:
                base = named if (named := root / controllers).is_dir() else root / "cpu"
                files = ["cpu.cfs_quota_us", "cpu.cfs_period_us"] if "cpu" in controllers.split(",") else []
            folder = base / path.strip("/")
            # In a container the path may be the host's, and only the root of the mount exists.
            for place in (folder, *folder.parents):
                with suppress(OSError, ValueError):     # absent, or "max"
                    quota, period = map(int, " ".join((place / name).read_text() for name in files).split())
                    if quota > 0 and period > 0 and place.is_relative_to(base):
                        quotas.append(-(-quota // period))
    return min(quotas, default=None)


def check_platform() -> None:
    """Raise CnnccError, naming the system, unless this is 64-bit Linux on x86-64."""
    bits = sys.maxsize.bit_length() + 1
    system = f"{sys.platform} on {platform.machine().lower()} with a {bits}-bit Python"
    if not re.fullmatch("linux on (x86_64|amd64) with a 64-bit Python", system):
        raise CnnccError(f"cnncc runs on Linux on x86-64 only; this is {system}")
