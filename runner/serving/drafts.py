"""Tokens that a model proposes to itself: what a session needs for them beside its two programs.

What is proposed lies in the programs' own state. The session lets the graph that proposes follow every prefill call, gives a
decode call room for a draft, reads how many rows of each request count, and takes the others back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from runner.base.errors import ConfigError
from runner.models.protocols import Drafting, Row, Serving
from runner.program.program import Program
from runner.serving.stage import Stage

FOLLOWING = "drafts"
"""What the calls are called that follow prefill."""
NOTHING_YET = 0
"""Stands for a draft in a call's ids, until the graph puts in what was proposed."""


@dataclass
class Drafts:
    """The graph that follows prefill, what it is handed, and how many drafts were fed and how many of them counted."""

    drafting: Drafting
    stage: Stage
    sources: Mapping[str, int]
    """Inputs of the graph, each with the tensor of prefill's program that it gets."""
    fed: int = 0
    counted: int = 0
    handed: dict[str, torch.Tensor] = field(default_factory=dict)

    def keep(self, captured: Mapping[int, torch.Tensor]) -> None:
        """Takes over what a prefill call left for the graph that follows."""
        self.handed = {name: captured[tensor] for name, tensor in self.sources.items()}

    def with_drafts(self, rows: Sequence[Row], wanted: Sequence[int]) -> list[Row]:
        """The rows with room for a draft, those of requests of which more than one token is wanted."""
        return [
            (handle, (*tokens, NOTHING_YET) if more > 1 else tuple(tokens), start)
            for (handle, tokens, start), more in zip(rows, wanted, strict=True)
        ]

    def count(self, rows: Sequence[Row], kept: Sequence[int]) -> None:
        self.fed += sum(len(tokens) - 1 for _, tokens, _ in rows)
        self.counted += sum(kept) - len(rows)


def drafts_of(serving: Serving[Any], stages: Mapping[str, Stage]) -> Drafts | None:
    """What a session needs for drafts, by its stages; None where none are made. Raises ConfigError."""
    if serving.drafting is None:
        return None
    following = stages[FOLLOWING]
    return Drafts(serving.drafting, following, _sources(serving.drafting, stages["prefill"].program, following.program))


def _sources(drafting: Drafting, prefill: Program, following: Program) -> dict[str, int]:
    """The tensors of prefill's program that the graph which follows is handed; raises ConfigError where there is none."""
    found: dict[str, int] = {}
    for name, source in drafting.handed.items():
        tensors = [tensor for tensor in prefill.tensors if tensor.name == source]
        if not tensors or name not in following.inputs:
            what = f"no tensor called '{source}' in graph '{prefill.name}'" if not tensors else f"no input '{name}'"
            raise ConfigError(f"graph '{following.name}' cannot follow: {what}")
        spec = following.tensors[following.inputs[name]].spec
        if tensors[-1].spec != spec:
            raise ConfigError(
                f"input '{name}' of graph '{following.name}' is {spec}, but '{source}' of '{prefill.name}' is {tensors[-1].spec}"
            )
        found[name] = tensors[-1].id
    return found
