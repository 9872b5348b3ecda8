"""Ranks in processes of their own, on `torch.distributed`: gloo between CPUs, nccl or hccl between accelerators.

Only bytes are moved, nothing is added up on the way, so results do not depend on the backend or on who comes first.

A call that fails because another rank is gone or does not answer raises `PeerError`, which names that rank: see `notes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.distributed as dist

from runner.ranks.notes import Notes, PeerError


class TorchComm:
    """The default process group as a `Comm`.

    Args:
        notes: what its ranks tell each other when one fails.
        timeout_s: how long an exchange may take.
        staged: exchange through host memory, for devices whose backend cannot (several ranks on one GPU).
    """

    def __init__(self, notes: Notes, timeout_s: float, staged: bool = False):
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.notes = notes
        self._timeout_s = timeout_s
        self._staged = staged

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """Every rank's `x`, all of one shape and dtype: [size, *x.shape], by rank. Raises PeerError."""
        if not x.numel():
            return x.new_empty(self.size, *x.shape)
        sent = self._bytes(x)
        gathered = sent.new_empty(self.size * len(sent))
        self.notes.entered += 1
        try:
            dist.all_gather_single(gathered, sent)
        except RuntimeError as error:
            raise self._blame(error) from error
        return gathered.view(x.dtype).view(self.size, *x.shape).to(x.device)

    def all_to_all(self, x: torch.Tensor, send_rows: Sequence[int], recv_rows: Sequence[int]) -> torch.Tensor:
        """Rows of `x` in order of their destination rank, exchanged; see `Comm`. Raises PeerError."""
        assert sum(send_rows) == len(x), f"{len(x)} rows are given, but {sum(send_rows)} are to be sent"
        received_shape = (sum(recv_rows), *x.shape[1:])
        row_bytes = prod(x.shape[1:]) * x.element_size()
        if not row_bytes:
            return x.new_empty(received_shape)
        sent = self._bytes(x).view(len(x), row_bytes)
        received = sent.new_empty(sum(recv_rows), row_bytes)
        self.notes.entered += 1
        try:
            dist.all_to_all_single(received, sent, list(recv_rows), list(send_rows))
        except RuntimeError as error:
            raise self._blame(error) from error
        return received.flatten().view(x.dtype).view(received_shape).to(x.device)

    def barrier(self) -> None:
        """Returns when every rank has come here. Raises PeerError."""
        self.notes.entered += 1
        try:
            dist.barrier()
        except RuntimeError as error:
            raise self._blame(error) from error

    def _bytes(self, x: torch.Tensor) -> torch.Tensor:
        """`x` as flat bytes, which every backend takes, where the backend finds them."""
        flat = x.contiguous().flatten().view(torch.uint8)
        return flat.cpu() if self._staged else flat

    def _blame(self, error: RuntimeError) -> PeerError:
        """What the ranks together know about why an exchange failed."""
        problem = f"the connection between ranks failed: {_first_line(error)}"
        text = str(error).lower()
        return self.notes.blame(problem, self._timeout_s if "timed out" in text or "timeout" in text else None)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
