"""Prompts in, tokens out: prefill in chunks, then greedy decoding in ragged batches whose slots are refilled as requests end.

All ranks of a group go through the same phases, since every call of a graph may exchange rows between them: a rank without work
of its own takes part with idle tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from runner.base.errors import ExecutionError
from runner.execution.comm import Comm, LocalComm
from runner.serving.drafts import Drafts
from runner.serving.prompts import Prompt

_STOP, _DECODE, _PREFILL = 0, 1, 2


class Row(NamedTuple):
    """Tokens of one request in one call: `tokens[i]` is at position `start + i`. `handle` names the request's state."""

    handle: int
    tokens: tuple[int, ...]
    start: int


class Session(Protocol):
    """A model with state; see `runner.serving.session`."""

    @property
    def prefill_tokens(self) -> int:
        """Tokens of a prompt that one prefill call takes."""
        ...

    @property
    def batch(self) -> int:
        """Requests of one decode call."""
        ...

    @property
    def num_tasks(self) -> int:
        """Tasks run so far."""
        ...

    def admit(self, num_tokens: int, prompt_len: int) -> int:
        """State for a request of at most `num_tokens` positions, of which its prompt takes the first `prompt_len`."""
        ...

    def release(self, handle: int) -> None: ...

    def prefill(self, row: Row | None) -> torch.Tensor:
        """f32[len(row.tokens), V]; without a row the rank takes part idle."""
        ...

    def step(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """One decode call: f32[len(row.tokens), V] for each row."""
        ...


@runtime_checkable
class DraftSession(Protocol):
    """A session that may propose tokens to itself; see `runner.serving.session`."""

    drafts: Drafts | None

    def follow(self, row: Row | None) -> None:
        """After each prefill call: the tokens behind those that it read."""
        ...

    def advance(self, rows: Sequence[Row], wanted: Sequence[int]) -> list[torch.Tensor]:
        """One decode call: f32[n, V] for each row, of its token and of the drafts behind it that count."""
        ...


@dataclass
class Generation:
    """What became of one prompt. With `keep_logits`, `prefill_logits` is f32[S, V], one row a prompt token, and
    `decode_logits` has one f32[V] for every decode step: row i came from feeding `tokens[i]`."""

    prompt: Prompt
    tokens: list[int] = field(default_factory=list)
    prefill_logits: list[torch.Tensor] = field(default_factory=list)
    decode_logits: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums over one `generate`; `request_steps` counts a decode call once for each of its requests."""

    prompt_tokens: int
    new_tokens: int
    prefill_s: float
    decode_s: float
    prefill_calls: int
    decode_calls: int
    num_tasks: int
    request_steps: int = 0
    drafts_fed: int = 0
    drafts_accepted: int = 0

    @property
    def acceptance_rate(self) -> float | None:
        """How many of the drafts that were fed counted; None where none was fed."""
        return self.drafts_accepted / self.drafts_fed if self.drafts_fed else None

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens that a request gets of one decode call, on average."""
        return 1 + self.drafts_accepted / self.request_steps if self.request_steps else None


@dataclass
class _Request:
    generation: Generation
    handle: int
    prefilled: int = 0


class _Generator:
    """State of one `generate` call on one rank."""

    def __init__(
        self,
        session: Session,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        eos: Collection[int],
        keep_logits: bool,
        comm: Comm,
    ):
        self.session = session
        self.comm = comm
        self.generations = [Generation(tuple(prompt)) for prompt in prompts]
        self.waiting = list(reversed(self.generations))
        self.max_new_tokens = max_new_tokens
        self.eos = eos
        self.keep_logits = keep_logits
        self.filling: _Request | None = None
        self.active: list[_Request] = []
        self.drafting = session if isinstance(session, DraftSession) and session.drafts is not None else None
        self.request_steps = 0

    def wanted(self) -> int:
        """The phase that this rank needs next."""
        if self.filling is not None or (self.waiting and len(self.active) < self.session.batch):
            return _PREFILL
        return _DECODE if self.active else _STOP

    def prefill(self) -> None:
        """One chunk of one prompt, or idle."""
        if self.wanted() != _PREFILL:
            self.session.prefill(None)
            self.follow(None)
            return
        if self.filling is None:
            generation = self.waiting.pop()
            handle = self.session.admit(len(generation.prompt) + self.max_new_tokens, len(generation.prompt))
            self.filling = _Request(generation, handle)
        request = self.filling
        prompt, start = request.generation.prompt, request.prefilled
        chunk = prompt[start : start + self.session.prefill_tokens]
        logits = self.session.prefill(Row(request.handle, chunk, start))
        self.check(request, logits, start)
        request.prefilled += len(chunk)
        if self.keep_logits:
            request.generation.prefill_logits.append(logits)
        behind = prompt[start + 1 : start + len(chunk) + 1]
        if request.prefilled == len(prompt):
            self.filling = None
            self.active.append(request)
            self.choose(request, logits[-1])
            behind = (*behind, *request.generation.tokens[-1:])
        is_over = self.filling is None and all(request is not one for one in self.active)
        self.follow(None if is_over else Row(request.handle, behind, start))

    def follow(self, row: Row | None) -> None:
        """Where tokens are drafted, what is behind the tokens of the last prefill call."""
        if self.drafting is not None:
            self.drafting.follow(row)

    def decode(self) -> None:
        """One token of every active request, or more where drafts count."""
        active = list(self.active)
        rows = [
            Row(r.handle, (r.generation.tokens[-1],), len(r.generation.prompt) + len(r.generation.tokens) - 1) for r in active
        ]
        self.request_steps += len(rows)
        if self.drafting is None:
            found = self.session.step(rows)
        else:
            found = self.drafting.advance(rows, [self.max_new_tokens - len(r.generation.tokens) for r in active])
        for request, row, logits in zip(active, rows, found, strict=True):
            self.check(request, logits, row.start)
            for scores in logits:
                if all(request is not one for one in self.active):  # the token before ended it
                    break
                if self.keep_logits:
                    request.generation.decode_logits.append(scores)
                self.choose(request, scores)

    def check(self, request: _Request, logits: torch.Tensor, start: int) -> None:
        """Raises ExecutionError unless all logits, of positions from `start` on, are finite: of others no token can be chosen."""
        finite = logits.isfinite().all(dim=-1)
        if not finite.all():
            mine = next(n for n, generation in enumerate(self.generations) if generation is request.generation)
            raise ExecutionError(
                f"prompt {self.comm.rank + self.comm.size * mine}: the logits at position {start + int(finite.int().argmin())} "
                "are not finite",
                hint="a weight that holds such values is named by 'ringgraph checkpoint convert'",
            )

    def choose(self, request: _Request, logits: torch.Tensor) -> None:
        """Takes the likeliest token, unless the request has all it may; a request that is done gives back its state."""
        tokens = request.generation.tokens
        if len(tokens) < self.max_new_tokens:
            tokens.append(int(logits.argmax()))
        if len(tokens) >= self.max_new_tokens or tokens[-1] in self.eos:
            self.active.remove(request)
            self.session.release(request.handle)


def generate(
    session: Session,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    *,
    eos: Collection[int] = (),
    keep_logits: bool = False,
    comm: Comm | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Generation], Figures]:
    """Greedy tokens for every prompt of this rank, in order, each ended by `max_new_tokens` or a token of `eos`.

    `progress` is told the prompt tokens read and the tokens made so far. Raises ExecutionError where logits are not finite.
    """
    comm = comm or LocalComm()
    generator = _Generator(session, prompts, max_new_tokens, eos, keep_logits, comm)
    seconds, calls = [0.0, 0.0, 0.0], [0, 0, 0]
    tasks_before, (fed, accepted) = session.num_tasks, _drafts(generator)
    while (phase := _agreed(comm, generator.wanted())) != _STOP:
        start = perf_counter()
        if phase == _PREFILL:
            generator.prefill()
        else:
            generator.decode()
        seconds[phase] += perf_counter() - start
        calls[phase] += 1
        if progress is not None:
            progress(*_done(generator))
    read, made = _done(generator)
    tasks = session.num_tasks - tasks_before
    drafts = (now - before for now, before in zip(_drafts(generator), (fed, accepted), strict=True))
    times = seconds[_PREFILL], seconds[_DECODE], calls[_PREFILL], calls[_DECODE]
    return generator.generations, Figures(read, made, *times, tasks, generator.request_steps, *drafts)


def _drafts(generator: _Generator) -> tuple[int, int]:
    """Drafts that the session was fed so far, and those that counted."""
    drafts = None if generator.drafting is None else generator.drafting.drafts
    return (0, 0) if drafts is None else (drafts.fed, drafts.counted)


def _agreed(comm: Comm, wanted: int) -> int:
    """The phase that all ranks go through next: prefill if any needs it, else decode if any does."""
    if comm.size == 1:
        return wanted
    return int(comm.all_gather(torch.tensor([wanted])).max())


def _done(generator: _Generator) -> tuple[int, int]:
    """Prompt tokens read, tokens made."""
    waiting = set(map(id, generator.waiting))
    filling = generator.filling
    read = sum(len(g.prompt) for g in generator.generations if id(g) not in waiting)
    if filling is not None:
        read -= len(filling.generation.prompt) - filling.prefilled
    return read, sum(len(g.tokens) for g in generator.generations)
