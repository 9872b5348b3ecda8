"""This module reads programs recorded elsewhere as schedules: the conformance format (docs/memory-model.md), and traces.

Both hold submissions directly, so no graph and no op registry is involved.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.base.errors import ConfigError, Mark, ScheduleError
from runner.base.limits import Limits, how_to_raise
from runner.base.reading import parse_json_line, read_json
from runner.base.tensor_spec import round_up
from runner.program.ops import CORES
from runner.rings.replay import Replay
from runner.rings.schedule import NUM_RINGS, Begin, End, Read, Schedule, ScopeInfo, Slot, Step, Submission, Submit
from runner.rings.sizes import RingSizes
from runner.rings.steps import submission_rings

EXTERNAL = "ext"
"""The one tensor that a recorded program does not create."""


@dataclass
class Builder:
    """Collects submissions, scopes and steps; whoever uses it opens and closes scopes in order."""

    submissions: list[Submission] = field(default_factory=list)
    scopes: list[ScopeInfo] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    open: list[int] = field(default_factory=list)

    def begin(self, name: str, mode: str = "auto", mark: Mark | None = None) -> None:
        scope = len(self.scopes)
        self.scopes.append(ScopeInfo(name, len(self.open), mode, mark))
        self.open.append(scope)
        self.steps.append(Begin(scope))

    def end(self) -> None:
        self.steps.append(End(self.open.pop()))

    def submit(self, submission: Submission) -> int:
        self.submissions.append(submission)
        self.steps.append(Submit(len(self.submissions) - 1))
        return len(self.submissions) - 1

    def schedule(self, name: str, strategy: str) -> Schedule:
        return Schedule(name, tuple(self.submissions), tuple(self.scopes), tuple(self.steps), strategy)


# --- the conformance format -------------------------------------------------------------------------------------------


@dataclass
class _Recorded:
    """State while a recorded program is read: who created each name last, and who wrote it last."""

    file: str
    build: Builder = field(default_factory=Builder)
    creator: dict[str, tuple[int, int]] = field(default_factory=dict)  # name -> (submission, tensor)
    writer: dict[str, int] = field(default_factory=dict)
    num_tensors: int = 0
    num_visited: int = 0
    most: int = field(default_factory=lambda: Limits.current().steps)

    def items(self, items: Any, where: str, num_trips: int = 1) -> None:
        """`num_trips` are those of a loop that this is the first of."""
        self.num_visited += 1
        if self.num_visited + len(self.build.steps) + num_trips - 1 > self.most:
            raise ScheduleError(f"{self.file}: {where}: more than {self.most:,} steps", hint=how_to_raise("steps"))
        for index, item in enumerate(_expect(items, list, self.file, where)):
            self.item(_expect(item, dict, self.file, f"{where}[{index}]"), f"{where}[{index}]")

    def item(self, item: Mapping[str, Any], where: str) -> None:
        kinds = [kind for kind in ("alloc", "task", "scope", "loop") if kind in item]
        if len(kinds) != 1:
            got = kinds or sorted(item)
            raise ScheduleError(f"{self.file}: {where}: expected one of 'alloc', 'task', 'scope' or 'loop', got {got}")
        if "scope" in item:
            mode = item.get("mode", "auto")
            if mode not in ("auto", "manual"):
                raise ScheduleError(f"{self.file}: {where}.mode: got {mode!r}, expected 'auto' or 'manual'")
            self.build.begin(f"{where}.scope", mode)
            self.items(item["scope"], f"{where}.scope")
            self.build.end()
        elif "loop" in item:
            trips = _expect(item["loop"], int, self.file, f"{where}.loop")
            if trips < 0:
                raise ScheduleError(f"{self.file}: {where}.loop: got {trips}, expected 0 or more")
            for trip in range(trips):
                self.items(item.get("body"), f"{where}.body", trips - trip)
        elif "alloc" in item:
            tensors = item["alloc"]
            if isinstance(tensors, str):
                tensors = [{"name": tensors, "bytes": item.get("bytes")}]
            slots, size = self.create(tensors, f"{where}.alloc")
            self.build.submit(Submission("alloc", size, slots))
        else:
            self.task(item, where)

    def create(self, tensors: Any, where: str) -> tuple[tuple[Slot, ...], int]:
        slots, end = [], 0
        for index, tensor in enumerate(_expect(tensors, list, self.file, where)):
            tensor = _expect(tensor, dict, self.file, f"{where}[{index}]")
            name = _expect(tensor.get("name"), str, self.file, f"{where}[{index}].name")
            size = _expect(tensor.get("bytes"), int, self.file, f"{where}[{index}].bytes")
            if size < 0:
                raise ScheduleError(f"{self.file}: {where}[{index}].bytes: got {size}, expected 0 or more")
            slots.append(Slot(self.num_tensors, end, round_up(size), name))
            self.creator[name] = (len(self.build.submissions), self.num_tensors)
            self.writer.pop(name, None)
            self.num_tensors += 1
            end += round_up(size)
        return tuple(slots), end

    def names(self, names: Any, where: str) -> list[str]:
        return [_expect(name, str, self.file, where) for name in _expect(names, list, self.file, where)]

    def task(self, item: Mapping[str, Any], where: str) -> None:
        inputs, inouts = (self.names(item.get(key, []), f"{where}.{key}") for key in ("inputs", "inouts"))
        holds, waits = set(), set()
        for name in (*inputs, *inouts):
            if name != EXTERNAL and name not in self.creator:
                raise ScheduleError(f"{self.file}: {where}: tensor {name!r} was never created")
            if name in self.creator:
                holds.add(self.creator[name][0])
            if name in self.writer:
                waits.add(self.writer[name])
        submission = len(self.build.submissions)
        slots, size = self.create(item.get("outputs", []), f"{where}.outputs")
        self.writer.update(dict.fromkeys(inouts, submission))
        waits |= holds
        kind = str(item.get("kind", "aiv")).upper()
        kind = kind if kind in CORES else "AIV"  # a dummy has no kernel, but waits for its edges like any task
        name = _expect(item["task"], str, self.file, f"{where}.task")
        self.build.submit(Submission(name, size, slots, tuple(sorted(waits)), tuple(sorted(holds)), kind))


def schedule_from_recorded(data: Any, file: str = "program") -> tuple[Schedule, RingSizes]:
    """The schedule and capacities of a recorded program (a parsed JSON object); raises ScheduleError."""
    data = _expect(data, dict, file, "the file")
    program = _expect(data.get("program"), dict, file, "program")
    recorded = _Recorded(file)
    recorded.build.begin("root")
    try:
        recorded.items(program.get("items"), "program.items")
    except RecursionError:
        raise ScheduleError(f"{file}: scopes and loops are nested too deeply") from None
    recorded.build.end()
    capacities = _expect(data.get("capacities", {}), dict, file, "capacities")
    keys = ("ring_heap", "ring_task_window", "ring_dep_pool")
    values = [_integers(capacities.get(key, []), file, f"capacities.{key}") for key in keys]
    try:
        sizes = RingSizes.from_lists(*values)
    except ConfigError as error:
        raise ScheduleError(f"{file}: capacities: {error}") from None
    return recorded.build.schedule(str(data.get("name", file)), "recorded"), sizes


def _integers(values: Any, file: str, where: str) -> list[int]:
    return [_expect(value, int, file, where) for value in _expect(values, list, file, where)]


def recorded_from_replay(replay: Replay) -> dict[str, Any]:
    """`outcome`, `records` and `blocks` of a replay in the conformance format."""
    deadlock = replay.deadlock
    outcome: dict[str, Any] = {"ok": True, "code": 0, "name": "none"}
    if deadlock is not None:
        outcome = {"ok": False, "code": deadlock.code, "name": deadlock.name, "how": deadlock.how, "ring": deadlock.ring}
    scopes = replay.schedule.scopes
    records = [
        {
            "phase": r.phase,
            "depth": scopes[r.scope].depth,
            "ring": scopes[r.scope].ring,
            "task_window_start": r.slots_tail,
            "task_window_end": r.slots_head,
            "heap_start": r.heap_tail,
            "heap_end": r.heap_head,
        }
        for r in replay.records
    ]
    return {"outcome": outcome, "records": records, "blocks": list(_blocks(replay))}


def _blocks(replay: Replay) -> Iterable[dict[str, Any]]:
    schedule = replay.schedule
    num_tasks = [0] * NUM_RINGS
    for submission, ring in submission_rings(schedule):
        offset = replay.offsets[submission]
        if offset < 0:
            return
        for slot in schedule.submissions[submission].slots:
            yield {
                "name": slot.name,
                "ring": ring,
                "task": num_tasks[ring],
                "offset": offset + slot.offset,
                "bytes": slot.size_bytes,
            }
        num_tasks[ring] += 1


# --- traces -----------------------------------------------------------------------------------------------------------


def read_trace(path: Path) -> Schedule:
    """The schedule of a trace of submissions, one JSON object a line (`.jsonl` or `.jsonl.xz`); raises ScheduleError.

    `begin` (mode, line), `end`, `alloc` (id, bytes, tensors as [buffer, bytes]), `task` (id, core, blocks, deps, reads, writes),
    `read` (deps). Buffers without an alloc come from outside.
    """
    build = Builder()
    index_of: dict[int, int] = {}
    owner: dict[int, int] = {}
    for number, item in enumerate(_json_lines(path), 1):
        try:
            _trace_item(item, build, index_of, owner, path.name)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ScheduleError(f"{path}:{number}: not a trace record: {error!r}") from None
    if build.open or not build.scopes:
        raise ScheduleError(f"{path}: the root scope is never {'closed' if build.open else 'opened'}")
    return build.schedule(path.name.split(".")[0], "trace")


def _trace_item(item: Mapping[str, Any], build: Builder, index_of: dict[int, int], owner: dict[int, int], file: str) -> None:
    match item["op"]:
        case "begin":
            build.begin(f"line {item['line']}" if build.open else "root", item["mode"], Mark(file, max(1, item["line"])))
        case "end":
            build.end()
        case "alloc":
            slots, end = [], 0
            for buffer, size in item["tensors"]:
                slots.append(Slot(buffer, end, round_up(size), f"buffer {buffer}"))
                end += round_up(size)
                owner[buffer] = len(build.submissions)
            if end != item["bytes"]:
                raise ValueError(f"the tensors of alloc {item['id']} take {end:,} bytes, not {item['bytes']:,}")
            index_of[item["id"]] = build.submit(Submission("alloc", end, tuple(slots)))
        case "task":
            waits = {index_of[dep] for dep in item["deps"]}
            touched = {owner[b] for b in (*item["reads"], *item["writes"]) if b in owner}
            index_of[item["id"]] = build.submit(
                Submission(
                    f"task {item['id']}",
                    waits=tuple(sorted(waits)),
                    holds=tuple(sorted(touched & waits)),
                    core=item["core"].upper(),
                    num_blocks=item["blocks"],
                )
            )
        case "read":
            build.steps.append(Read(tuple(index_of[dep] for dep in item["deps"])))
        case other:
            raise ValueError(f"unknown op {other!r}")


def _json_lines(path: Path) -> Iterable[Any]:
    opener = lzma.open if path.suffix == ".xz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield parse_json_line(f"{path}:{number}", line, ScheduleError)
    except (OSError, lzma.LZMAError, UnicodeDecodeError, EOFError) as error:
        raise ScheduleError(f"cannot read {path}: {error}") from None


def load_json(path: Path) -> Any:
    """The parsed file; raises ScheduleError naming file, line and column."""
    return read_json(path, ScheduleError)


def _expect(value: Any, kind: type, file: str, where: str) -> Any:
    """`value` if it is a `kind` (an int is no bool), else an error that says where."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {list: "a list", dict: "an object", int: "an integer", str: "a string"}
        got = "nothing" if value is None else repr(value)[:60]
        raise ScheduleError(f"{file}: {where}: got {got}, expected {names[kind]}")
    return value
