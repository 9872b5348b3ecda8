"""What ranks on one machine leave behind for the process that started them: where each one is, and why it failed.

The starting process makes a folder and names it in the environment. Every rank keeps a small file there, mapped into memory,
with the phase and the node that it is in, which outlives even a rank that was killed; and writes why it failed beside it. No
torch here: the command line reports through this module whatever goes wrong.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

FOLDER = "RINGGRAPH_RANKS"
"""Environment variable that names the folder."""

_PLACE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Report:
    """Why a rank failed. `secondary`: only because of another rank; `silent`: the ranks that it waited for in vain.

    `traceback` is Python's own account of an error that nobody foresaw, for whoever mends it.
    """

    message: str
    secondary: bool = False
    silent: tuple[int, ...] = ()
    traceback: str = ""


def own_rank(env: Mapping[str, str] = os.environ) -> int | None:
    """This process's rank, or None outside of a world of ranks."""
    text = env.get("RANK", "")
    return int(text) if text.isascii() and text.isdigit() else None


def own_folder(env: Mapping[str, str] = os.environ) -> Path | None:
    """Where this rank reports to; None when no process of ours started it."""
    return Path(env[FOLDER]) if env.get(FOLDER) and own_rank(env) is not None else None


def write_report(report: Report, env: Mapping[str, str] = os.environ) -> bool:
    """Leaves this rank's report for the process that started it; False where there is none."""
    folder = own_folder(env)
    if folder is None or not folder.is_dir():
        return False
    path = folder / f"{own_rank(env)}.report"
    path.with_suffix(".part").write_text(json.dumps(asdict(report)), encoding="utf-8")
    path.with_suffix(".part").replace(path)  # whole or not at all: the rank may be stopped any time
    return True


def read_reports(folder: Path) -> dict[int, Report]:
    """The reports in a folder, by rank."""
    found = {}
    for path in folder.glob("*.report"):
        fields = json.loads(path.read_text(encoding="utf-8"))
        found[int(path.stem)] = Report(fields["message"], fields["secondary"], tuple(fields["silent"]), fields["traceback"])
    return dict(sorted(found.items()))


_threads_wait = False


def expect_waiting_threads() -> None:
    """From here on threads of the collectives may wait for something that does not come; `end` then does not wait for them."""
    global _threads_wait
    _threads_wait = True


def end(status: int) -> NoReturn:
    """Ends this process: as Python ends, or at once where a waiting thread of the collectives would abort it on the way."""
    if status and _threads_wait:
        end_at_once(status)
    sys.exit(status)


def end_at_once(status: int) -> NoReturn:
    """Ends this process without Python's own end; what was printed is kept."""
    for name in ("stdout", "stderr"):
        with suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it any more
            getattr(sys, name).flush()
    os._exit(status)


class Place:
    """Where a rank is: `phase` (decode call 3) and the node that runs. Without a folder it is only kept here.

    Marking a node costs well under a microsecond: it is done for every task.
    """

    def __init__(self, folder: Path | None, rank: int):
        self._phase = "start"
        self._calls: dict[str, int] = {}
        self._map: mmap.mmap | bytearray = bytearray(_PLACE_BYTES)
        if folder is not None:
            path = folder / f"{rank}.place"
            path.write_bytes(bytes(_PLACE_BYTES))
            with path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), _PLACE_BYTES)
        self._write("start")

    def phase(self, text: str) -> None:
        """From here on nodes belong to this phase."""
        self._phase = text
        self._write(text)

    def call(self, name: str) -> None:
        """The next call of this name begins; the first one is `NAME call 0`."""
        number = self._calls.get(name, 0)
        self._calls[name] = number + 1
        self.phase(f"{name} call {number}")

    def node(self, path: str) -> None:
        """This node begins."""
        self._write(f"{self._phase}, node '{path}'")

    def __str__(self) -> str:
        return _text(bytes(self._map))

    def _write(self, text: str) -> None:
        raw = text.encode()[: _PLACE_BYTES - 1] + b"\0"
        self._map[: len(raw)] = raw


def read_place(folder: Path, rank: int) -> str | None:
    """Where a rank was when it last said so; None if it never did."""
    path = folder / f"{rank}.place"
    return _text(path.read_bytes()) if path.is_file() else None


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")
