"""Generation over ranks: prompts are spread, results come back in order to rank 0, and what ranks must agree on is checked.

    mine = prompts[comm.rank :: comm.size]
    found, figures = generate(session, mine, ...)          # on every rank
    everything = gathered(comm, found, prompts)            # on rank 0, None elsewhere

With a group of one all of this is the identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from safetensors.torch import load, save

from runner.base.errors import RinggraphError
from runner.execution.comm import Comm
from runner.models.deepseek_v4.recorded_routing import RoutedCall, RoutingTable
from runner.program.program import Program
from runner.ranks.reports import Place
from runner.serving.generate import Figures, Generation, Row, Session
from runner.serving.prompts import Prompt


def check_alike(comm: Comm, facts: Mapping[str, Any]) -> None:
    """Raises RinggraphError, on every rank alike, unless `facts` (what JSON can say) are the same on all ranks."""
    digests = [hashlib.sha256(json.dumps(fact, sort_keys=True, default=str).encode()).digest()[:8] for fact in facts.values()]
    mine = torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)
    every = comm.all_gather(mine)
    for at, name in enumerate(facts):
        other = next((rank for rank in range(comm.size) if every[rank, at] != every[0, at]), None)
        if other is not None:
            raise RinggraphError(f"rank {other} has another {name} than rank 0", hint="start every rank with the same command")


def gather_bytes(comm: Comm, data: bytes) -> list[bytes]:
    """Every rank's `data` by rank, on rank 0; an empty list elsewhere."""
    sizes = comm.all_gather(torch.tensor([len(data)])).flatten().tolist()
    send = [len(data) if rank == 0 else 0 for rank in range(comm.size)]
    receive = sizes if comm.rank == 0 else [0] * comm.size
    rows = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    received = comm.all_to_all(rows, send, receive)
    return [part.numpy().tobytes() for part in received.split(receive)] if comm.rank == 0 else []


