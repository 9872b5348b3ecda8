"""This module reads programs in the conformance format (docs/memory-model.md): loops are unrolled, names resolved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from runner.base.errors import ConfigError, ScheduleError
from runner.base.limits import Limits, how_to_raise
from runner.recorded.recording import OUTSIDE, Argument, RecordedScope, RecordedSubmission, RecordedTensor, Recording
from runner.rings.schedule import Begin, End, Step, Submit, ring_of
from runner.rings.sizes import RingSizes

EXTERNAL = re.compile(r"ext\d*")
"""Names of tensors that a recorded program does not create: `ext`, `ext2`, ..."""

ARGUMENT_KEYS = {"inputs": "input", "inouts": "inout", "existing": "existing", "no_dep": "no_dep"}
KINDS = ("aiv", "aic", "mix", "dummy")
PROGRESS = ("eager", "steps")
EVENTS = ("submit", "alloc", "complete")


@dataclass
class _Reader:
    """State while a program is read: what each name stands for at this point."""

    file: str
    events: tuple[tuple[str, int, int], ...] = ()
    tensors: list[RecordedTensor] = field(default_factory=list)
    submissions: list[RecordedSubmission] = field(default_factory=list)
    scopes: list[RecordedScope] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    tensor_of: dict[str, int] = field(default_factory=dict)
    task_of: dict[str, int] = field(default_factory=dict)
    alloc_of: dict[str, int] = field(default_factory=dict)
    num_visited: int = 0
    most: int = field(default_factory=lambda: Limits.current().steps)
    num_blocks: int = 0
    most_blocks: int = field(default_factory=lambda: Limits.current().blocks * Limits.current().steps)
    # of progress by events
    at: int = 0  # the next event
    on_ring: dict[tuple[int, int], int] = field(default_factory=dict)  # (ring, number on it) -> submission
    counts: list[int] = field(default_factory=lambda: [0] * 4)
    running: int = 0  # tasks that are submitted and have not completed
    completions: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def begin(self, site: str, mode: str) -> None:
        self.steps.append(Begin(len(self.scopes)))
        self.open.append(len(self.scopes))
        self.scopes.append(RecordedScope(site, len(self.open) - 1, mode))

    def end(self) -> None:
        self.steps.append(End(self.open.pop()))

    def items(self, items: Any, where: str, num_trips: int = 1) -> None:
        """`num_trips` are those of a loop that this is the first of."""
        self.num_visited += 1
        if self.num_visited + len(self.steps) + num_trips - 1 > self.most:
            raise ScheduleError(f"{self.file}: {where}: more than {self.most:,} steps", hint=how_to_raise("steps"))
        for index, item in enumerate(expect(items, list, self.file, where)):
            self.item(expect(item, dict, self.file, f"{where}[{index}]"), f"{where}[{index}]")

    def item(self, item: Mapping[str, Any], where: str) -> None:
        kinds = [kind for kind in ("alloc", "task", "scope", "loop", "step", "drain") if kind in item]
        if len(kinds) != 1:
            got = kinds or sorted(item)
            raise ScheduleError(f"{self.file}: {where}: expected one of 'alloc', 'task', 'scope' or 'loop', got {got}")
        match kinds[0]:
            case "scope":
                mode = item.get("mode", "auto")
                if mode not in ("auto", "manual"):
                    raise ScheduleError(f"{self.file}: {where}.mode: got {mode!r}, expected 'auto' or 'manual'")
                self.begin(expect(item.get("site", f"{where}.scope"), str, self.file, f"{where}.site"), mode)
                self.items(item["scope"], f"{where}.scope")
                self.end()
            case "loop":
                trips = self.natural(item["loop"], f"{where}.loop")
                for trip in range(trips):
                    self.items(item.get("body"), f"{where}.body", trips - trip)
            case "alloc":
                tensors = item["alloc"]
                if isinstance(tensors, str):
                    tensors = [{"name": tensors, "bytes": item.get("bytes")}]
                created = self.create(tensors, f"{where}.alloc")
                self.alloc_of.update(dict.fromkeys((self.tensors[t].name for t in created), len(self.submissions)))
                self.submit(RecordedSubmission("alloc", "alloc", created, submit_us=self.time(item, "submit_us", where)))
            case "task":
                self.task(item, where)
            case "step":
                self.complete(self.natural(item["step"], f"{where}.step"))
            case _:
                self.complete(self.running)

    def natural(self, value: Any, where: str) -> int:
        if expect(value, int, self.file, where) < 0:
            raise ScheduleError(f"{self.file}: {where}: got {value}, expected 0 or more")
        return value

    def create(self, tensors: Any, where: str) -> tuple[int, ...]:
        created = []
        for index, tensor in enumerate(expect(tensors, list, self.file, where)):
            at = f"{where}[{index}]"
            tensor = expect(tensor, dict, self.file, at)
            name = expect(tensor.get("name"), str, self.file, f"{at}.name")
            size = self.natural(tensor.get("bytes"), f"{at}.bytes")
            manual = expect(tensor.get("manual_dep", False), bool, self.file, f"{at}.manual_dep")
            created.append(len(self.tensors))
            self.tensor_of[name] = len(self.tensors)
            exact = expect(tensor.get("exact", True), bool, self.file, f"{at}.exact")
            self.tensors.append(RecordedTensor(name, size, manual, exact))
        return tuple(created)

    def task(self, item: Mapping[str, Any], where: str) -> None:
        arguments = [
            self.argument(argument, mode, f"{where}.{key}", where)
            for key, mode in ARGUMENT_KEYS.items()
            for argument in expect(item.get(key, []), list, self.file, f"{where}.{key}")
        ]
        after, wait_only = (self.named(item.get(key, []), f"{where}.{key}") for key in ("after", "after_wait_only"))
        name = expect(item["task"], str, self.file, f"{where}.task")
        kind = item.get("kind", "aiv")
        if kind not in KINDS:
            raise ScheduleError(f"{self.file}: {where}.kind: got {kind!r}, expected one of {', '.join(KINDS)}")
        created = self.create(item.get("outputs", []), f"{where}.outputs")
        self.task_of[name] = len(self.submissions)
        kernel = expect(item.get("kernel", name), str, self.file, f"{where}.kernel")
        num_blocks = self.natural(item.get("num_blocks", 1), f"{where}.num_blocks")
        self.num_blocks += num_blocks
        if self.num_blocks > self.most_blocks:
            raise ScheduleError(
                f"{self.file}: {where}: more than {self.most_blocks:,} blocks of tasks", hint=how_to_raise("blocks")
            )
        submission = RecordedSubmission(kernel, kind, created, tuple(arguments), after, wait_only, num_blocks=max(1, num_blocks))
        told = {key: self.named(item[key], f"{where}.{key}") for key in ("waits", "holds") if key in item}
        times = {key: self.time(item, key, where) for key in ("duration_us", "submit_us", "block_us")}
        self.submit(replace(submission, **times, **told))

    def time(self, item: Mapping[str, Any], key: str, where: str) -> float | None:
        """A time in microseconds, None where the program does not tell it."""
        value = item.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise ScheduleError(f"{self.file}: {where}.{key}: got {value!r}, expected microseconds")
        return value

    def argument(self, value: Any, mode: str, where: str, task: str) -> Argument:
        """A name, or a part of what it stands for: `{"name", "offset", "bytes"}`."""
        part = value if isinstance(value, dict) else {"name": value}
        name = expect(part.get("name") if isinstance(value, dict) else value, str, self.file, where)
        offset = self.natural(part.get("offset", 0), f"{where}.offset")
        size = part.get("bytes")
        if size is not None:
            size = self.natural(size, f"{where}.bytes")
        if name not in self.tensor_of:
            if not EXTERNAL.fullmatch(name):
                raise ScheduleError(f"{self.file}: {task}: tensor {name!r} was never created")
            return Argument(OUTSIDE, mode, offset, size, name)
        tensor = self.tensor_of[name]
        if offset + (size or 0) > self.tensors[tensor].size_bytes:
            raise ScheduleError(f"{self.file}: {where}: {name!r} has {self.tensors[tensor].size_bytes:,} bytes, got {value!r}")
        return Argument(tensor, mode, offset, size, name)

    def named(self, names: Any, where: str) -> tuple[int, ...]:
        """The submissions that `after` names, the latest of each name: a task's, or that of an alloc's tensor."""
        found = []
        for name in expect(names, list, self.file, where):
            name = expect(name, str, self.file, where)
            if name not in self.task_of and name not in self.alloc_of:
                raise ScheduleError(f"{self.file}: {where}: no task {name!r} before this one")
            found.append(self.task_of[name] if name in self.task_of else self.alloc_of[name])
        return tuple(found)

    # --- progress by events -------------------------------------------------------------------------------------------

    def submit(self, submission: RecordedSubmission) -> None:
        ring = ring_of(len(self.open) - 1)
        self.complete(self.running)  # whatever completed before this submission, and no item caused
        if self.at < len(self.events):
            what, *number = self.events[self.at]
            if what == "complete" or number != [ring, self.counts[ring]]:
                expected = ["alloc" if submission.is_alloc else "submit", ring, self.counts[ring]]
                raise ScheduleError(f"{self.file}: events[{self.at}]: got {list(self.events[self.at])}, expected {expected}")
            self.at += 1
        self.on_ring[ring, self.counts[ring]] = len(self.submissions)
        self.counts[ring] += 1
        self.running += not submission.is_alloc
        self.steps.append(Submit(len(self.submissions)))
        self.submissions.append(submission)

    def complete(self, at_most: int) -> None:
        """Take up to `at_most` of the next completions: they happen before the next step."""
        done = []
        while len(done) < at_most and self.at < len(self.events) and self.events[self.at][0] == "complete":
            _, ring, number = self.events[self.at]
            if (ring, number) not in self.on_ring:
                raise ScheduleError(f"{self.file}: events[{self.at}]: nothing was submitted as {number} on ring {ring}")
            done.append(self.on_ring[ring, number])
            self.at += 1
        if done:
            self.running -= len(done)
            self.completions[len(self.steps)] = (*self.completions.get(len(self.steps), ()), *done)


def read_conformance(data: Any, file: str = "program") -> Recording:
    """The recording of a program in the conformance format (a parsed JSON object); raises ScheduleError."""
    data = expect(data, dict, file, "the file")
    program = expect(data.get("program"), dict, file, "program")
    progress = data.get("progress", "eager")
    if progress not in PROGRESS:
        raise ScheduleError(f"{file}: progress: got {progress!r}, expected 'eager' or 'steps'")
    events = _events(data.get("events", []), file)
    reader = _Reader(file, events if progress == "steps" else ())
    reader.begin(expect(program.get("site", "root"), str, file, "program.site"), "auto")
    try:
        reader.items(program.get("items"), "program.items")
    except RecursionError:
        raise ScheduleError(f"{file}: scopes and loops are nested too deeply") from None
    reader.complete(reader.running)
    reader.end()
    return Recording(
        str(data.get("name", file)),
        file,
        tuple(reader.tensors),
        tuple(reader.submissions),
        tuple(reader.scopes),
        tuple(reader.steps),
        _sizes(data.get("capacities", {}), file),
        progress,
        events,
        tuple(expect(text, str, file, "estimated") for text in expect(data.get("estimated", []), list, file, "estimated")),
        _facts(data, file) | {"with_pool": "progress" in data},  # older recordings have no pool in their records
        reader.completions,
    )


def _sizes(given: Any, file: str) -> RingSizes:
    capacities = expect(given, dict, file, "capacities")
    keys = ("ring_heap", "ring_task_window", "ring_dep_pool")
    values = [_integers(capacities.get(key, []), file, f"capacities.{key}") for key in keys]
    try:
        return RingSizes.from_lists(*values)
    except ConfigError as error:
        raise ScheduleError(f"{file}: capacities: {error}") from None


def _facts(data: Mapping[str, Any], file: str) -> dict[str, Any]:
    """What a program that was a capture says of its device: the usual cost of a submission, and cores by type."""
    found: dict[str, Any] = {"source": "program"}
    if "submit_us" in data:
        cost = data["submit_us"]
        if isinstance(cost, bool) or not isinstance(cost, int | float) or cost < 0:
            raise ScheduleError(f"{file}: submit_us: got {cost!r}, expected microseconds")
        found["submit_us"] = cost
    if "cores" in data:
        cores = expect(data["cores"], dict, file, "cores")
        found["cores"] = {kind: expect(cores.get(kind), int, file, f"cores.{kind}") for kind in ("aic", "aiv")}
    return found


def _events(events: Any, file: str) -> tuple[tuple[str, int, int], ...]:
    found = []
    for index, event in enumerate(expect(events, list, file, "events")):
        where = f"events[{index}]"
        if len(expect(event, list, file, where)) != 3 or event[0] not in EVENTS:
            raise ScheduleError(f"{file}: {where}: got {event!r}, expected [{' | '.join(EVENTS)}, ring, number on the ring]")
        ring, number = _integers(event[1:], file, where)
        found.append((event[0], ring, number))
    return tuple(found)


def _integers(values: Any, file: str, where: str) -> list[int]:
    return [expect(value, int, file, where) for value in expect(values, list, file, where)]


def expect(value: Any, kind: type, file: str, where: str) -> Any:
    """`value` if it is a `kind` (an int is no bool), else an error that says where."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {list: "a list", dict: "an object", int: "an integer", str: "a string", bool: "true or false"}
        got = "nothing" if value is None else repr(value)[:60]
        raise ScheduleError(f"{file}: {where}: got {got}, expected {names[kind]}")
    return value
