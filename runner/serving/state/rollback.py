"""Tokens taken back: what they wrote over is put back, so that a call leaves what it would have left without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from runner.models.declared.pools import Kind, Request


def rows_of(tensor: torch.Tensor, kind: Kind) -> torch.Tensor:
    """A state as rows along its first dimension, by slot: a view."""
    rows = tensor.shape[kind.axis]
    if rows == kind.pages and kind.page > 1 and tensor.shape[kind.axis + 1 : kind.axis + 2] == (kind.page,):
        tensor = tensor.flatten(kind.axis, kind.axis + 1)
    return tensor.movedim(kind.axis, 0)


@dataclass
class Place:
    """A state as rows, and which of them each token of a call writes: i64[T], -1 for none."""

    rows: torch.Tensor
    slots: torch.Tensor


@dataclass
class Before:
    """What the tokens behind the first of each row of a call write over.

    `tokens` has the row, the place in the row and the place in the call of each; `requests` the request and start of each row.
    """

    tokens: Sequence[tuple[int, int, int]]
    places: Sequence[Place]
    requests: Sequence[tuple[Request, int]]
    _reached: list[int] = field(default_factory=list)
    _saved: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reached = [request.reached for request, _ in self.requests]
        at = torch.tensor([token for _, _, token in self.tokens], dtype=torch.int64)
        for place in self.places:
            slots = place.slots[at.to(place.slots.device)]
            self._saved.append(place.rows.index_select(0, slots.clamp(min=0)))

    def take_back(self, kept: Sequence[int]) -> None:
        """Of row i only the first `kept[i]` tokens count, of at least one; all others leave no trace."""
        gone = [number for number, (row, at, _) in enumerate(self.tokens) if at >= kept[row]]
        for (request, start), count, reached in zip(self.requests, kept, self._reached, strict=True):
            request.length = start + count
            request.reached = max(reached, request.length)
        if not gone:
            return
        which = torch.tensor(gone)
        calls = torch.tensor([self.tokens[number][2] for number in gone])
        for place, saved in zip(self.places, self._saved, strict=True):
            slots = place.slots[calls.to(place.slots.device)]
            wrote = (slots >= 0).nonzero().flatten()
            if wrote.numel():
                place.rows.index_copy_(0, slots[wrote], saved[which.to(saved.device)[wrote]])
