"""Ranks in processes of their own, on `torch.distributed`: gloo between CPUs, nccl or hccl between accelerators.

Only bytes are moved, nothing is added up on the way, so results do not depend on the backend or on who comes first.

A call that fails because another rank is gone or does not answer raises `PeerError`. Which rank that was no backend says, so
every rank that fails leaves a note in the group's store; a rank without a note, a moment later, is the one that is missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from math import prod

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from runner.base.errors import ExecutionError

NOTE_S = 1.5
"""How long a rank whose exchange failed waits for the other ranks' notes, at most; ranks fail at nearly the same time."""


class PeerError(ExecutionError):
    """An exchange failed because of another rank; `.silent` are the ranks that let the time run out."""

    def __init__(self, message: str, silent: Sequence[int] = (), hint: str | None = None):
        super().__init__(message, hint=hint)
        self.silent = tuple(silent)


class TorchComm:
    """The default process group as a `Comm`, and host-side notes between its ranks.

    Args:
        store: where notes are left; shared by all ranks.
        timeout_s: how long an exchange may take.
        staged: exchange through host memory, for devices whose backend cannot (several ranks on one GPU).
    """

    def __init__(self, store: Store, timeout_s: float, staged: bool = False):
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._store = PrefixStore("ringgraph", store)
        self._store.set_timeout(timedelta(seconds=NOTE_S))
        self._timeout_s = timeout_s
        self._staged = staged

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """Every rank's `x`, all of one shape and dtype: [size, *x.shape], by rank. Raises PeerError."""
        if not x.numel():
            return x.new_empty(self.size, *x.shape)
        sent = self._bytes(x)
        gathered = sent.new_empty(self.size * len(sent))
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
        try:
            dist.all_to_all_single(received, sent, list(recv_rows), list(send_rows))
        except RuntimeError as error:
            raise self._blame(error) from error
        return received.flatten().view(x.dtype).view(received_shape).to(x.device)

    def barrier(self) -> None:
        """Returns when every rank has come here. Raises PeerError."""
        try:
            dist.barrier()
        except RuntimeError as error:
            raise self._blame(error) from error

    def _bytes(self, x: torch.Tensor) -> torch.Tensor:
        """`x` as flat bytes, which every backend takes, where the backend finds them."""
        flat = x.contiguous().flatten().view(torch.uint8)
        return flat.cpu() if self._staged else flat

    # --- whose fault a failure is ---

    def leave_note(self, text: str) -> None:
        """Tells the other ranks that this one has failed, and why; the first note stands."""
        try:
            self._store.compare_set(f"note/{self.rank}", "", text)
        except RuntimeError:
            return  # the store's own rank is gone: nobody to tell

    def notes(self) -> dict[int, str]:
        """The notes that other ranks left."""
        found = {}
        for rank in range(self.size):
            try:
                if rank != self.rank and self._store.check([f"note/{rank}"]):
                    found[rank] = self._store.get(f"note/{rank}").decode()
            except RuntimeError:
                break
        return found

    def _blame(self, error: RuntimeError) -> PeerError:
        """What other ranks know about why an exchange failed."""
        self.leave_note("")
        deadline = time.monotonic() + NOTE_S
        notes = self.notes()
        while len(notes) < self.size - 1 and not any(notes.values()) and time.monotonic() < deadline:
            time.sleep(0.05)
            notes = self.notes()
        for rank, note in sorted(notes.items()):
            if note:
                return PeerError(f"rank {rank} failed: {note}")
        silent = [rank for rank in range(self.size) if rank != self.rank and rank not in notes]
        if not silent:
            return PeerError(f"the connection between ranks failed: {_first_line(error)}")
        if "timed out" in str(error).lower() or "timeout" in str(error).lower():
            hint = "raise --timeout-s if it was only slow"
            return PeerError(f"{ranks_text(silent)} did not answer within {self._timeout_s:g} s", silent, hint)
        return PeerError(f"{ranks_text(silent)} closed the connection without a word")


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def ranks_text(ranks: Sequence[int]) -> str:
    """`rank 3`, `ranks 0-2, 5`."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    text = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
    return f"rank {text}" if len(ranks) == 1 else f"ranks {text}"
