"""What ranks tell each other when one of them fails, through the store that all share.

A backend says that an exchange failed, not whose fault it was. So every rank that fails leaves a note, and a thread of every
rank answers the first note with how far its rank has come. A note with a cause names the culprit; without one, it is the rank
that does not answer, or that never entered the exchange that the others wait in. The first verdict stands, and all ranks tell it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from torch.distributed.distributed_c10d import PrefixStore, Store

from runner.base.errors import ExecutionError

T = TypeVar("T")

NOTE_S = 3.0
"""How long a rank whose exchange failed waits for the notes and answers of the others, at most."""

LINGER_S = 6.0
"""How long a failed rank that holds the store stays for the others to read it, at most."""

STORE_S = 10.0
"""How long the store may take to answer; where the rank that holds it is stopped, it never does."""

POLL_S = 0.2
"""How often a rank looks for the first note."""


class PeerError(ExecutionError):
    """An exchange failed because of other ranks, `.blamed`; `.silent` are those that let the time run out."""

    def __init__(self, message: str, blamed: Sequence[int], silent: Sequence[int] = (), hint: str | None = None):
        super().__init__(message, hint=hint)
        self.blamed = tuple(blamed)
        self.silent = tuple(silent)


class Notes:
    """The notes of the ranks of one group, as one rank leaves and reads them.

    Args:
        store: shared by all ranks.
        holder: the rank that the store ends with, which has to stay until the others have read it; None where it outlives all.
    """

    def __init__(self, store: Store, rank: int, size: int, holder: int | None = None):
        self.rank = rank
        self.size = size
        self.entered = 0
        """Exchanges that this rank has begun."""
        self._store = PrefixStore("ringgraph", store)
        self._holder = holder
        self._failed = False
        self._gone = False  # the store does not answer any more
        self._found: dict[str, str] = {}
        self._stopped = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="ringgraph-notes", daemon=True)

    # --- while all is well ---

    def listen(self) -> None:
        """From here on the first note is answered, whatever this rank is busy with."""
        self._listener.start()

    def close(self) -> None:
        """All is well and no rank exchanges any more; the rank that holds the store leaves last."""
        self._stopped.set()
        self._listener.join(STORE_S)
        self._tell(f"done/{self.rank}", "yes")
        if self._holder == self.rank:
            self._await("done", range(self.size))

    # --- when something is not ---

    def leave(self, text: str) -> None:
        """Tells the other ranks that this one has failed, and why ("": it only knows that an exchange failed)."""
        self._failed = True
        self._tell(f"note/{self.rank}", text)
        self._tell("failed", "yes")

    def known(self) -> PeerError | None:
        """What is known of why the group failed: a rank's own word, else the verdict of the first that knew."""
        for rank in self._others():
            if note := self._read(f"note/{rank}"):
                return PeerError(f"rank {rank} failed: {note}", [rank])
        verdict = self._read("verdict")
        return None if verdict is None else PeerError(*json.loads(verdict))

    def judge(self, message: str, blamed: Sequence[int] = (), silent: Sequence[int] = (), hint: str | None = None) -> PeerError:
        """This rank's verdict, or the one that another was first with."""
        self.leave("")
        self._tell("verdict", json.dumps([message, list(blamed), list(silent), hint]))
        return self.known() or PeerError(message, blamed, silent, hint)

    def blame(self, problem: str, waited_s: float | None) -> PeerError:
        """What the ranks together know about why an exchange failed; `waited_s` is how long, if the time ran out."""
        self.leave("")
        others, deadline = self._others(), time.monotonic() + NOTE_S
        while (found := self.known()) is None and not self._gone and time.monotonic() < deadline:
            first = waited_s is not None or all(self._read(f"note/{rank}") is None for rank in others)
            if first and all(self._at(rank) is not None for rank in others):
                break  # nobody else is about to judge, and all have answered
            time.sleep(0.05)
        if found is not None:
            return found
        holder = [self._holder] if self._gone and self._holder not in (None, self.rank) else []
        if waited_s is None:
            gone = holder or [rank for rank in others if self._at(rank) is None]
            return self.judge(f"{ranks_text(gone)} closed the connection without a word" if gone else problem, gone)
        late = holder or [rank for rank in others if (at := self._at(rank)) is None or at < self.entered]
        if not late:
            return self.judge(problem)
        message, hint = f"{ranks_text(late)} did not answer within {waited_s:g} s", "raise --timeout-s if it was only slow"
        return self.judge(message, late, late, hint)

    def linger(self, blamed: Sequence[int], *, is_victim: bool) -> None:
        """A failed rank has told what it knows, and may end when this returns.

        The rank that holds the store waits until the others know as much; a victim until the other victims have told it too.
        """
        self._stopped.set()
        self._tell(f"told/{self.rank}", "yes")
        if is_victim or self._holder == self.rank:
            self._await("told", [rank for rank in self._others() if rank not in blamed])

    # --- coming together ---

    def come(self) -> None:
        self._tell(f"come/{self.rank}", "yes")

    def missing(self) -> list[int]:
        """The ranks that have not come; raises PeerError where the store is gone."""
        found = [rank for rank in self._others() if self._read(f"come/{rank}") is None]
        if self._gone:
            raise PeerError(f"rank {self._holder or 0} left before all ranks had come", [self._holder or 0])
        return found

    def _others(self) -> list[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    def _listen(self) -> None:
        """Answers the first note, then keeps what is known here: the store may be gone when this rank's own exchange fails."""
        answered = False
        while not self._stopped.wait(POLL_S) and not self._gone:
            if not answered and self._read("failed") is not None:
                self._tell(f"at/{self.rank}", str(self.entered))
                answered = True
            if answered and not self._failed and self.known() is not None:
                self._tell(f"told/{self.rank}", "yes")
                return

    def _at(self, rank: int) -> int | None:
        text = self._read(f"at/{rank}")
        if text is None and self._read(f"note/{rank}") is not None:
            return self.entered  # it has failed too and tells of it: its answer would be on its way
        return None if text is None else int(text)

    def _await(self, kind: str, ranks: Iterable[int]) -> None:
        deadline = time.monotonic() + LINGER_S
        waiting = list(ranks)
        while waiting and not self._gone and time.monotonic() < deadline:
            waiting = [rank for rank in waiting if self._read(f"{kind}/{rank}") is None]
            if waiting:
                time.sleep(0.02)

    def _tell(self, key: str, text: str) -> None:
        """The first text under a key stands; "" gives way to another."""
        self._ask(lambda: self._store.compare_set(key, "", text))

    def _read(self, key: str) -> str | None:
        if key in self._found:
            return self._found[key]
        text = self._ask(lambda: self._store.get(key).decode() if self._store.check([key]) else None)
        if text:
            self._found[key] = text
        return text

    def _ask(self, action: Callable[[], T]) -> T | None:
        """What the store answers; None if it fails or does not answer in time, and from then on."""
        if self._gone:
            return None
        try:
            return action() if threading.current_thread() is self._listener else within(STORE_S, action)
        except (RuntimeError, TimeoutError):
            self._gone = True
            return None


def within(limit_s: float, action: Callable[[], T]) -> T:
    """What `action` returns or raises; TimeoutError where it takes longer. A stranger's port that accepts and never answers, or a
    store whose process is stopped, would hold torch for ever, whatever timeout it is given."""
    done: list[T | Exception] = []

    def act() -> None:
        try:
            done.append(action())
        except Exception as error:
            done.append(error)

    thread = threading.Thread(target=act, name="ringgraph-store", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not done:
        raise TimeoutError
    if isinstance(done[0], Exception):
        raise done[0]
    return done[0]


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
