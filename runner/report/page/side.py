"""This module gathers what a page shows of one plan, as JSON: columns per submission, scopes, the longest chain, files' texts."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runner.base.errors import Mark
from runner.report.colours import RING_COLOURS, scope_colours, scope_kind
from runner.report.device.critical_path import Observed, observed_chain
from runner.report.device.timeline import Timeline
from runner.report.page.blocks import Blocks, Times, blocks_of, times_of
from runner.report.page.columns import Ints, packed
from runner.report.page.graph import graph_json
from runner.report.tensors import Tensors, tensors_of
from runner.rings.replay import Replay
from runner.rings.schedule import Schedule
from runner.rings.timed import Timing

CORES = (None, "AIC", "AIV", "MIX")
"""What a submission runs on, by the number that stands for it."""

_NUMBER = re.compile(r"\d+")
MAX_DIGITS = 9
"""Longer numbers in names stay text, as they would not fit a column."""


@dataclass(frozen=True)
class Timed:
    """A timed replay that ran to its end, with what it assumed."""

    replay: Replay
    timeline: Timeline
    timing: Timing


def side_json(replay: Replay, timed: Timed | None, texts: Callable[[str], str | None], told: Mapping[str, Any]) -> dict[str, Any]:
    """All that a page shows of a plan; `told` is what is said of it in words and tables, `texts` gives a file's text.

    `replay` is an eager one; what a deadlock left without a place has the offset -1.
    """
    schedule = replay.schedule
    blocks = blocks_of(schedule)
    times = None if timed is None else times_of(schedule, blocks, timed.timing, timed.timeline)
    marks = _Marks(texts)
    columns, templates, ops = _columns(schedule, replay, blocks, marks)
    tensors = tensors_of(schedule)
    inside, names = _tensors(schedule, tensors, times, marks)
    columns |= inside
    found: dict[str, Any] = {"name": schedule.name, "strategy": schedule.strategy or "recorded", "num": len(schedule.submissions)}
    if timed is not None and times is not None:
        columns |= {"timed_offset": (np.array(timed.replay.offsets) - np.array(replay.offsets)) // 1024}
        columns |= {"submit": times.submit, "wait": times.start - times.submit, "run": times.finish - times.start}
        columns |= {"freed": times.gone - times.submit}
        found |= {"stalls": times.stalls, "chain": _chain(schedule, timed, times), "cores": _cores(timed.timeline)}
    found |= {"scopes": _scopes(schedule, blocks, times, marks), "colours": RING_COLOURS}
    found |= {"kinds": scope_colours(schedule), "tensor_templates": names}
    found |= {"written": [{"name": name, "kind": scope_kind(name)} for name in tensors.scopes]}
    found |= {"capacity": list(replay.sizes.heap), "peak": list(replay.peak_bytes), "templates": templates, "ops": ops}
    found |= {"graph": None if schedule.program is None else graph_json(schedule, marks.number)}
    found |= {"columns": packed(columns), "marks": marks.rows, "files": marks.files}
    return found | dict(told)


class _Marks:
    """Places in files, numbered in the order in which they come; -1 is none."""

    def __init__(self, texts: Callable[[str], str | None]) -> None:
        self.rows: list[tuple[int, int]] = []
        self.files: list[dict[str, str | None]] = []
        self._texts, self._numbers, self._file_numbers = texts, {}, {}

    def number(self, mark: Mark | None) -> int:
        if mark is None:
            return -1
        key = mark.file, mark.line
        if key not in self._numbers:
            if mark.file not in self._file_numbers:
                self._file_numbers[mark.file] = len(self.files)
                self.files.append({"name": _shown(mark.file), "text": self._texts(mark.file)})
            self._numbers[key] = len(self.rows)
            self.rows.append((self._file_numbers[mark.file], mark.line))
        return self._numbers[key]


def _shown(file: str) -> str:
    """A file as a reader of the page should know it: from the folder that holds it, without the way there."""
    return "/".join(Path(file).parts[-2:])


def _columns(schedule: Schedule, replay: Replay, blocks: Blocks, marks: _Marks) -> tuple[dict[str, Ints], list[str], list[str]]:
    """Columns per submission, templates of names (`layer_#.moe`, whose numbers are columns), and names of ops."""
    items = schedule.submissions
    ops: dict[str, int] = {}
    columns, templates = _names([item.name for item in items])
    columns |= {"offset": np.array(replay.offsets) // 1024}
    core = {name: number for number, name in enumerate(CORES)}
    own = np.arange(len(items))
    per_item: dict[str, list[int]] = {
        "size": [-(-item.size_bytes // 1024) for item in items],
        "op": [-1 if item.core is None else ops.setdefault(item.op or item.name, len(ops)) for item in items],
        "core": [core.get(item.core, 3) for item in items],
        "parts": [item.num_blocks for item in items],
        "mark": [marks.number(item.mark) for item in items],
        "waits": [len(item.waits) for item in items],
        "wait_for": [i - wait for i, item in enumerate(items) for wait in item.waits],
    }
    columns |= {name: np.array(values, np.int64) for name, values in per_item.items()}
    columns |= {"scope": blocks.scope, "first": blocks.first_use - own, "last": blocks.last_use - own, "end": blocks.end - own}
    columns |= {"pin": np.where(blocks.pin < 0, 0, blocks.pin - own + 1), "gone": blocks.gone - own}
    columns |= {"behind": np.where(blocks.behind < 0, 0, own - blocks.behind)}
    return columns, templates, list(ops)


def _names(given: Sequence[str]) -> tuple[dict[str, Ints], list[str]]:
    """Names as columns: the number of a template (`layer_#.moe`), and the numbers that stand in it."""
    templates: dict[str, int] = {}
    numbers: list[list[int]] = []
    names = np.zeros(len(given), np.int64)
    for i, name in enumerate(given):
        found = [] if "#" in name else _NUMBER.findall(name)
        found = found if all(len(n) <= MAX_DIGITS and (n == "0" or n[0] != "0") for n in found) else []
        names[i] = templates.setdefault(_NUMBER.sub("#", name) if found else name, len(templates))
        numbers.append([int(n) for n in found])
    columns = {"name": names}
    for k in range(max(map(len, numbers), default=0)):
        columns[f"number{k}"] = np.array([found[k] if k < len(found) else 0 for found in numbers])
    return columns, list(templates)


def _tensors(schedule: Schedule, tensors: Tensors, times: Times | None, marks: _Marks) -> tuple[dict[str, Ints], list[str]]:
    """Columns per tensor in a block, and one per submission that counts them; and templates of their names."""
    if schedule.program is None or not len(tensors.block):
        return {}, []
    known = [schedule.program.tensors[tensor] for tensor in tensors.tensor.tolist()]
    columns, templates = _names([tensor.name for tensor in known])
    columns |= {"offset": tensors.offset // 1024, "size": -(-tensors.size // 1024), "scope": tensors.scope}
    columns |= {"first": tensors.first - tensors.block, "last": tensors.last - tensors.first}
    columns |= {"mark": np.array([marks.number(tensor.mark) for tensor in known])}
    if times is not None:
        columns |= {"until": tensors.until(times.finish) - times.finish[tensors.last]}
    found = {f"tensor_{name}": values for name, values in columns.items()}
    return found | {"tensors": tensors.count(len(schedule.submissions))}, templates


def _scopes(schedule: Schedule, blocks: Blocks, times: Times | None, marks: _Marks) -> list[dict[str, Any]]:
    """Scopes with their parents, and bytes: what each allocates itself, all inside it, and the most that lives inside at once."""
    num = len(schedule.scopes)
    sizes = np.array([item.size_bytes for item in schedule.submissions], np.int64)
    tasks = np.array([item.core is not None for item in schedule.submissions], np.int64)
    own, own_tasks = (np.bincount(blocks.scope, weights=values, minlength=num).astype(int) for values in (sizes, tasks))
    parents, peaks = _parents(schedule, blocks), _peaks(schedule, blocks, sizes)
    rows = []
    for k, info in enumerate(schedule.scopes):
        row: dict[str, Any] = {"name": info.name, "kind": scope_kind(info.name), "ring": info.ring, "parent": parents[k]}
        row |= {"mode": info.mode, "opens": int(blocks.opens[k]), "closes": int(blocks.closes[k]), "bytes": int(own[k])}
        row |= {"peak": peaks[k], "tasks": int(own_tasks[k]), "mark": marks.number(info.mark)}
        if times is not None:
            row |= {"from": int(times.opens[k]), "to": int(times.closes[k])}
        rows.append(row)
    for k in range(num - 1, 0, -1):  # scopes are numbered as they open: children behind their parents
        if parents[k] >= 0:
            above = rows[parents[k]]
            above["all"] = above.get("all", above["bytes"]) + rows[k].get("all", rows[k]["bytes"])
    return [{"all": row["bytes"], **row} for row in rows]


def _parents(schedule: Schedule, blocks: Blocks) -> list[int]:
    found, open_scopes = [], []
    for k, info in enumerate(schedule.scopes):
        del open_scopes[info.depth :]
        found.append(open_scopes[-1] if open_scopes else -1)
        open_scopes.append(k)
    return found


def _peaks(schedule: Schedule, blocks: Blocks, sizes: Ints) -> list[int]:
    """Per scope the most bytes of blocks of itself and of scopes inside that live at once while it is open."""
    parents = _parents(schedule, blocks)
    live, peaks = [0] * len(parents), [0] * len(parents)
    ends: dict[int, list[int]] = {}
    for i, end in enumerate(blocks.end.tolist()):
        if sizes[i]:
            ends.setdefault(end, []).append(i)
    scope, size = blocks.scope.tolist(), sizes.tolist()

    def add(submission: int, sign: int) -> None:
        at = scope[submission]
        while at >= 0:
            live[at] += sign * size[submission]
            if live[at] > peaks[at]:
                peaks[at] = live[at]
            at = parents[at]

    for i in range(len(size)):
        for ended in ends.get(i, ()):
            add(ended, -1)
        if size[i]:
            add(i, 1)
    return peaks


def _cores(timeline: Timeline) -> dict[str, int]:
    return {kind: timeline.cores.count(kind) for kind in ("aic", "aiv")}


def _chain(schedule: Schedule, timed: Timed, times: Times) -> list[tuple[int, str, int, float]]:
    """The tasks that the run's length came from, first to last: each with what it waited for, whom, and how long (us)."""
    items = schedule.submissions
    start_us = {i: times.start[i] / 10 for i, item in enumerate(items) if item.core is not None}
    end_us = {i: times.finish[i] / 10 for i in start_us}
    waits = {i: [wait for wait in items[i].waits if wait in start_us] for i in start_us}
    slices = [(core, run.submission, run.start_us, run.end_us) for run in timed.timeline.runs for core in run.cores]
    ended = sorted((end, task) for task, end in end_us.items())
    freed: dict[int, int | None] = {}
    for _, until, submission, for_room in times.stalls:
        at = bisect_right(ended, (until / 10 + 0.05, len(items))) - 1
        if for_room:
            freed[submission] = ended[at][1] if at >= 0 else None
    run = Observed({}, start_us, end_us, waits, slices, timed.timeline.submits, freed)
    return [
        (task, gate.kind, -1 if gate.behind is None else gate.behind, round(gate.us, 2)) for task, gate in observed_chain(run)
    ]


def read_texts(file: str) -> str | None:
    """A file's text, None of one that is no text or cannot be read."""
    try:
        return Path(file).read_text("utf-8")
    except (OSError, ValueError):
        return None