def gathered(comm: Comm, mine: Sequence[Generation], prompts: Sequence[Prompt]) -> list[Generation] | None:
    """What all ranks made, in the order of `prompts`, on rank 0; None elsewhere. Rank r has prompts r, r + size, ..."""
    if comm.size == 1:
        return list(mine)
    tensors = {}
    for at, generation in enumerate(mine):
        tensors[f"{at}.tokens"] = torch.tensor(generation.tokens, dtype=torch.int64)
        for name in ("prefill_logits", "decode_logits"):
            for part, logits in enumerate(getattr(generation, name)):
                tensors[f"{at}.{name}.{part}"] = logits.contiguous().clone()
    every = [load(data) for data in gather_bytes(comm, save(tensors))]
    if comm.rank != 0:
        return None
    return [_generation(every[i % comm.size], i // comm.size, tuple(prompt)) for i, prompt in enumerate(prompts)]


def _generation(tensors: Mapping[str, torch.Tensor], at: int, prompt: Prompt) -> Generation:
    def parts(name: str) -> list[torch.Tensor]:
        found = []
        while (key := f"{at}.{name}.{len(found)}") in tensors:
            found.append(tensors[key])
        return found

    return Generation(prompt, tensors[f"{at}.tokens"].tolist(), parts("prefill_logits"), parts("decode_logits"))


def total_figures(comm: Comm, mine: Figures) -> Figures:
    """Tokens and tasks of all ranks together; times of the slowest. Calls are the same on every rank."""
    names = [field.name for field in fields(Figures)]
    every = comm.all_gather(torch.tensor([float(getattr(mine, name)) for name in names], dtype=torch.float64))
    total, most = (dict(zip(names, of.tolist(), strict=True)) for of in (every.sum(dim=0), every.amax(dim=0)))
    return Figures(
        prompt_tokens=round(total["prompt_tokens"]),
        new_tokens=round(total["new_tokens"]),
        prefill_s=most["prefill_s"],
        decode_s=most["decode_s"],
        prefill_calls=mine.prefill_calls,
        decode_calls=mine.decode_calls,
        num_tasks=round(total["num_tasks"]),
    )


class PlacedSession:
    """A session that says which call it is in, for the launcher to tell where a rank was lost."""

    def __init__(self, session: Session, place: Place):
        self._session = session
        self._place = place
        self._calls = {"prefill": 0, "decode": 0}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def prefill(self, row: Row | None) -> torch.Tensor:
        self._enter("prefill")
        return self._session.prefill(row)

    def step(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        self._enter("decode")
        return self._session.step(rows)

    def _enter(self, phase: str) -> None:
        self._place.phase(f"{phase} call {self._calls[phase]}")
        self._calls[phase] += 1


class RoutingRecorder:
    """A session that keeps which experts each token chose.

    `indices` are the tensors with the choices, i32[T, K], by stage and layer; `capture` hands in their copies after a call.
    """

    def __init__(self, session: Session, comm: Comm, programs: Mapping[str, Program], num_experts: int, topk: int, seq: int):
        self._session = session
        self._comm = comm
        self._seq = {"prefill": 0, "decode": seq}
        self._indices = {stage: routed_tensors(program) for stage, program in programs.items()}
        self._num_experts, self._topk = num_experts, topk
        self._prompts: dict[int, int] = {}
        self._num_calls = 0
        self._calls: list[RoutedCall] = []
        self._captured: Mapping[int, torch.Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    @property
    def wanted(self) -> dict[str, list[int]]:
        """Tensors to be captured, by stage."""
        return {stage: list(indices.values()) for stage, indices in self._indices.items()}

    def capture(self, stage: str, program: Program, captured: Mapping[int, torch.Tensor]) -> None:
        """Takes the copies that the last call made."""
        self._captured = captured

    def admit(self, num_tokens: int, prompt_len: int) -> int:
        handle = self._session.admit(num_tokens, prompt_len)
        self._prompts[handle] = self._comm.rank + self._comm.size * len(self._prompts)  # admitted in order
        return handle

    def prefill(self, row: Row | None) -> torch.Tensor:
        logits = self._session.prefill(row)
        self._record("prefill", [] if row is None else [row])
        return logits

    def step(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        logits = self._session.step(rows)
        self._record("decode", rows)
        return logits

    def _record(self, stage: str, rows: Sequence[Row]) -> None:
        at = [i * self._seq[stage] + j for i, row in enumerate(rows) for j in range(len(row.tokens))]
        if at:
            tokens = tuple((self._prompts[row.handle], row.start + j) for row in rows for j in range(len(row.tokens)))
            experts = {
                layer: tuple(map(tuple, self._captured[tensor][at].tolist())) for layer, tensor in self._indices[stage].items()
            }
            self._calls.append(RoutedCall(self._num_calls, stage, self._comm.rank, tokens, experts))
        self._num_calls += 1

    def table(self) -> RoutingTable | None:
        """All ranks' calls, on rank 0; None elsewhere."""
        calls = self._calls
        lines = [[c.call, c.phase, c.rank, c.tokens, list(c.experts.items())] for c in calls]
        every = gather_bytes(self._comm, json.dumps(lines).encode())
        if self._comm.rank != 0:
            return None
        found = [_routed_call(line) for data in every for line in json.loads(data)]
        found.sort(key=lambda call: (call.call, call.rank))
        return RoutingTable(self._num_experts, self._topk, self._comm.size, tuple(found))


def _routed_call(line: Sequence[Any]) -> RoutedCall:
    call, phase, rank, tokens, experts = line
    chosen = {layer: tuple(map(tuple, routes)) for layer, routes in experts}
    return RoutedCall(call, phase, rank, tuple((prompt, position) for prompt, position in tokens), chosen)


def routed_tensors(program: Program) -> dict[int, int]:
    """The tensor with the chosen experts i32[T, K] of every layer: what `dispatch` sends by."""
    return {int(str(t.attrs["layer"])): t.operands["indices"].tensor for t in program.tasks if t.op == "dispatch"}
