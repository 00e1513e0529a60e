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
    if threads is not None:
        return _checked("threads", str(threads))
    for name in ("CNNCC_NUM_THREADS", "OMP_NUM_THREADS"):
        if text := os.environ.get(name, "").strip():
            return _checked(name, text.split(",")[0] if name == "OMP_NUM_THREADS" else text)
    return available_cpus()


def _checked(name: str, text: str) -> int:
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MAX_THREADS:
        return int(text)
    raise InputError(f"{name}={text!r}: expected a whole number from 1 to {MAX_THREADS}")


def available_cpus() -> int:
    """CPUs in our affinity mask, or fewer where the cgroup's CPU quota (rounded up) allows fewer."""
    cpus = min(len(os.sched_getaffinity(0)), MAX_THREADS)
    quota = cpu_quota()
    return cpus if quota is None else max(1, min(cpus, quota))


def cpu_quota(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The tightest CPU quota (whole CPUs, rounded up) over our cgroup and its parents; None if unlimited.

    Reads version 2 (cpu.max) and version 1 (cpu.cfs_quota_us); what cannot be read does not limit.
    """
    quotas = []
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
                if place.is_relative_to(base):
                    quotas += _quota(place, files)
    return min(quotas, default=None)


def _quota(folder: Path, files: list[str]) -> list[int]:
    with suppress(OSError, ValueError):
        quota, period = map(int, " ".join((folder / name).read_text() for name in files).split())
        if quota > 0 and period > 0:
            return [-(-quota // period)]
    return []  # absent, "max" or -1


def check_platform() -> None:
    """Raise CnnccError, naming the system, unless this is 64-bit Linux on x86-64."""
    machine = platform.machine().lower()
    if sys.platform != "linux" or machine not in ("x86_64", "amd64") or sys.maxsize < 2**32:
        bits = 64 if sys.maxsize > 2**32 else 32
        raise CnnccError(
            f"cnncc runs on Linux on x86-64 only; this is {sys.platform} on {machine or 'unknown hardware'} "
            f"with a {bits}-bit Python"
        )
