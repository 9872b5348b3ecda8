"""This module owns the one walk over a schedule's steps: which step comes next, and which scopes and loops are open around it.

Whoever replays, runs, reports or verifies a schedule iterates a `StepWalk` and says what a step means to him. The stack of scopes
with their rings, the trips of dynamic loops and the jump over trips that do not run are kept here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import cast

from runner.rings.schedule import Begin, End, Read, Repeat, Schedule, Step, Submit, remembered


@dataclass(slots=True)
class OpenLoop:
    """A dynamic loop that the walk is in: `bounds` are where its trips begin and where it ends, `num_trips` is how many run.

    `trip` is -1 only while the walk goes from the loop's `Repeat` to its first trip.
    """

    bounds: tuple[int, ...]
    num_trips: int
    trip: int = -1

    @property
    def at(self) -> int:
        """The index of its `Repeat` among the steps."""
        return self.bounds[0] - 1


class StepWalk:
    """The steps of a schedule in the order in which the submitting thread takes them; iterate it once.

    scopes   indices of the open scopes, the root first; the last is the one that a `Begin` has just opened or an `End` is about
             to close
    rings    the ring of each of them
    loops    the open dynamic loops, outermost first; a loop is not open yet at its own `Repeat`

    All three are lists that change as the walk goes on: copy what is to be kept. `num_trips` is asked how many trips of a loop
    run when the caller comes back from its `Repeat`, so that he can wait for the loop's values first. Trips that do not run are
    passed over, and `left_out(first, end)` is told at once of the submissions `first` to `end - 1` in them. Without `num_trips`
    every trip that the schedule holds is walked.

    Scopes are not checked, since `verify` walks schedules that are wrong; loops must lie one trip after the other.
    """

    def __init__(
        self,
        schedule: Schedule,
        num_trips: Callable[[Repeat], int] | None = None,
        left_out: Callable[[int, int], None] | None = None,
    ) -> None:
        self.schedule = schedule
        self.scopes: list[int] = []
        self.rings: list[int] = []
        self.loops: list[OpenLoop] = []
        self._num_trips = num_trips
        self._left_out = left_out
        self._steps: Sequence[Step | range] = schedule.steps

    def runs(self) -> Iterator[Begin | End | Read | Repeat | range]:
        """The same walk over every trip that the schedule holds, in which submissions one behind the other come as one range.

        Large schedules have a hundred submissions for each other step. `OpenLoop.bounds` count ranges as one step.
        """
        self._steps = _in_runs(self.schedule)
        return cast(Iterator[Begin | End | Read | Repeat | range], iter(self))

    def __iter__(self) -> Iterator[Step]:
        infos, scopes, rings = self.schedule.scopes, self.scopes, self.rings
        steps = cast(Iterator[Step], iter(self._steps))
        at, turn = 0, len(self._steps)  # the index of the next step, and of the step behind the innermost open trip
        while True:
            for step in islice(steps, turn - at):
                if isinstance(step, Submit):
                    yield step
                elif isinstance(step, Begin):
                    scopes.append(step.scope)
                    rings.append(infos[step.scope].ring)
                    yield step
                elif isinstance(step, End):
                    yield step
                    if scopes:
                        scopes.pop()
                        rings.pop()
                else:
                    yield step
                    if isinstance(step, Repeat):
                        self.loops.append(self._opened(step))
                        at = turn = self.loops[-1].bounds[0]
                        break
            if not self.loops:
                return
            at, turn = self._next_trip(steps, turn)

    def _opened(self, repeat: Repeat) -> OpenLoop:
        num_trips = len(repeat.starts) if self._num_trips is None else self._num_trips(repeat)
        return OpenLoop((*repeat.starts, repeat.end), num_trips)

    def _next_trip(self, steps: Iterator[Step], at: int) -> tuple[int, int]:
        """Where the walk goes on at the end of a trip, and up to where: into the next trip, or behind the loop."""
        loop = self.loops[-1]
        loop.trip += 1
        if loop.trip < loop.num_trips:
            return at, loop.bounds[loop.trip + 1]
        self.loops.pop()
        end = loop.bounds[-1]
        passed_over = [step.submission for step in islice(steps, end - at) if isinstance(step, Submit)]
        if passed_over and self._left_out is not None:
            self._left_out(passed_over[0], passed_over[-1] + 1)
        outer = self.loops[-1] if self.loops else None
        return end, outer.bounds[outer.trip + 1] if outer else len(self._steps)


@remembered
def _in_runs(schedule: Schedule) -> list[Step | range]:
    """The steps, with one range for submissions of which no trip begins or ends between two."""
    steps = schedule.steps
    others = [at for at, step in enumerate(steps) if type(step) is not Submit]
    cuts = sorted({*others, *(at for k in others if isinstance(loop := steps[k], Repeat) for at in (*loop.starts, loop.end))})
    found, number = list[Step | range](), dict[int, int]()  # by the index of a cut that of what begins there
    loops: list[int] = []
    done = 0
    for cut in [*cuts, len(steps)]:
        if cut > done:
            found.append(range(cast(Submit, steps[done]).submission, cast(Submit, steps[cut - 1]).submission + 1))
            done = cut
        number[cut] = len(found)
        if cut < len(steps) and type(step := steps[cut]) is not Submit:
            if isinstance(step, Repeat):
                loops.append(len(found))
            found.append(step)
            done = cut + 1
    for at in loops:
        loop = cast(Repeat, found[at])
        found[at] = replace(loop, starts=tuple([number[start] for start in loop.starts]), end=number[loop.end])
    return found


def submission_rings(schedule: Schedule) -> Iterator[tuple[int, int]]:
    """Pairs (submission, ring of the scope that submits it) of every submission, in order."""
    walk = StepWalk(schedule)
    for step in walk:
        if isinstance(step, Submit):
            yield step.submission, walk.rings[-1]
