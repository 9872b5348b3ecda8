"""What of a device a schedule takes, against what there is: arguments, blocks, scopes, windows, pools, the tensormap, memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from runner.program.program import Program
from runner.rings.capacity import least_window, ring_loads
from runner.rings.devices.devices import Device
from runner.rings.schedule import Begin, End, Schedule
from runner.rings.sizes import RingSizes
from runner.rings.tensormap import entries_bound


@dataclass(frozen=True, slots=True)
class Limit:
    """What is needed of something, at most, and how much there is; `where` needs the most. `unit` is empty for counts."""

    name: str
    needed: int
    limit: int
    where: str = ""
    unit: str = ""

    @property
    def is_kept(self) -> bool:
        return self.needed <= self.limit

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"is_kept": self.is_kept}

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        where = f" ({self.where})" if self.where else ""
        return f"{self.name}: {self.needed:,} of {self.limit:,}{unit}{where}{'' if self.is_kept else ': TOO MANY'}"


def limits_of(schedule: Schedule, sizes: RingSizes, on: Device) -> Iterator[Limit]:
    """The limits of a device's runtime, in rings of these sizes; windows and pools hold for every order of completions."""
    arguments = max(schedule.submissions, key=lambda made: made.num_tensors, default=None)
    block = max(schedule.submissions, key=lambda made: made.size_bytes, default=None)
    if arguments is not None and block is not None:
        yield Limit("tensors of a submission", arguments.num_tensors, on.max_tensors, arguments.name)
        yield Limit("size of a block", block.size_bytes, on.max_block_bytes, block.name, "bytes")
    most, name = _open_scopes(schedule)
    yield Limit("scopes open at a time", most, on.max_scopes, name)
    for ring, load in enumerate(ring_loads(schedule)):
        yield Limit(f"task window of ring {ring}", least_window(load), sizes.window[ring], "", "slots")
        yield Limit(f"dependency pool of ring {ring}", load.pool_bound, sizes.pool[ring], "any order of completions", "entries")
    yield Limit("tensormap", entries_bound(schedule, sizes.window), on.tensormap_entries, "", "entries")


def _open_scopes(schedule: Schedule) -> tuple[int, str]:
    most, name, num = 0, "", 0
    for step in schedule.steps:
        if isinstance(step, Begin):
            num += 1
            if num > most:
                most, name = num, schedule.scopes[step.scope].name
        elif isinstance(step, End):
            num -= 1
    return most, name


@dataclass(frozen=True, slots=True)
class CardMemory:
    """Bytes of one rank: what the program takes from outside, and its rings with their windows and pools."""

    weights: int
    state: int
    inputs_outputs: int
    heaps: int
    windows_pools: int

    @property
    def total(self) -> int:
        return self.weights + self.state + self.inputs_outputs + self.heaps + self.windows_pools

    def as_json(self) -> dict[str, int]:
        return asdict(self) | {"total": self.total}


def memory_of(program: Program, sizes: RingSizes) -> CardMemory:
    """The memory of a rank, from shapes alone; a tensor that several graphs name counts once."""
    kinds = {"weight": 0, "state": 0, "input": 0, "output": 0}
    seen: set[tuple[str, str]] = set()
    for tensor in program.tensors:
        key = tensor.kind, tensor.source or tensor.name
        if tensor.kind in kinds and key not in seen:
            seen.add(key)
            kinds[tensor.kind] += tensor.spec.size_bytes
    memory = sizes.memory()
    rest = sum(value for name, value in memory.items() if name in ("window_bytes", "pool_bytes"))
    return CardMemory(kinds["weight"], kinds["state"], kinds["input"] + kinds["output"], sum(sizes.heap), rest)
