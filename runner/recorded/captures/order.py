"""This module finds in which order a capture's submissions were made, and in which scope each of them lies.

Between two records of scope stats, in a *gap*, every submission belongs to the innermost open scope, so all of a gap are of one
ring, in the order of their numbers. Orchestrator records give the order of all submissions. Without them the tasks of deps.json
stand in order, and allocs, which are not among them, are the numbers that a ring lacks: such a *hole* is put into the last gap
that its number, the counts of the records and its first user allow, into the first where no edge names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.base.errors import ScheduleError
from runner.recorded.captures.files import Capture, ScopeMark, number_of_id, ring_of_id
from runner.recorded.recording import RecordedScope
from runner.rings.schedule import NUM_RINGS, Begin, End, Step, Submit, ring_of


@dataclass(frozen=True, slots=True)
class Ordered:
    """A capture's submissions in order, and its scopes.

    `ids` are task ids, `scope_of` their scopes; `steps` submits indices into `ids`. `heads` are the bytes at which a ring's head
    stood: `(ring, submissions of that ring before it, bytes)`. `gap_of` are the gaps of submissions; `is_told`
    says whether the order of all is a fact.
    """

    ids: tuple[int, ...]
    scopes: tuple[RecordedScope, ...]
    scope_of: tuple[int, ...]
    steps: tuple[Step, ...]
    open_scopes: tuple[int, ...]
    heads: tuple[tuple[int, int, int], ...]
    estimated: tuple[str, ...]
    gap_of: tuple[int, ...]
    is_told: bool


def ordered(capture: Capture) -> Ordered:
    """The order of a capture's submissions and the scopes around them; raises ScheduleError where the files disagree."""
    gaps = _Gaps(capture.marks)
    known, estimated = _known(capture)
    gap_of = gaps.place(known, str(capture.folder))
    holes = _holes(capture, known)
    if holes:
        gaps.place_holes(holes, gap_of, _first_uses(capture, gap_of))
    ids = sorted(gap_of, key=lambda task: (gap_of[task], number_of_id(task)))
    if holes:
        estimated.append(
            f"the order of {len(holes):,} allocs: no orchestrator record tells it, so each stands as late as its number on its"
            " ring, the scopes and its first user allow"
        )
    if empty := gaps.empty_scopes(gap_of):
        estimated.append(f"where {empty:,} scopes without submissions lie among the submissions of the scope around them")
    scopes = gaps.scopes(_manual_scopes(capture, gaps, gap_of))
    per_gap: dict[int, list[int]] = {}
    for index, task in enumerate(ids):
        per_gap.setdefault(gap_of[task], []).append(index)
    return Ordered(
        tuple(ids),
        scopes,
        tuple(gaps.innermost[gap_of[task]] for task in ids),
        tuple(gaps.steps(per_gap)),
        tuple(gaps.innermost_at_end),
        tuple((mark.ring, mark.num_tasks, mark.heap_head) for mark in capture.marks),
        tuple(estimated),
        tuple(gap_of[task] for task in ids),
        not holes,
    )


def _known(capture: Capture) -> tuple[list[int], list[str]]:
    """Submissions whose order is told, in order: all of them by the orchestrator's records, else those with a kernel."""
    order = list(capture.times.order) if capture.times is not None else []
    tasks = [task.id for task in capture.tasks] if capture.tasks is not None else []
    if order and set(tasks) <= set(order) and len(set(order)) == len(order):
        return order, []
    why = "the orchestrator's records lack some tasks" if order else "there are no orchestrator records (swimlane level 4)"
    if tasks:
        return tasks, [f"submission order: {why}, so it is that of the tasks in deps.json"]
    if capture.times is not None and capture.times.start_us:
        starts = capture.times.start_us
        return sorted(starts, key=lambda task: (starts[task], task)), [f"submission order: {why}, and deps.json is missing"]
    return [], [f"submission order: {why}, and deps.json is missing"]


def _counts(capture: Capture, known: Iterable[int]) -> list[int]:
    """How many submissions each ring got."""
    counts = [0] * NUM_RINGS
    for mark in capture.marks:
        counts[mark.ring] = max(counts[mark.ring], mark.num_tasks)
    for task in (*known, *(edge.first for edge in capture.edges)):
        counts[ring_of_id(task)] = max(counts[ring_of_id(task)], number_of_id(task) + 1)
    return counts


def _holes(capture: Capture, known: Iterable[int]) -> list[int]:
    present = set(known)
    counts = _counts(capture, present)
    every = (ring << 32 | number for ring in range(NUM_RINGS) for number in range(counts[ring]))
    return [task for task in every if task not in present]


def _first_uses(capture: Capture, gap_of: Mapping[int, int]) -> dict[int, int]:
    """The gap in which each submission is first named by an edge."""
    found: dict[int, int] = {}
    for edge in capture.edges:
        if edge.second in gap_of:
            found[edge.first] = min(found.get(edge.first, gap_of[edge.second]), gap_of[edge.second])
    return found


def _manual_scopes(capture: Capture, gaps: _Gaps, gap_of: Mapping[int, int]) -> set[int]:
    return {gaps.innermost[gap_of[task.id]] for task in capture.tasks or () if task.manual and task.id in gap_of}


