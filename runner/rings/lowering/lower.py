"""`lower` makes a flat schedule of a placement: every tensor gets its place in a block, every edge goes to submissions.

    pass       finds
    order      the order of submissions, the scopes around them, the writers that the runtime still knows
    places     the block of every tensor, and where in it
    edges      what each submission waits for, and what it holds
    entries    the arguments that take entries of the tensormap

The first looks at one task after another, the others at arrays over all of them.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from operator import attrgetter

from runner.base.records import LARGE, builder, collector_off, give_back, working_out
from runner.program.lifetimes import Ints
from runner.program.program import Program, Task
from runner.rings.lowering.edges import edges_of
from runner.rings.lowering.entries import entries_of
from runner.rings.lowering.facts import Facts, facts_of
from runner.rings.lowering.order import Order
from runner.rings.lowering.places import Places
from runner.rings.placement import PlacedItem
from runner.rings.schedule import Begin, End, Schedule, ScopeInfo, Submission


@working_out(
    name=attrgetter("of.path"),
    task=attrgetter("of.id"),
    num_tensors=attrgetter("of.num_arguments"),
    **{name: attrgetter(f"of.{name}") for name in ("op", "num_blocks", "mark")},
)
class TaskSubmission(Submission):
    """The submission of a task, which knows the rest."""

    __slots__ = ("core", "entries", "explicit", "holds", "of", "size_bytes", "slots", "waits")
    of: Task


_new_submission = builder(TaskSubmission)


def lower(program: Program, items: Sequence[PlacedItem], strategy: str = "", extra: tuple[Ints, Ints] | None = None) -> Schedule:
    """The flat schedule of a placement; the root scope (depth 0) is added around it.

    `extra` are tasks, and for each one that it waits for beside what the program and the placement say.
    """
    if len(program.tasks) > LARGE:
        give_back()
    facts = facts_of(program)
    walk = Order(program, facts)
    walk.scopes.append(ScopeInfo(program.name, 0, "auto", program.body.mark))
    walk.steps.append(Begin(0))
    with collector_off():
        walk.place(items, 0, "auto")
        submissions = _submissions(program, walk, facts, extra)
        if len(submissions) > LARGE:
            gc.freeze()
    walk.steps.append(End(0))
    return Schedule(program.name, tuple(submissions), tuple(walk.scopes), tuple(walk.steps), strategy, program)


def _submissions(program: Program, walk: Order, facts: Facts, extra: tuple[Ints, Ints] | None) -> list[Submission]:
    places = Places(program, walk, facts)
    edges = edges_of(program, walk, facts, places, extra)
    entries = entries_of(program, walk, facts, places)
    found: list[Submission] = []
    given = zip(walk.order, places.slots, places.size_bytes, edges.waits, edges.holds, edges.explicit, entries, strict=True)
    tasks, tensors = program.tasks, program.tensors
    for number, slots, size_bytes, waits, holds, explicit, mapped in given:
        if number >= 0:
            task = tasks[number]
            found.append(_new_submission(task.core, mapped, explicit, holds, task, size_bytes, slots, waits))
        else:
            item = walk.allocs[~number]
            mark = item.mark or tensors[item.tensors[0]].mark
            num_tensors = 1 if item.offsets else len(slots)  # an arena is one tensor, of which all in it are parts
            found.append(Submission(item.name or "alloc", size_bytes, slots, mark=mark, num_tensors=num_tensors))
    return found
