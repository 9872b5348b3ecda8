"""This module says any schedule as a recording, from which the same schedule is derived again: a plan as a recorded program.

A tensor has the bytes of its slot; an arena is one tensor, whose parts tasks take. What takes an entry of the tensormap is an
INOUT or `existing` argument, another creator that a task uses a `no_dep` one, all further edges are explicit. Where rules would
derive other edges than the schedule's (a box of rows overlaps the bytes of another that it does not meet), the edges are told.
Loops are unrolled with every trip, and values read on the host have no words.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from runner.recorded.edges import schedule_of
from runner.recorded.recording import OUTSIDE, Argument, RecordedScope, RecordedSubmission, RecordedTensor, Recording
from runner.rings.schedule import Begin, End, MapEntry, Schedule, Submission, Submit
from runner.rings.sizes import RingSizes
from runner.rings.steps import StepWalk


def recording_of(schedule: Schedule, sizes: RingSizes) -> Recording:
    """A recording from which `schedule_of` makes the schedule again, with tensors numbered anew."""
    writer = _Restating()
    walk = StepWalk(schedule)
    for step in walk:
        if isinstance(step, Submit):
            mode = schedule.scopes[walk.scopes[-1]].mode
            writer.submission(schedule.submissions[step.submission], mode)
    scopes = tuple(RecordedScope(scope.name, scope.depth, scope.mode, scope.mark) for scope in schedule.scopes)
    steps = tuple(step for step in schedule.steps if isinstance(step, Begin | End | Submit))
    name, tensors, submissions = schedule.name, tuple(writer.tensors), tuple(writer.submissions)
    found = Recording(name, name, tensors, submissions, scopes, steps, sizes, facts={"told_edges": True})
    while (corrected := _told(found, schedule)) != found.submissions:  # what is told registers no writer, which changes others
        found = replace(found, submissions=corrected)
    return found


def _told(recording: Recording, schedule: Schedule) -> tuple[RecordedSubmission, ...]:
    """The submissions, with the edges told of those for which others would be derived."""
    return tuple(
        ours if (derived.waits, derived.holds) == (wanted.waits, wanted.holds) else _with_edges(ours, wanted)
        for ours, derived, wanted in zip(
            recording.submissions, schedule_of(recording).submissions, schedule.submissions, strict=True
        )
    )


def _with_edges(ours: RecordedSubmission, wanted: Submission) -> RecordedSubmission:
    return replace(ours, waits=wanted.waits, holds=wanted.holds)


@dataclass
class _Restating:
    tensors: list[RecordedTensor] = field(default_factory=list)
    submissions: list[RecordedSubmission] = field(default_factory=list)
    places: list[dict[int, int]] = field(default_factory=list)  # per submission its tensors by offset, of the larger ones

    def submission(self, item: Submission, mode: str) -> None:
        first = len(self.tensors)
        is_arena = item.core is None and item.num_tensors == 1 and bool(item.slots)
        if is_arena:
            self.tensors.append(RecordedTensor(item.name, item.size_bytes))
            self.places.append({0: first})
        else:
            self.tensors += [RecordedTensor(slot.name or item.name, slot.size_bytes) for slot in item.slots]
            places = {slot.offset: first + k for k, slot in enumerate(item.slots) if slot.size_bytes}
            empty = {slot.offset: first + k for k, slot in enumerate(item.slots) if not slot.size_bytes}
            self.places.append(empty | places)
        creates = tuple(range(first, len(self.tensors)))
        if item.core is None:
            self.submissions.append(RecordedSubmission(item.name, "alloc", creates, mark=item.mark))
            return
        arguments = [self.entry(entry) for entry in item.entries]
        used = {entry.owner for entry in item.entries}
        for held in item.holds:
            if held not in used and held not in item.explicit and self.places[held]:
                tensor = min(self.places[held].values())
                arguments.append(Argument(tensor, "no_dep", name=self.tensors[tensor].name))
        missing = item.num_tensors - len(creates) - len(arguments)
        arguments += [Argument(OUTSIDE, "no_dep", name="ext")] * max(0, missing)
        after = item.holds if mode == "manual" else item.explicit
        only = tuple(sorted(set(item.waits) - set(item.holds)))
        kind, blocks = item.core.lower(), item.num_blocks
        self.submissions.append(
            RecordedSubmission(item.name, kind, creates, tuple(arguments), after, only, num_blocks=blocks, mark=item.mark)
        )

    def entry(self, entry: MapEntry) -> Argument:
        """The argument that takes an entry of the tensormap."""
        mode, size = "inout" if entry.covers else "existing", entry.end - entry.begin
        if entry.owner == OUTSIDE:
            return Argument(OUTSIDE, mode, entry.begin, size, f"ext{entry.offset}")
        tensor = self.places[entry.owner][entry.offset]
        return Argument(tensor, mode, entry.begin, size, self.tensors[tensor].name)
