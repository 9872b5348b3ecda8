"""This module makes a `Program` of a recording, which strategies can place anew; strategy `annotated` gives what the device ran.

Task k is submission k. Its edges are those that an automatic scope gives it, as a plan's scopes are automatic: where the source
tells edges they are taken as they are, else the rules derive them, for tasks of manual scopes too. Explicit edges stay explicit.
What a task used it uses, in manual scopes as well, so that a tensor lives from where it was made to its last use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from runner.base.tensor_spec import TensorSpec
from runner.program.ops import CORES
from runner.program.program import Program, Region, Span, Task, Tensor, Trips
from runner.recorded.edges import schedule_of
from runner.recorded.recording import OUTSIDE, Argument, RecordedSubmission, Recording
from runner.rings.schedule import Begin, End, Read, Submit

OPERANDS = {"input": "in", "inout": "inout", "existing": "existing", "no_dep": "no_dep"}


def program_of_recording(recording: Recording) -> Program:
    """The program of a recording, its scopes as spans."""
    return _Making(recording).program()


def paths(recording: Recording) -> list[str]:
    """A name of its own for every submission: `k12`, or `k12.41` where several have that name."""
    counts = Counter(submission.name for submission in recording.submissions)
    return [s.name if counts[s.name] == 1 else f"{s.name}.{k}" for k, s in enumerate(recording.submissions)]


class _Making:
    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.paths = paths(recording)
        self.outside: dict[str, int] = {}  # name -> tensor
        for submission in recording.submissions:
            for argument in submission.arguments:
                if argument.tensor == OUTSIDE:
                    self.outside.setdefault(argument.name, len(recording.tensors) + len(self.outside))
        self.manual = self.manual_submissions()
        self.edges = self.automatic_edges()

    def program(self) -> Program:
        recording = self.recording
        tasks = tuple(self.task(k, submission) for k, submission in enumerate(recording.submissions))
        return Program(recording.name, tuple(self.tensors()), tasks, self.body())

    # --- tensors ------------------------------------------------------------------------------------------------------

    def tensors(self) -> Iterator[Tensor]:
        """Those that the program creates, then those from outside, as far as they are used."""
        for number, tensor in enumerate(self.recording.tensors):
            yield Tensor(number, tensor.name, TensorSpec("u8", (tensor.size_bytes,)))
        reach: dict[str, int] = {}
        for submission in self.recording.submissions:
            for argument in submission.arguments:
                if argument.tensor == OUTSIDE:
                    end = argument.offset_bytes + (argument.size_bytes or 0)
                    reach[argument.name] = max(reach.get(argument.name, 0), end)
        for name, number in self.outside.items():
            yield Tensor(number, name, TensorSpec("u8", (reach[name],)), "state", name)

    # --- tasks --------------------------------------------------------------------------------------------------------

    def automatic_edges(self) -> list[tuple[int, ...]]:
        """Per submission what it waits for in an automatic scope, explicit edges and allocs left out, which follow from uses."""
        recording = self.recording
        told = [s.waits for s in recording.submissions]
        if recording.facts.get("whole_buffers"):  # nobody knows which bytes a task touches: there is no more than is told
            return [tuple(w for w in waits or () if not recording.submissions[w].is_alloc) for waits in told]
        automatic = replace(
            recording,
            submissions=tuple(replace(s, waits=None, holds=None) for s in recording.submissions),
            scopes=tuple(replace(scope, mode="auto") for scope in recording.scopes),
        )
        manual, found = self.manual, []
        pairs = zip(schedule_of(automatic).submissions, schedule_of(recording).submissions, strict=True)
        for index, (derived, ran) in enumerate(pairs):
            waits, submission = set(derived.waits), recording.submissions[index]
            if index not in manual:  # only what a manual scope hid is new
                waits = set(ran.waits) | {wait for wait in waits if wait in manual}
            waits -= {*submission.after, *submission.after_wait_only}
            found.append(tuple(sorted(wait for wait in waits if not recording.submissions[wait].is_alloc)))
        return found

    def manual_submissions(self) -> set[int]:
        modes: list[str] = []
        found = set()
        for step in self.recording.steps:
            if isinstance(step, Begin):
                modes.append(self.recording.scopes[step.scope].mode)
            elif isinstance(step, End):
                modes.pop()
            elif isinstance(step, Submit) and modes[-1] == "manual":
                found.add(step.submission)
        return found

    def task(self, index: int, submission: RecordedSubmission) -> Task:
        used = [(argument.mode, self.tensor_of(argument)) for argument in submission.arguments]
        local = {tensor for _, tensor in used if tensor < len(self.recording.tensors)}
        core, operands = submission.kind.upper(), dict(self.operands(submission))
        explicit = {*submission.after, *submission.after_wait_only}
        if self.recording.facts.get("whole_buffers") and submission.waits is not None and index in self.manual:
            explicit |= set(submission.waits)  # what a manual scope waits for is explicit
        return Task(
            index,
            self.paths[index],
            None if submission.is_alloc else submission.name,
            None if submission.is_alloc else core if core in CORES else "AIV",  # a dummy waits like any task
            operands,
            creates=submission.creates,
            uses=tuple(sorted(local - set(submission.creates))),
            reads=tuple(dict.fromkeys(tensor for mode, tensor in used if mode != "existing")),
            writes=tuple(dict.fromkeys([*submission.creates, *(t for m, t in used if m in ("inout", "existing"))])),
            waits=self.edges[index],
            after=tuple(sorted(explicit)),
            wait_only=tuple(sorted(set(submission.after_wait_only) - set(submission.after))),
            num_blocks=submission.num_blocks,
            mark=submission.mark,
            modes={name: mode for name in operands if (mode := name.rstrip("0123456789")) in ("in", "existing")},
        )

    def tensor_of(self, argument: Argument) -> int:
        return self.outside[argument.name] if argument.tensor == OUTSIDE else argument.tensor

    def operands(self, submission: RecordedSubmission) -> Iterator[tuple[str, Region]]:
        """What a task touches where, if its source tells; a tensor that takes part in no dependency is left out."""
        if submission.is_alloc or self.recording.facts.get("whole_buffers"):
            return
        counts: dict[str, Iterator[int]] = {}
        for argument in submission.arguments:
            manual = argument.tensor != OUTSIDE and self.recording.tensors[argument.tensor].manual_dep
            if argument.mode != "no_dep" and not manual:
                box = None
                if argument.size_bytes is not None:
                    box = ((argument.offset_bytes, argument.offset_bytes + argument.size_bytes),)
                number = next(counts.setdefault(argument.mode, count()))
                yield f"{OPERANDS[argument.mode]}{number}", Region(self.tensor_of(argument), box)
        for number, tensor in enumerate(submission.creates):
            yield f"out{number}", Region(tensor)

    # --- scopes -------------------------------------------------------------------------------------------------------

    def body(self) -> Span:
        """The scopes as spans, each with what it holds."""
        stack: list[list[int | Span]] = [[]]
        scopes: list[int] = []
        for step in self.recording.steps:
            match step:
                case Begin():
                    stack.append([])
                    scopes.append(step.scope)
                case End():
                    items, scope = tuple(stack.pop()), self.recording.scopes[scopes.pop()]
                    kind = "scope" if scopes else "root"
                    stack[-1].append(Span(kind, scope.site, items, scope.mode, mark=scope.mark))
                case Submit():
                    stack[-1].append(step.submission)
                case Read():
                    trips = Trips(f"read {len(stack[-1])}", (), step.waits, 1, lambda element: 1)
                    stack[-1].append(Span("read", trips.path, trips=trips))
        (root,) = stack[0]
        assert isinstance(root, Span)
        return root