class _Gaps:
    """The gaps between records: gap k follows record k."""

    def __init__(self, marks: Sequence[ScopeMark]) -> None:
        self.marks = marks
        self.innermost: list[int] = []  # per gap its scope, -1 behind the root's end
        self.depths: list[int] = []  # per scope
        self.sites: list[str] = []
        self.around: list[int] = []  # per scope the scope around it, -1 for the root
        open_scopes: list[int] = []
        for mark in marks:
            if mark.begins:
                self._open(mark, open_scopes)
            else:
                self._close(mark, open_scopes)
            self.innermost.append(open_scopes[-1] if open_scopes else -1)
        if not marks:
            raise ScheduleError("no scope was recorded: scope_stats.jsonl has no records")
        self.innermost_at_end = open_scopes

    def _open(self, mark: ScopeMark, open_scopes: list[int]) -> None:
        if mark.depth != len(open_scopes) or mark.ring != ring_of(mark.depth) or (self.depths and not open_scopes):
            got = f"{mark.where}: {mark.site} begins at depth {mark.depth} on ring {mark.ring}"
            raise ScheduleError(f"{got}, expected depth {len(open_scopes)} on ring {ring_of(len(open_scopes))}")
        self.around.append(open_scopes[-1] if open_scopes else -1)
        open_scopes.append(len(self.depths))
        self.depths.append(mark.depth)
        self.sites.append(mark.site)

    def _close(self, mark: ScopeMark, open_scopes: list[int]) -> None:
        if not open_scopes or self.depths[open_scopes[-1]] != mark.depth or self.sites[open_scopes[-1]] != mark.site:
            inner = f"{self.sites[open_scopes[-1]]} is the innermost open scope" if open_scopes else "no scope is open"
            raise ScheduleError(f"{mark.where}: {mark.site} ends at depth {mark.depth}, but {inner}")
        open_scopes.pop()

    def ring(self, gap: int) -> int:
        return ring_of(self.depths[self.innermost[gap]]) if self.innermost[gap] >= 0 else -1

    def place(self, known: Sequence[int], where: str) -> dict[int, int]:
        """The gap of each submission, given in order: as many go into a gap as its ring and the next record allow."""
        found: dict[int, int] = {}
        at = 0
        limits: list[int | None] = [None] * NUM_RINGS  # per ring the count at its next record
        limit_of: list[int | None] = []
        for gap in range(len(self.marks) - 1, -1, -1):
            limit_of.append(limits[self.ring(gap)])
            limits[self.marks[gap].ring] = self.marks[gap].num_tasks
        for gap, limit in enumerate(reversed(limit_of)):
            ring = self.ring(gap)
            while at < len(known) and ring_of_id(known[at]) == ring and (limit is None or number_of_id(known[at]) < limit):
                found[known[at]] = gap
                at += 1
        if at < len(known):
            ring, number = ring_of_id(known[at]), number_of_id(known[at])
            raise ScheduleError(
                f"{where}: task {number} of ring {ring} fits no scope of scope_stats.jsonl: the files are not of one run, or its"
                " records are not complete"
            )
        return found

    def place_holes(self, holes: Sequence[int], gap_of: dict[int, int], first_use: Mapping[int, int]) -> None:
        """Adds the gaps of submissions whose order is not told, from the last of each ring to the first."""
        for ring in range(NUM_RINGS):
            gaps = [gap for gap in range(len(self.marks)) if self.ring(gap) == ring]
            counts = [(k, mark.num_tasks) for k, mark in enumerate(self.marks) if mark.ring == ring]
            behind = {number_of_id(task): gap for task, gap in gap_of.items() if ring_of_id(task) == ring}
            latest = len(self.marks)
            last = max([*behind, *(number_of_id(t) for t in holes if ring_of_id(t) == ring)], default=-1)
            lowest: list[int] = []  # per number the first gap that the submissions before it allow
            for number in range(last + 1):
                lowest.append(max([behind.get(number, 0), lowest[-1] if lowest else 0]))
            for number in range(last, -1, -1):
                if number not in behind:
                    low = max([lowest[number], *(k for k, count in counts if count <= number)])
                    high = min([latest, *(k - 1 for k, count in counts if count > number)])
                    allowed = [gap for gap in gaps if low <= gap <= high]
                    if not allowed:
                        raise ScheduleError(
                            f"submission {number} of ring {ring} fits no scope of scope_stats.jsonl: deps.json names what was not"
                            " recorded, or the files are not of one run"
                        )
                    used = first_use.get(ring << 32 | number, -1)  # what no edge names may be used in a manual scope: early
                    behind[number] = max((gap for gap in allowed if gap <= used), default=allowed[0])
                    gap_of[ring << 32 | number] = behind[number]
                latest = behind[number]

    def empty_scopes(self, gap_of: Mapping[int, int]) -> int:
        """How many scopes have no submission inside, but lie in one that has."""
        full: set[int] = set()
        for gap in set(gap_of.values()):
            scope = self.innermost[gap]
            while scope >= 0 and scope not in full:
                full.add(scope)
                scope = self.around[scope]
        return sum(scope not in full and self.around[scope] in full for scope in range(len(self.depths)))

    def scopes(self, manual: set[int]) -> tuple[RecordedScope, ...]:
        modes: list[str] = []
        for scope, around in enumerate(self.around):
            modes.append("manual" if scope in manual or (around >= 0 and modes[around] == "manual") else "auto")
        return tuple(RecordedScope(*fields) for fields in zip(self.sites, self.depths, modes, strict=True))

    def steps(self, per_gap: Mapping[int, Sequence[int]]) -> Iterable[Step]:
        """Begins, ends and submissions in order; scopes that the run left open are not ended."""
        begun, open_scopes = 0, []
        for gap, mark in enumerate(self.marks):
            if mark.begins:
                open_scopes.append(begun)
                yield Begin(begun)
                begun += 1
            else:
                yield End(open_scopes.pop())
            for submission in per_gap.get(gap, ()):
                yield Submit(submission)
