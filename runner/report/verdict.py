"""This module answers the question that a plan is asked, in one sentence: does it fit, in what, and how long does it take."""

from __future__ import annotations

from runner.base.units import human_bytes, human_us
from runner.report.schedule import ScheduleReport


def verdict(name: str, report: ScheduleReport, *, is_refused: bool = False) -> str:
    """`'moe' fits: ...`; `is_refused` where some run could still fill a pool that was asked for."""
    heaps = human_bytes(sum(ring.capacity_bytes for ring in report.rings))
    safe = human_bytes(report.safe_total_bytes)
    if report.deadlock is not None:
        deadlock = report.deadlock
        if deadlock.refused:
            return f"'{name}' is refused by the runtime, whatever its rings hold: {deadlock}."
        return f"'{name}' does not fit: it deadlocks on ring {deadlock.ring} of heaps of {heaps}; {safe} in all are enough."
    if is_refused:
        return f"'{name}' does not fit in every run: the pools that were asked for can fill up."
    held = human_bytes(sum(ring.peak_bytes for ring in report.rings))
    if all(ring.proved for ring in report.rings):
        sure = "whatever its trip counts and however execution lags" if any(r.dynamic for r in report.rings) else "in every run"
    else:
        sure = "with these trip counts"
    time = "" if report.makespan_us is None else f", and takes {human_us(report.makespan_us)}"
    stall = "" if not report.stall_us else f", {human_us(report.stall_us)} of it waiting to submit"
    return f"'{name}' fits {sure}: it holds at most {held} of heaps of {heaps} ({safe} are enough){time}{stall}."
