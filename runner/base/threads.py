"""How many threads an op may have: processors that this process may use and that nobody else keeps busy.

A second thread for an op whose processor is taken costs far more than it gains: the first waits for it at the end of every op,
hundreds of times a second. `prepare` says, before torch is loaded, that threads wait asleep and not by spinning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def prepare() -> None:
    """Settings that libraries read when they are loaded, unless somebody has set them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning takes the processor from the thread that is waited for
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # the same of Intel's library


def is_given(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether OMP_NUM_THREADS says how many threads there are to be: what is no number of them is passed over, as OpenMP does."""
    outermost = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return outermost.isascii() and outermost.isdigit() and int(outermost) > 0


def usable_processors(groups: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> int:
    """Processors that this process may use, by its affinity and by the quotas of its control groups; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _groups(groups, membership) for quota in _quotas(folder)]
    return max(1, min([allowed, *quotas]))


def _groups(groups: Path, membership: Path) -> Iterator[Path]:
    """Folders of the control groups around this process: those of version 2 lie in one tree, of version 1 in one a controller."""
    lines = ["0::/"]  # in a container it is the root that is seen there
    with suppress(OSError, ValueError):
        lines += membership.read_text().splitlines()
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = path.strip("/").split("/")
        for depth in range(len(names) + 1 if ".." not in names else 0):
            yield groups.joinpath(controllers, *names[:depth])


def _quotas(folder: Path) -> Iterator[int]:
    """Whole processors of the quota of a control group, if it has one."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = (folder / "cpu.max").read_text().split()
        yield int(limit) // int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        if limit > 0:
            yield limit // period


def free_processors(groups: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> int:
    """The same but for those that others have kept busy in the last minute."""
    try:
        busy = round(os.getloadavg()[0])
    except OSError:
        busy = 0
    return max(1, usable_processors(groups, membership) - busy)
