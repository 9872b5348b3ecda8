"""Watching a launcher and its ranks from outside, through /proc."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from warm import Warm


def ranks_of(launcher: int) -> list[int]:
    """Process ids of the ranks of a launcher that have begun: each has a session of its own."""
    tasks = Path(f"/proc/{launcher}/task").iterdir()
    children = [int(text) for task in tasks for text in (task / "children").read_text().split()]
    return [pid for pid in children if status(pid)[3:4] == [str(pid)]]


def status(pid: int) -> list[str]:
    """A process's state, then its parent, group and session; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except (FileNotFoundError, ProcessLookupError):
        return []


def alive(pid: int) -> bool:
    return status(pid)[:1] not in ([], ["Z"])


def ended(process: subprocess.Popen | Warm) -> tuple[int, str, str]:
    """Exit code and streams of a launcher; asserts that none of the ranks that it had is left."""
    ranks: set[int] = set()
    while process.poll() is None:
        try:
            ranks.update(ranks_of(process.pid))
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(0.05)
    out, err = process.communicate(timeout=300)
    assert ranks and not any(map(alive, ranks))
    return process.returncode, out, err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_stopped(launcher: int, limit_s: float = 300) -> list[int]:
    """The ranks of a launcher, the stopped one last, when one of them has been stopped."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        ranks = ranks_of(launcher)
        stopped = [rank for rank in ranks if status(rank)[:1] == ["T"]]
        if stopped:
            return [rank for rank in ranks if rank not in stopped] + stopped
        time.sleep(0.05)
    raise AssertionError(f"no rank was stopped within {limit_s:g} s")
