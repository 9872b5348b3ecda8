"""This module writes a recording in the conformance format, so that it reads back to the same.

Beside the keys of docs/memory-model.md it writes what a capture tells: `kernel` (a task's name where several have one), `site` of
a scope, `duration_us`, `block_us`, `submit_us`, `num_blocks`, and `exact: false` of a tensor whose bytes are a guess.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from typing import Any

from runner.recorded.recording import OUTSIDE, Argument, RecordedSubmission, Recording
from runner.rings.schedule import Begin, End, Submit

KEYS = {"input": "inputs", "inout": "inouts", "existing": "existing", "no_dep": "no_dep"}


def program_json(recording: Recording) -> dict[str, Any]:
    """The program of a recording, every loop unrolled; values read on the host have no words in the format."""
    writer = _Writer(recording)
    open_items: list[list[dict[str, Any]]] = []
    items: list[dict[str, Any]] = []
    for step in recording.steps:
        match step:
            case Begin():
                open_items.append(items)
                items = []
                if len(open_items) > 1:
                    scope = recording.scopes[step.scope]
                    mode = {} if scope.mode == "auto" else {"mode": scope.mode}
                    open_items[-1].append({"site": scope.site} | mode | {"scope": items})
            case End():
                if len(open_items) > 1:
                    items = open_items.pop()
            case Submit():
                items.append(writer.item(step.submission))
            case _:
                pass
    sizes = recording.sizes
    facts = {name: recording.facts[name] for name in ("submit_us", "cores") if recording.facts.get(name)}
    return {
        "name": recording.name,
        "program": {"site": recording.scopes[0].site, "items": items},
        "capacities": {"ring_heap": [*sizes.heap], "ring_task_window": [*sizes.window], "ring_dep_pool": [*sizes.pool]},
        "estimated": [*recording.estimated],
    } | facts


class _Writer:
    """Names that are unique: those of tasks and tensors, with the submission's number where several have one name."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        taken = {argument.name for s in recording.submissions for argument in s.arguments if argument.tensor == OUTSIDE}
        self.tasks = _unique([s.name for s in recording.submissions], taken, [not s.is_alloc for s in recording.submissions])
        self.tensors = _unique([tensor.name for tensor in recording.tensors], taken | set(self.tasks))

    def item(self, index: int) -> dict[str, Any]:
        submission = self.recording.submissions[index]
        created = [self.tensor(tensor) for tensor in submission.creates]
        cost = {} if submission.submit_us is None else {"submit_us": submission.submit_us}
        if submission.is_alloc:
            return {"alloc": created} | cost
        kernel = {} if self.tasks[index] == submission.name else {"kernel": submission.name}
        found: dict[str, Any] = {"task": self.tasks[index]} | kernel | {"kind": submission.kind}
        found |= self.arguments(submission) | ({"outputs": created} if created else {})
        for name, edges in (("after", submission.after), ("after_wait_only", submission.after_wait_only)):
            if edges:
                found[name] = [self.submission_name(first) for first in edges]
        if submission.waits is not None and self.recording.facts.get("told_edges"):
            told = {"waits": submission.waits, "holds": submission.holds or ()}
            found |= {name: [self.submission_name(first) for first in edges] for name, edges in told.items()}
        if submission.num_blocks != 1:
            found["num_blocks"] = submission.num_blocks
        for name in ("duration_us", "block_us"):
            if getattr(submission, name) is not None:
                found[name] = getattr(submission, name)
        return found | cost

    def submission_name(self, index: int) -> str:
        """What `after` calls a submission: an alloc by its first tensor."""
        submission = self.recording.submissions[index]
        return self.tensors[submission.creates[0]] if submission.is_alloc and submission.creates else self.tasks[index]

    def tensor(self, index: int) -> dict[str, Any]:
        tensor = self.recording.tensors[index]
        manual = {"manual_dep": True} if tensor.manual_dep else {}
        return {"name": self.tensors[index], "bytes": tensor.size_bytes} | manual | ({} if tensor.exact else {"exact": False})

    def arguments(self, submission: RecordedSubmission) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for argument in submission.arguments:
            found.setdefault(KEYS[argument.mode], []).append(self.argument(argument))
        return found

    def argument(self, argument: Argument) -> Any:
        name = argument.name if argument.tensor == OUTSIDE else self.tensors[argument.tensor]
        if argument.size_bytes is None and not argument.offset_bytes:
            return name
        part = {"name": name, "offset": argument.offset_bytes}
        return part if argument.size_bytes is None else part | {"bytes": argument.size_bytes}


def _unique(names: Sequence[str], taken: Set[str], counted: Sequence[bool] = ()) -> list[str]:
    """Each name as it is where no other that counts has it and it is not taken, else with its number, and more if need be."""
    counts = Counter(name for k, name in enumerate(names) if not counted or counted[k])
    used, found = {*taken, *names}, []
    for k, name in enumerate(names):
        if counts[name] > 1 or name in taken:
            name = f"{name}.{k}"
            while name in used:
                name += "_"
            used.add(name)
        found.append(name)
    return found
