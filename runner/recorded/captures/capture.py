"""This module rebuilds the program that a capture was made of; docs/recorded.md says how, and what is a guess."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median

from runner.base.errors import ScheduleError
from runner.recorded.captures.files import (
    CREATES,
    Capture,
    CapturedEdge,
    CapturedTask,
    Operand,
    number_of_id,
    read_capture,
    ring_of_id,
)
from runner.recorded.captures.layout import Piece
from runner.recorded.captures.order import Ordered, ordered
from runner.recorded.captures.tensors import Tensors
from runner.recorded.recording import OUTSIDE, Argument, RecordedSubmission, RecordedTensor, Recording
from runner.rings.schedule import End

MODES = {"INPUT": "input", "INOUT": "inout", "OUTPUT_EXISTING": "existing"}
"""The runtime's words for how a task takes a tensor; any other takes part in no dependency but its creator's."""


def recording_of_capture(folder: Path) -> Recording:
    """The program of a capture folder; raises ScheduleError for files that are missing, broken, or of different runs."""
    capture = read_capture(folder)
    order = ordered(capture)
    tensors = Tensors(capture, order)
    tensors.resolve()
    return _Rebuilding(capture, order, tensors).recording()


@dataclass
class _Rebuilding:
    """What is worked out, on its way to a recording."""

    capture: Capture
    order: Ordered
    found: Tensors
    tensors: list[RecordedTensor] = field(default_factory=list)
    created: dict[int, list[int]] = field(default_factory=dict)  # per submission the tensors of its block
    at: dict[tuple[int, int], int] = field(default_factory=dict)  # (submission, offset in the ring) -> tensor
    outside: dict[int, str] = field(default_factory=dict)  # address -> name
    offsets: dict[int, int] = field(default_factory=dict)  # tensor -> offset in its ring

    def recording(self) -> Recording:
        for index in range(len(self.order.ids)):
            self.create(index)
        submissions = tuple(self.submission(index) for index in range(len(self.order.ids)))
        steps = (*self.order.steps, *(End(scope) for scope in reversed(self.order.open_scopes)))
        capture = self.capture
        return Recording(
            capture.name,
            str(capture.folder),
            tuple(self.tensors),
            submissions,
            self.order.scopes,
            steps,
            capture.sizes,
            estimated=tuple(self.estimated()),
            facts=self.facts(),
        )

    # --- tensors ------------------------------------------------------------------------------------------------------

    def create(self, index: int) -> None:
        """The tensors of a submission's block, in the order in which they lie."""
        block = self.blocks.get(index, ())
        many = len(block) > 1
        for k, piece in enumerate(block):
            number = len(self.tensors)
            name = f"{self.name(index)}.{index}" + (f".{k}" if many else "")
            size = piece.size or 0
            if size - 1024 < piece.least <= size:  # a task touches all of it: its bytes before rounding
                size = piece.least
            self.tensors.append(RecordedTensor(name, size, exact=piece.exact))
            self.created.setdefault(index, []).append(number)
            if piece.offset is not None:
                self.at[index, piece.offset] = number
            if piece.start is not None:
                self.offsets[number] = piece.start % self.capture.sizes.heap[ring_of_id(self.order.ids[index])]

    @cached_property
    def blocks(self) -> dict[int, list[Piece]]:
        """Per submission the pieces of its block."""
        return {block.submission: block.pieces for layout in self.found.layouts for block in layout.blocks}

    def name(self, index: int) -> str:
        task = self.found.tasks.get(index)
        return task.name if task is not None else self.kind(index)

    def kind(self, index: int) -> str:
        task = self.found.tasks.get(index)
        if task is not None:
            return task.core
        times = self.capture.times
        return "aiv" if times is not None and self.order.ids[index] in times.start_us else "alloc"

    # --- submissions --------------------------------------------------------------------------------------------------

    def submission(self, index: int) -> RecordedSubmission:
        task, task_id = self.found.tasks.get(index), self.order.ids[index]
        times = self.capture.times
        waits, holds, after, wait_only = self.edges(index)
        return RecordedSubmission(
            self.name(index),
            self.kind(index),
            tuple(self.created.get(index, ())),
            tuple(self.arguments(index, task)) if task is not None else (),
            after,
            wait_only,
            waits,
            holds,
            times.run_us.get(task_id) if times is not None else None,
            times.submit_us.get(task_id) if times is not None else None,
            task.num_blocks if task is not None else 1,
            times.block_us.get(task_id) if times is not None else None,
        )

    def edges(self, index: int) -> tuple[tuple[int, ...], ...]:
        """What a submission waits for, whose blocks it keeps, and which of these edges are explicit: with keeping, without."""
        edges = [(first, edge) for first, edge in self.edges_of.get(index, ()) if not self.is_stale(first, index, edge)]
        holds = {first for first, edge in edges if edge.retains} | self.makers(index)
        waits = {first for first, edge in edges if edge.waits} | holds
        explicit = [(first, edge) for first, edge in edges if edge.source == "explicit"]
        after = {first for first, edge in explicit if edge.retains}
        wait_only = {first for first, _ in explicit} - after
        return tuple(tuple(sorted(found)) for found in (waits, holds, after, wait_only))

    def makers(self, index: int) -> set[int]:
        """Who made what a task of an automatic scope uses: its edge may have been merged with another."""
        task = self.found.tasks.get(index)
        if task is None or task.manual:
            return set()
        made_by = (self.found.producer.get((index, operand.index)) for operand in task.operands)
        return {first for first in made_by if first is not None}

    def is_stale(self, first: int, second: int, edge: CapturedEdge) -> bool:
        """Whether an edge comes from a tensor that lay at an address before the one that a task uses: the replay never sweeps."""
        made_by = self.found.producer.get((second, edge.operand))
        return edge.source == "tensormap" and made_by is not None and made_by > first

    @cached_property
    def edges_of(self) -> dict[int, list[tuple[int, CapturedEdge]]]:
        """Per submission its edges, each behind the submission that it comes from."""
        index_of = self.found.index_of
        found: dict[int, list[tuple[int, CapturedEdge]]] = {}
        for edge in self.capture.edges:
            if edge.first in index_of and edge.second in index_of:
                first, second = index_of[edge.first], index_of[edge.second]
                found.setdefault(second, []).append((first, edge))
        return found

    def arguments(self, index: int, task: CapturedTask) -> Iterator[Argument]:
        for operand in task.operands:
            if operand.kind != CREATES and operand.tensor_id:
                yield self.argument(index, operand)

    def argument(self, index: int, operand: Operand) -> Argument:
        use = (index, operand.index)
        mode = MODES.get(operand.kind, "no_dep")
        size = operand.end - operand.begin
        producer = self.found.producer.get(use)
        if producer is None:
            name = self.outside.setdefault(operand.address, f"ext{len(self.outside) + 1}" if self.outside else "ext")
            return Argument(OUTSIDE, mode, operand.begin, size, name)
        tensor = self.at[producer, self.found.offset[use]]
        whole = operand.begin == 0 and size >= self.tensors[tensor].size_bytes
        return Argument(tensor, mode, operand.begin, None if whole else size, self.tensors[tensor].name)

    # --- what is a guess ----------------------------------------------------------------------------------------------

    def estimated(self) -> Iterator[str]:
        yield from self.order.estimated
        capture, found = self.capture, self.found
        if capture.tasks is None:
            yield "edges, arguments and dummies: deps.json is missing, so what did not run on a core is taken for an alloc"
        elif found.base is None and any(True for _ in found.uses()):
            yield "all tensors: no creator edge tells where the heaps lie, so all are taken to come from outside"
        elif not found.is_base_exact and found.base is not None:
            yield "the heaps' base: no tensor that a task names must lie at the beginning of a ring, so the lowest is taken to"
        guessed = [(index, piece) for index, pieces in sorted(self.blocks.items()) for piece in pieces if not piece.exact]
        if guessed:
            named = sum(piece.named for _, piece in guessed)
            yield (
                f"bytes of {len(guessed):,} tensors ({named:,} that a task names), first of submission {guessed[0][0]}: of"
                " neighbours that nobody names only the sum is known, of what lies behind the last record nothing, and an alloc"
                " may hold more tensors that nobody names"
            )
        if found.uncertain:
            first, operand = found.uncertain[0]
            yield (
                f"{len(found.uncertain):,} arguments lie in a heap, but in no block made before them (first: argument"
                f" {operand} of submission {first}); they are taken to come from outside"
            )
        for layout in found.layouts:
            yield from layout.problems
        if self.order.open_scopes:
            yield f"the end of {len(self.order.open_scopes):,} scopes that the run left open: behind the last submission"
        if capture.times is None:
            yield "durations and submission costs: chip_swimlane_records.json is missing"
        else:
            ran = capture.times.start_us
            lacking = [k for k, task in sorted(found.tasks.items()) if task.core != "dummy" and task.id not in ran]
            if lacking:
                yield f"durations of {len(lacking):,} tasks, first of submission {lacking[0]}: they have no rows"

    def facts(self) -> dict[str, object]:
        """What else a capture tells: places on rings, and times."""
        times, ids = self.capture.times, self.order.ids
        found: dict[str, object] = {
            "source": "capture",
            "fatal": self.capture.fatal,
            "open_scopes": self.order.open_scopes,
            "has_edges": self.capture.tasks is not None,
            "rings": tuple((ring_of_id(task), number_of_id(task)) for task in ids),
            "scope_of": self.order.scope_of,
            "base": self.found.base,
            "offsets": self.offsets,
            "named": frozenset(self.at.values()),
            "heads": tuple((mark.begins, mark.heap_head) for mark in self.capture.marks),
            "stale_edges": tuple(
                (first, second)
                for second, edges in sorted(self.edges_of.items())
                for first, edge in edges
                if self.is_stale(first, second, edge)
            ),
        }
        if times is not None:
            costs, number = list(times.submit_us.values()), {task: k for k, task in enumerate(ids)}
            begun = {number[task]: start for task, start in times.submit_start_us.items() if task in number}
            found |= {
                "cores": dict(times.cores),
                "start_us": {k: times.start_us[task] for k, task in enumerate(ids) if task in times.start_us},
                "end_us": {k: times.end_us[task] for k, task in enumerate(ids) if task in times.end_us},
                "core_of": {k: times.core_of[task] for k, task in enumerate(ids) if task in times.core_of},
                "submit_us": median(costs) if costs else None,
                "submit_start_us": begun,
                "slices": tuple((core, number[task], *when) for core, task, *when in times.slices if task in number),
            }
        return found


def require_edges(recording: Recording) -> None:
    """Raises ScheduleError for a recording whose source does not tell which task needs what."""
    if not recording.facts.get("has_edges", True):
        raise ScheduleError(
            f"'{recording.file}' has no deps.json: nothing tells which task needs what, so it cannot be planned",
            hint="record again with dependencies on, or give the program that was run",
        )
