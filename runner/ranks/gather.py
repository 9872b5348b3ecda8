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
from runner.serving.generate import Figures, Generation
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
        request_steps=round(total["request_steps"]),
        drafts_fed=round(total["drafts_fed"]),
        drafts_accepted=round(total["drafts_accepted"]),
    )
