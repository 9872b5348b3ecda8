"""What of every kind of state a request owns: pages, who has them, and how far a request may go back.

A request owns up to `table` pages of `page` rows of each kind, from its admission to its release. All four kinds are this:

    paged       pages of a pool, a row for every `every` positions
    contiguous  one page, which holds all rows of the longest request
    ring        a fixed number of rows, position p in row p % rows; the newest `keeps` positions must be there
    running     one row, which every token rewrites

Nothing here knows tensors: `runner.serving.state` turns rows into the inputs of a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.base.errors import StateError


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of state under one configuration.

    kind    `paged`, `contiguous`, `ring` or `running`
    pages   of all requests; `unit` is how the declaration writes that number
    page    rows of a page
    table   pages that a request has at most
    every   positions of a row, where rows are not reused
    keeps   the newest positions whose rows must be there, in a ring
    holds   states of which it is, by name or glob, with pages along `axis`; `clear`: they are zeroed for a new request
    """

    name: str
    kind: str
    pages: int
    page: int
    table: int
    unit: str
    every: int = 1
    keeps: int = 0
    holds: tuple[str, ...] = ()
    axis: int = 0
    clear: bool = False

    @property
    def rows(self) -> int:
        """Rows of a request at most."""
        return self.table * self.page

    @property
    def grows(self) -> bool:
        """Whether every `every` positions take a row of their own."""
        return self.kind in ("paged", "contiguous")

    @property
    def rollback(self) -> int | None:
        """How many of its last positions a request may feed again, None for all: the first of them still needs `keeps` rows."""
        if self.grows:
            return None
        return self.rows - self.keeps + 1 if self.kind == "ring" else 0

    def pages_for(self, num_tokens: int) -> int:
        """Pages of a request of so many positions."""
        return -(-(num_tokens // self.every) // self.page) if self.kind == "paged" else self.table


class Pool:
    """Pages of one kind: which are free, and how often each was taken (its generation)."""

    def __init__(self, kind: Kind):
        self.kind = kind
        self.free = list(reversed(range(kind.pages)))
        self.generations = [0] * kind.pages

    def take(self, count: int) -> tuple[int, ...]:
        taken = tuple(self.free.pop() for _ in range(count))
        for page in taken:
            self.generations[page] += 1
        return taken

    def give(self, pages: Iterable[int]) -> None:
        self.free.extend(reversed(tuple(pages)))


@dataclass(slots=True)
class Request:
    """`length` positions were seen of at most `capacity`, `prompt_len` of them the prompt's; the pages that it owns by kind.

    `reached` is the most that `length` has been: where tokens were fed again, rows of a ring hold positions behind `length`.
    """

    capacity: int
    prompt_len: int
    pages: Mapping[str, tuple[int, ...]]
    length: int = 0
    reached: int = 0

    def move(self, length: int) -> None:
        """So many positions count as seen from here on."""
        self.length, self.reached = length, max(self.reached, length)


@dataclass
class Requests:
    """Every request admitted, by handle, and the pools that they share. `longest` is told by the name `longest_name`."""

    kinds: Sequence[Kind]
    longest: int | None = None
    longest_name: str = ""
    admitted: dict[int, Request] = field(default_factory=dict)
    next: int = 0

    def __post_init__(self) -> None:
        self.pools = {kind.name: Pool(kind) for kind in self.kinds}

    @property
    def rollback(self) -> int | None:
        """How many of its last positions a request may feed again, as decoding two tokens a step does; None for all."""
        limits = [kind.rollback for kind in self.kinds if kind.rollback is not None]
        return min(limits, default=None)

    def admit(self, num_tokens: int, prompt_len: int = 0) -> int:
        """A handle for a new request of at most `num_tokens` positions, with all pages that it can need.

        Raises StateError when that is less than 1 or more than the longest request has, the prompt is longer, or pages are short.
        """
        if num_tokens < 1:
            raise StateError(f"a request of {num_tokens:,} tokens cannot be admitted, expected at least 1")
        if not 0 <= prompt_len <= num_tokens:
            raise StateError(f"a prompt of {prompt_len:,} tokens in a request of {num_tokens:,}, expected 0 to {num_tokens:,}")
        if self.longest is not None and num_tokens > self.longest:
            raise StateError(
                f"a request of {num_tokens:,} tokens is longer than '{self.longest_name}' ({self.longest:,})",
                hint=_set(self.longest_name, num_tokens),
            )
        wanted = {name: pool.kind.pages_for(num_tokens) for name, pool in self.pools.items()}
        for name, count in wanted.items():
            self._require(self.pools[name], count, num_tokens)
        pages = {name: self.pools[name].take(count) for name, count in wanted.items()}
        handle, self.next = self.next, self.next + 1
        self.admitted[handle] = Request(num_tokens, prompt_len, pages)
        return handle

    def _require(self, pool: Pool, count: int, num_tokens: int) -> None:
        if count <= len(pool.free):
            return
        kind, left = pool.kind, len(pool.free)
        option = _set(kind.unit, kind.pages + count - left)
        raise StateError(
            f"no free pages: a request of {num_tokens:,} tokens needs {count} of pool '{kind.unit}', {left} of"
            f" {kind.pages} are free with {len(self.admitted)} requests admitted",
            hint="release a request" + (f", or {option}" if option else ""),
        )

    def release(self, handle: int) -> None:
        """Gives the pages of a request back."""
        for name, pages in self[handle].pages.items():
            self.pools[name].give(pages)
        del self.admitted[handle]

    def __getitem__(self, handle: int) -> Request:
        if handle not in self.admitted:
            raise StateError(f"no request has handle {handle}: it was released or never admitted")
        return self.admitted[handle]

    def check(self, handle: int, num_tokens: int, start: int) -> None:
        """Raises StateError unless a request can go on with `num_tokens` tokens from position `start` on."""
        request, rollback = self[handle], self.rollback
        first = 0 if rollback is None else max(request.reached - rollback, 0)
        if not first <= start <= request.length:
            raise StateError(
                f"request {handle} goes on at position {start}, expected {request.length}: so many tokens were seen of it"
            )
        if start + num_tokens > request.capacity:
            raise StateError(f"request {handle} reaches {start + num_tokens:,} tokens, but was admitted for {request.capacity:,}")


def _set(name: str, value: int) -> str | None:
    """The option that gives a field or dim a value; None for what is no name."""
    return f"--set {name}={value}" if name.isidentifier() else None
