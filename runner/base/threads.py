"""How many threads an op may have: processors that this process may use and that nobody else keeps busy.

A second thread for an op whose processor is taken costs far more than it gains: the first waits for it at the end of every op,
hundreds of times a second. `prepare` says, before torch is loaded, that threads wait asleep and not by spinning.
"""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def prepare() -> None:
    """Settings that libraries read when they are loaded, unless somebody has set them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning takes the processor from the thread that is waited for
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # the same of Intel's library


def usable_processors(group: Path = _CGROUP) -> int:
    """Processors that this process may use, by its affinity and by the quota of its control group; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(group)
    return max(1, allowed if quota is None else min(allowed, quota))


def _quota(group: Path) -> int | None:
    """Whole processors of a quota, None without one."""
    try:
        limit, period = (group / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) // int(period)
    except (OSError, ValueError):
        return None


def free_processors(group: Path = _CGROUP) -> int:
    """The same but for those that others have kept busy in the last minute."""
    try:
        busy = round(os.getloadavg()[0])
    except OSError:
        busy = 0
    return max(1, usable_processors(group) - busy)
