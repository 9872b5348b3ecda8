"""This module says how ranks of one group talk: the protocol that ops see, and the group of one.

Every rank makes the same calls in the same order; a call is itself the only synchronisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch


class Comm(Protocol):
    """A group of `size` ranks, of which this is `rank`."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """Every rank's `x`, all of one shape and dtype: [size, *x.shape], by rank."""
        ...

    def all_to_all(self, x: torch.Tensor, send_rows: Sequence[int], recv_rows: Sequence[int]) -> torch.Tensor:
        """Rows of `x` [sum(send_rows), ...] in order of their destination rank, exchanged.

        `send_rows[r]` rows go to rank r, `recv_rows[r]` rows come from it; the result is [sum(recv_rows), ...], by source rank.
        Both sides must agree on the number: ranks exchange counts first.
        """
        ...


class LocalComm:
    """A group of one rank."""

    rank = 0
    size = 1

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(0)

    def all_to_all(self, x: torch.Tensor, send_rows: Sequence[int], recv_rows: Sequence[int]) -> torch.Tensor:
        assert list(send_rows) == list(recv_rows) == [x.shape[0]], "a rank that sends to itself receives what it sent"
        return x
