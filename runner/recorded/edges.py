"""This module derives a recording's edges by the rules of the runtime, and makes the schedule as it was recorded.

In an auto scope a task waits for

    the creator of every tensor that it uses                         and keeps the creator's block and slot
    every registered writer of bytes that it reads, or updates       waits only
    what `after` names                                               and keeps its block and slot
    what `after_wait_only` names                                     waits only

Registered are the INOUT and `existing` arguments of tasks in auto scopes. A writer is forgotten once a later INOUT covers all
that it wrote. A tensor marked `manual_dep` has creator edges only; a part of it has all of them. In a manual scope the last two
lines alone hold, and nothing is registered.

Source: docs/memory-model.md, rule 8.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.base.tensor_spec import round_up
from runner.program.ops import CORES
from runner.recorded.recording import OUTSIDE, Argument, RecordedSubmission, Recording
from runner.rings.schedule import Begin, End, MapEntry, Schedule, ScopeInfo, Slot, Submission, Submit

READING = ("input", "inout")
WRITING = ("inout", "existing")

_ENDLESS = 2**62
"""Where a tensor from outside ends, whose size no recording tells."""


@dataclass
class _Deriver:
    """State while edges are derived: who created each tensor, and which writers of it are registered."""

    recording: Recording
    creator: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)  # of each tensor in its block
    outside: dict[str, int] = field(default_factory=dict)  # tensors from outside, numbered
    writers: dict[int | str, list[tuple[int, int, int]]] = field(default_factory=dict)  # (submission, begin, end)

    def __post_init__(self) -> None:
        self.creator = [OUTSIDE] * len(self.recording.tensors)
        self.offset = [0] * len(self.recording.tensors)

    def submission(self, index: int, mode: str) -> Submission:
        recorded = self.recording.submissions[index]
        slots, end = [], 0
        for tensor in recorded.creates:
            known = self.recording.tensors[tensor]
            size = round_up(known.size_bytes)
            slots.append(Slot(tensor, end, size, known.name))
            self.creator[tensor], self.offset[tensor] = index, end
            end += size
        waits, holds = self.edges(index, recorded, mode)
        used = {self.creator[argument.tensor] for argument in recorded.arguments if argument.tensor != OUTSIDE}
        core = None if recorded.is_alloc else recorded.kind.upper()
        if core not in (None, *CORES):
            core = "AIV"  # a dummy has no kernel, but waits for its edges like any task
        return Submission(
            recorded.name,
            end,
            tuple(slots),
            tuple(sorted(waits)),
            tuple(sorted(holds)),
            core,
            num_blocks=recorded.num_blocks,
            mark=recorded.mark,
            entries=() if mode == "manual" else self.entries(recorded),
            num_tensors=len(recorded.creates) + len(recorded.arguments),
            explicit=tuple(sorted(set(recorded.after) - used)),
        )

    def entries(self, recorded: RecordedSubmission) -> tuple[MapEntry, ...]:
        """What the arguments of a task in an auto scope take of the tensormap."""
        found = []
        for argument in recorded.arguments:
            if argument.mode in WRITING and not self.is_manual(argument):
                begin, end = self.bytes_of(argument)
                if argument.tensor == OUTSIDE:
                    owner, offset = OUTSIDE, self.outside.setdefault(argument.name, len(self.outside))
                else:
                    owner, offset = self.creator[argument.tensor], self.offset[argument.tensor]
                found.append(MapEntry(owner, offset, begin, end, argument.mode == "inout"))
        return tuple(found)

    def edges(self, index: int, recorded: RecordedSubmission, mode: str) -> tuple[set[int], set[int]]:
        """The submissions that one waits for, and those of them whose blocks it keeps."""
        if recorded.waits is not None:  # the source tells them
            return set(recorded.waits), set(recorded.waits if recorded.holds is None else recorded.holds)
        holds = set(recorded.after)
        waits = holds | set(recorded.after_wait_only)
        if mode == "manual":
            return waits, holds
        for argument in recorded.arguments:
            if argument.tensor != OUTSIDE:
                holds.add(self.creator[argument.tensor])
            if argument.mode in READING and not self.is_manual(argument):
                waits.update(self.look_up(argument))
        for argument in recorded.arguments:
            if argument.mode in WRITING and not self.is_manual(argument):
                self.writers.setdefault(_key(argument), []).append((index, *self.bytes_of(argument)))
        return waits | holds, holds

    def look_up(self, argument: Argument) -> set[int]:
        """The registered writers that overlap an argument; an INOUT takes away those that it covers."""
        begin, end = self.bytes_of(argument)
        key = _key(argument)
        found = [w for w in self.writers.get(key, ()) if w[1] < end and begin < w[2]]
        if argument.mode == "inout" and found:
            covered = {w for w in found if begin <= w[1] and w[2] <= end}
            self.writers[key] = [w for w in self.writers[key] if w not in covered]
        return {writer for writer, _, _ in found}

    def is_manual(self, argument: Argument) -> bool:
        """Whether an argument has a creator edge only; a part of a `manual_dep` tensor has all others (so recorded)."""
        return argument.size_bytes is None and argument.tensor != OUTSIDE and self.recording.tensors[argument.tensor].manual_dep

    def bytes_of(self, argument: Argument) -> tuple[int, int]:
        """Where the argument's bytes begin and end in its tensor."""
        if argument.size_bytes is not None:
            return argument.offset_bytes, argument.offset_bytes + argument.size_bytes
        whole = _ENDLESS if argument.tensor == OUTSIDE else self.recording.tensors[argument.tensor].size_bytes
        return argument.offset_bytes, whole


def _key(argument: Argument) -> int | str:
    return argument.name if argument.tensor == OUTSIDE else argument.tensor


def schedule_of(recording: Recording, strategy: str = "recorded") -> Schedule:
    """The schedule that the device ran: scopes and blocks as they were, edges as told or else derived."""
    deriver = _Deriver(recording)
    modes: list[str] = []
    submissions = []
    for step in recording.steps:
        if isinstance(step, Begin):
            modes.append(recording.scopes[step.scope].mode)
        elif isinstance(step, End):
            modes.pop()
        elif isinstance(step, Submit):
            submissions.append(deriver.submission(step.submission, modes[-1]))
    scopes = tuple(ScopeInfo(s.site, s.depth, s.mode, s.mark) for s in recording.scopes)
    return Schedule(recording.name, tuple(submissions), scopes, recording.steps, strategy)
