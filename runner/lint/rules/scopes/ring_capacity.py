"""G319 tells scopes whose blocks cannot lie in their ring at the same time."""

from __future__ import annotations

from dataclasses import dataclass

from runner.lint.look import Look
from runner.lint.rule import Description, Rule
from runner.program.program import Span, Task
from runner.rings.schedule import NUM_RINGS, ring_of


@dataclass(slots=True)
class _Held:
    """Bytes that an open span holds until the scope around it closes, and the most that inner scopes add on the same ring."""

    held: int = 0
    inner: int = 0


class RingCapacity(Rule):
    """The rule adds up blocks from the inside out, and compares them at each scope and at the root with the ring's bytes."""

    about = Description(
        "G319",
        "scope that cannot fit its ring",
        "What a scope allocates stays until it closes, so it must fit the ring all at once.",
    )

    def __init__(self, look: Look):
        super().__init__(look)
        self.heap = look.ring_heap or ()
        self.depth = 0
        self.open = [_Held()]
        self.arenas: dict[str | None, int] = {arena.path: arena.size_bytes for arena in look.program.arenas}

    @classmethod
    def is_wanted(cls, look: Look) -> bool:
        return look.ring_heap is not None and super().is_wanted(look)

    def enter(self, span: Span) -> None:
        self.depth += span.kind == "scope"
        path = {"root": "", "use": span.path}.get(span.kind)
        self.open.append(_Held(self.arenas.get(path, 0)))

    def task(self, task: Task) -> None:
        if task.creates:
            self.open[-1].held += self.look.block_bytes(task)

    def leave(self, span: Span) -> None:
        done, around = self.open.pop(), self.open[-1]
        if span.kind == "dynamic" and span.items and span.trips is not None:
            done.held = done.held // len(span.items) * span.trips.bound  # lint expands a few trips of each dynamic loop
        if span.kind in ("scope", "root"):
            done = _Held(max(done.held, done.inner))
            self._compare(span, done.held)
        self.depth -= span.kind == "scope"
        if span.kind != "scope":
            around.inner = max(around.inner, around.held + done.inner)
            around.held += done.held
        elif self.depth >= NUM_RINGS - 1:
            around.inner = max(around.inner, around.held + done.held)

    def _compare(self, span: Span, size_bytes: int) -> None:
        ring = ring_of(self.depth)
        if size_bytes > self.heap[ring]:
            what = f"scope '{span.path}'" if span.kind == "scope" else "the graph outside of all scopes"
            message = f"{what} allocates {size_bytes:,} bytes before it closes, but ring {ring} has {self.heap[ring]:,}"
            self.tell(message, span.mark, "put a scope around a part of it, or give the ring more bytes")
