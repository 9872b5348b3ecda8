"""This module reads traces: what a compiler's output submitted, one JSON object a line."""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.base.errors import Mark, ScheduleError
from runner.base.reading import parse_json_line
from runner.base.tensor_spec import round_up
from runner.recorded.edges import schedule_of
from runner.recorded.recording import OUTSIDE, Argument, RecordedScope, RecordedSubmission, RecordedTensor, Recording
from runner.rings.schedule import Begin, End, Read, Schedule, Step, Submit


def read_trace(path: Path) -> Schedule:
    """The schedule of a trace as it was submitted; raises ScheduleError."""
    return schedule_of(recording_of_trace(path), "trace")


def recording_of_trace(path: Path) -> Recording:
    """The recording of a trace of submissions, one JSON object a line (`.jsonl` or `.jsonl.xz`); raises ScheduleError.

    `begin` (mode, line), `end`, `alloc` (id, bytes, tensors as [buffer, bytes]), `task` (id, core, blocks, deps, reads, writes),
    `read` (deps). Buffers without an alloc come from outside. Which bytes of a buffer a task touches is not told.
    """
    reader = _Reader(path.name)
    for number, item in enumerate(_json_lines(path), 1):
        try:
            reader.item(item)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ScheduleError(f"{path}:{number}: not a trace record: {error!r}") from None
    if reader.open or not reader.scopes:
        raise ScheduleError(f"{path}: the root scope is never {'closed' if reader.open else 'opened'}")
    return Recording(
        path.name.split(".")[0],
        str(path),
        tuple(reader.tensors),
        tuple(reader.submissions),
        tuple(reader.scopes),
        tuple(reader.steps),
        facts={"source": "trace", "whole_buffers": True},
    )


@dataclass
class _Reader:
    """State while a trace is read: what its ids stand for."""

    file: str
    tensors: list[RecordedTensor] = field(default_factory=list)
    submissions: list[RecordedSubmission] = field(default_factory=list)
    scopes: list[RecordedScope] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    index_of: dict[int, int] = field(default_factory=dict)  # id -> submission
    tensor_of: dict[int, int] = field(default_factory=dict)  # buffer -> tensor
    owner: list[int] = field(default_factory=list)  # tensor -> submission

    def item(self, item: Mapping[str, Any]) -> None:
        match item["op"]:
            case "begin":
                mark = Mark(self.file, max(1, item["line"]))
                self.scopes.append(
                    RecordedScope(f"line {item['line']}" if self.open else "root", len(self.open), item["mode"], mark)
                )
                self.open.append(len(self.scopes) - 1)
                self.steps.append(Begin(self.open[-1]))
            case "end":
                self.steps.append(End(self.open.pop()))
            case "alloc":
                self.submit(item["id"], RecordedSubmission("alloc", "alloc", self.create(item)))
            case "task":
                self.task(item)
            case "read":
                self.steps.append(Read(tuple(self.index_of[dep] for dep in item["deps"])))
            case other:
                raise ValueError(f"unknown op {other!r}")

    def create(self, item: Mapping[str, Any]) -> tuple[int, ...]:
        first, end = len(self.tensors), 0
        for buffer, size in item["tensors"]:
            end += round_up(size)
            self.tensor_of[buffer] = len(self.tensors)
            self.tensors.append(RecordedTensor(f"buffer {buffer}", size))
            self.owner.append(len(self.submissions))
        if end != item["bytes"]:
            raise ValueError(f"the tensors of alloc {item['id']} take {end:,} bytes, not {item['bytes']:,}")
        return tuple(range(first, len(self.tensors)))

    def task(self, item: Mapping[str, Any]) -> None:
        waits = {self.index_of[dep] for dep in item["deps"]}
        written = set(item["writes"])
        arguments = [self.argument(buffer, "inout" if buffer in written else "input") for buffer in item["reads"]]
        arguments += [self.argument(buffer, "existing") for buffer in item["writes"] if buffer not in set(item["reads"])]
        touched = {self.owner[argument.tensor] for argument in arguments if argument.tensor != OUTSIDE}
        self.submit(
            item["id"],
            RecordedSubmission(
                f"task {item['id']}",
                item["core"].lower(),
                arguments=tuple(arguments),
                waits=tuple(sorted(waits)),
                holds=tuple(sorted(touched & waits)),
                num_blocks=item["blocks"],
            ),
        )

    def argument(self, buffer: int, mode: str) -> Argument:
        return Argument(self.tensor_of.get(buffer, OUTSIDE), mode, name=f"buffer {buffer}")

    def submit(self, number: int, submission: RecordedSubmission) -> None:
        self.index_of[number] = len(self.submissions)
        self.steps.append(Submit(len(self.submissions)))
        self.submissions.append(submission)


def _json_lines(path: Path) -> Iterable[Any]:
    opener = lzma.open if path.suffix == ".xz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield parse_json_line(f"{path}:{number}", line, ScheduleError)
    except (OSError, lzma.LZMAError, UnicodeDecodeError, EOFError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise ScheduleError(f"cannot read '{path}': {reason}") from None
