"""Random small schedules for property tests, and a slow model of the rings written from the rules alone.

The model shares no code with `runner.rings.heap`: it keeps plain tuples and recomputes everything that it needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from runner.base.tensor_spec import round_up
from runner.recorded.programs import Builder
from runner.rings.schedule import Begin, End, Repeat, Schedule, Slot, Submission, Submit
from runner.rings.sizes import RingSizes

KIB = 1024


@st.composite
def programs(draw, max_depth=4, max_items=5, dynamic=False, sizes=(0, 1, 1024, 1025, 2048, 3000, 5000)):
    """A body of ("alloc", bytes), ("task", bytes, picks), ("scope", items), ("loop", trips, items), ("repeat", trips, items)."""

    def body(depth):
        kinds = ["alloc", "task", "task"] + ["scope", "loop"] * (depth < max_depth) + ["repeat"] * (dynamic and depth < max_depth)
        items = []
        for _ in range(draw(st.integers(3 if depth == 0 else 1, max_items))):
            kind = draw(st.sampled_from(kinds))
            if kind == "alloc":
                items.append((kind, draw(st.sampled_from(sizes))))
            elif kind == "task":
                items.append((kind, draw(st.sampled_from(sizes)), draw(st.lists(st.integers(0, 7), max_size=3))))
            elif kind == "scope":
                items.append((kind, body(depth + 1)))
            else:
                items.append((kind, draw(st.integers(1, 3)), body(depth + 1)))
        return items

    return body(0)


@dataclass
class _Build:
    builder: Builder
    trips: list[int] | None  # per dynamic loop met: how many of its trips to keep; None keeps all and notes Repeat steps
    met: int = 0

    def items(self, items, visible):
        visible = list(visible)
        for item in items:
            if item[0] == "alloc":
                visible.append(self.submit(item[1], ()))
            elif item[0] == "task":
                used = {visible[pick % len(visible)] for pick in item[2]} if visible else set()
                visible.append(self.submit(item[1], tuple(sorted(used)), "AIV"))
            elif item[0] == "scope":
                self.builder.begin("scope")
                self.items(item[1], visible)
                self.builder.end()
            elif item[0] == "loop":
                for _ in range(item[1]):
                    self.items(item[2], visible)
            else:
                self.repeat(item[1], item[2], visible)

    def repeat(self, trips, body, visible):
        if self.trips is not None:
            keep = self.trips[self.met % len(self.trips)] % (trips + 1)
            self.met += 1
            for _ in range(keep):
                self.items(body, visible)
            return
        at, starts = len(self.builder.steps), []
        self.builder.steps.append(Repeat((), None, (), 0))
        for _ in range(trips):
            starts.append(len(self.builder.steps))
            self.items(body, visible)
        self.builder.steps[at] = Repeat((), None, tuple(starts), len(self.builder.steps))

    def submit(self, size, used, core=None):
        index = len(self.builder.submissions)
        size = round_up(size)
        return self.builder.submit(Submission(f"s{index}", size, (Slot(index, 0, size, f"t{index}"),), used, used, core))


def build(items, trips=None) -> Schedule:
    """The schedule of a random program; `trips` picks how many trips of each dynamic loop are kept."""
    made = _Build(Builder(), trips)
    made.builder.begin("root")
    made.items(items, [])
    made.builder.end()
    return made.builder.schedule("random", "random")


def small_sizes(heap_kib, window=64) -> RingSizes:
    return RingSizes(tuple(KIB * h for h in heap_kib), (window,) * 4)


# --- the slow model ---------------------------------------------------------------------------------------------------


class Model:
    """Rules 3 to 7, recomputed from scratch: which steps are possible in a state, and what they lead to.

    A state is (next step, completed submissions, per ring (tail, top, restart)); `restart` is the submission that restarted
    the empty ring at 0 and has not been seen to retire, or None.
    """

    START = (0, frozenset(), ((0, 0, None),) * 4)

    def __init__(self, schedule: Schedule, sizes: RingSizes):
        self.schedule, self.sizes = schedule, sizes
        self.history = []  # per step index: (open scopes as [(scope, [submissions])], submissions per ring)
        open_scopes, rings = [], [[], [], [], []]
        for step in schedule.steps:
            self.history.append(([(s, list(m)) for s, m in open_scopes], [list(r) for r in rings]))
            if isinstance(step, Begin):
                open_scopes.append((step.scope, []))
            elif isinstance(step, End):
                open_scopes.pop()
            elif isinstance(step, Submit):
                open_scopes[-1][1].append(step.submission)
                rings[schedule.scopes[open_scopes[-1][0]].ring].append(step.submission)

    def retired(self, at, completed, ring):
        """How many of the ring's oldest submissions are consumed."""
        open_scopes, rings = self.history[at]
        pinned = {member for _, members in open_scopes for member in members}
        submitted = [s for r in rings for s in r]
        count = 0
        for s in rings[ring]:
            users = [u for u in submitted if s in self.schedule.submissions[u].holds]
            if s in pinned or s not in completed or any(u not in completed for u in users):
                break
            count += 1
        return count

    def completable(self, state):
        """Submitted tasks whose producers have completed."""
        at, completed, _ = state
        submitted = [s for r in self.history[at][1] for s in r]
        return [s for s in submitted if s not in completed and completed.issuperset(self.schedule.submissions[s].waits)]

    def place(self, state, ends):
        """The state after the next step, or None when it is a submission that has to wait; notes the block's end."""
        at, completed, rings = state
        step = self.schedule.steps[at]
        if not isinstance(step, Submit):
            return (at + 1, completed, rings), None
        open_scopes, ring_tasks = self.history[at]
        ring = self.schedule.scopes[open_scopes[-1][0]].ring
        tail, top, restart = rings[ring]
        gone = self.retired(at, completed, ring)
        if restart is not None and restart in ring_tasks[ring][:gone]:
            restart = None
        if gone and restart is None:
            tail = ends[ring_tasks[ring][gone - 1]]
        window, size = self.sizes.window[ring], self.sizes.heap[ring]
        n = self.schedule.submissions[step.submission].size_bytes
        if len(open_scopes[-1][1]) >= window - 1 or len(ring_tasks[ring]) - gone >= window - 1:
            return None
        if n == 0 or (top >= tail and size - top >= n):
            offset = top
        elif top >= tail and tail > n:
            offset = 0
        elif top == tail and n <= size:
            offset, tail, restart = 0, 0, step.submission
        elif top < tail and tail - top > n:
            offset = top
        else:
            return None
        ends[step.submission] = offset + n
        done = completed | {step.submission} if self.schedule.submissions[step.submission].core is None else completed
        moved = (*rings[:ring], (tail, offset + n, restart), *rings[ring + 1 :])
        return (at + 1, done, moved), offset

    def search(self, limit=20_000):
        """All outcomes over all interleavings: a set of "ok" and stuck submissions; None when there are too many states."""
        outcomes, seen, stack, ends = set(), set(), [self.START], {}
        while stack:
            state = stack.pop()
            if state in seen:
                continue
            seen.add(state)
            if len(seen) > limit:
                return None
            if state[0] == len(self.schedule.steps):
                outcomes.add("ok")
                continue
            moves = [(state[0], state[1] | {s}, state[2]) for s in self.completable(state)]
            placed = self.place(state, ends)
            if placed is not None:
                moves.append(placed[0])
            if not moves:
                outcomes.add(self.schedule.steps[state[0]].submission)
            stack.extend(moves)
        return outcomes
