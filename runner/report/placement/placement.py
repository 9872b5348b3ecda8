"""This module makes the placement of a schedule: all that orchestration code has to say, as data and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.report.placement.limits import CardMemory, Limit, limits_of, memory_of
from runner.report.placement.steps import Step, steps_of
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.devices.devices import Device
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes

VERSION = 1
"""Of the format; it grows when a reader of an older one would go wrong."""


@dataclass(frozen=True)
class Placement:
    """`sizes` are safe heaps, and the windows and pools that were asked for; `card_bytes` is the memory of the card, if given."""

    schedule: Schedule
    sizes: RingSizes
    limits: tuple[Limit, ...]
    memory: CardMemory
    card_bytes: int | None
    assumed: Mapping[str, Any]
    steps: tuple[Step, ...]

    @property
    def is_kept(self) -> bool:
        """Whether all limits are kept, the card's memory among them."""
        return all(limit.is_kept for limit in self.limits)

    def as_json(self) -> dict[str, Any]:
        """The object that `graphs/schema/placement.schema.json` describes."""
        sizes = self.sizes
        rings = [
            {"ring": ring, "heap_bytes": sizes.heap[ring], "window": sizes.window[ring], "pool": sizes.pool[ring]}
            for ring in range(len(sizes.heap))
        ]
        head = {"version": VERSION, "graph": self.schedule.name, "scheduler": self.schedule.strategy, **self.assumed}
        memory = self.memory.as_json() | {"card": self.card_bytes}
        limits = [limit.as_json() for limit in self.limits]
        return head | {"rings": rings, "memory": memory, "limits": limits, "steps": list(self.steps)}

    def text(self) -> str:
        return "\n".join(_text(self)) + "\n"


def placement_of(
    schedule: Schedule, sizes: RingSizes, card_bytes: int | None, assumed: Mapping[str, Any], on: Device
) -> Placement:
    """The placement of a schedule of a program, in rings with these windows and pools, and heaps that are safe, on a device."""
    assert schedule.program is not None, "a placement says what a program's tasks are"
    sizes = sizes.with_heap([safe_heap(load) for load in ring_loads(schedule)])
    memory = memory_of(schedule.program, sizes)
    limits = list(limits_of(schedule, sizes, on))
    if card_bytes is not None:
        limits.append(Limit("memory of the card", memory.total, card_bytes, "", "bytes"))
    return Placement(schedule, sizes, tuple(limits), memory, card_bytes, assumed, tuple(steps_of(schedule)))


# --- text -------------------------------------------------------------------------------------------------------------


def _text(found: Placement) -> Iterator[str]:
    assumed = ", ".join(f"{name} {value}" for name, value in found.assumed.items() if value)
    yield f"{found.schedule.name}, scheduler {found.schedule.strategy}{', ' if assumed else ''}{assumed}"
    for ring, heap in enumerate(found.sizes.heap):
        yield f"ring {ring}: heap {heap:,} bytes, window {found.sizes.window[ring]:,}, pool {found.sizes.pool[ring]:,}"
    memory = found.memory
    parts = f"weights {memory.weights:,}, state {memory.state:,}, inputs and outputs {memory.inputs_outputs:,}"
    yield f"memory of a rank: {parts}, heaps {memory.heaps:,}, windows and pools {memory.windows_pools:,}: {memory.total:,} bytes"
    yield from map(str, found.limits)
    yield ""
    depth = 0
    for step in found.steps:
        depth -= step["do"] in ("close", "end loop")
        yield from ("  " * depth + line for line in _lines(step))
        depth += step["do"] in ("open", "loop")


def _lines(step: Step) -> Iterator[str]:
    match step["do"]:
        case "open":
            yield f"open {step['scope']} (ring {step['ring']}, {step['mode']})"
        case "close":
            yield f"close {step['scope']}"
        case "read":
            yield f"read a value, after {', '.join(step['after'])}"
        case "loop":
            yield f"loop {step['loop']}, at most {step['at_most']} trips, after {', '.join(step['after'])}"
        case "trip":
            yield f"trip {step['trip']} of {step['loop']}"
        case "end loop":
            yield f"end of {step['loop']}"
        case _:
            op = f" = {step['op']} on {step['core']}, {step['blocks']} blocks" if step["do"] == "submit" else ""
            yield f"{step['do']} {step['name']}{op}"
            for tensor in step.get("tensors", ()):
                shape = ", ".join(map(str, tensor["shape"]))
                olds = f", takes bytes of {', '.join(tensor['replaces'])}" if "replaces" in tensor else ""
                name = f"{tensor['name']} of {tensor['task']}" if "task" in tensor else tensor["name"]
                yield f"    {name}: {tensor['dtype']}[{shape}], {tensor['bytes']:,} bytes at {tensor['offset']:,}{olds}"
            for edge in step.get("deps", ()):
                keeps = "" if edge["keeps_block"] else ", its block may go"
                yield f"    after {edge['after']}: {edge['why']}{keeps}"
