"""Hand-made programs for tests of what runs or plans a `Schedule`, with the numbers that they must give, computed apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from runner.base.tensor_spec import TensorSpec
from runner.program.ops import OpRegistry
from runner.program.program import Program, Region, Span, Task, Tensor, Trips
from runner.rings.lowering.lower import lower
from runner.rings.placement import PlacedItem, PlacedLoop, PlacedRead, PlacedScope, PlacedTask
from runner.rings.schedule import Schedule

ROW = 8


def arithmetic_ops() -> OpRegistry:
    """Small integer-valued ops, exact in f32."""
    registry = OpRegistry()

    @registry.op("fill", "-> y: f32[N, M]", core="AIV", params={"value": 0})
    def fill(*, y, value):
        y.fill_(value)

    @registry.op("combine", "a: f32[N, M], b: f32[N, M] -> y: f32[N, M]", core="AIV")
    def combine(a, b, *, y):
        y.copy_((a * 3 + b) % 1021)

    @registry.op("bump", "a: f32[M] -> &y: f32[M]", core="AIV")
    def bump(a, *, y):
        y.copy_((y * 2 + a) % 1021)

    @registry.op("count", "-> n: i32[K]", core="AIV", params={"values": ()})
    def count(*, n, values):
        n.copy_(torch.tensor(values, dtype=torch.int32))

    @registry.op("fail", "a: f32[N, M] -> y: f32[N, M]", core="AIV")
    def fail(a, *, y):
        raise ValueError("no such luck")

    return registry


@dataclass
class Builder:
    """Writes a program task by task, inferring edges; WAR edges are explicit, as lint would ask for."""

    tensors: list[Tensor] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    last_writer: dict[tuple[int, int], int] = field(default_factory=dict)  # (tensor, row) -> task
    readers: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)

    def tensor(self, name: str, shape: tuple[int, ...] = (4, ROW), dtype: str = "f32", kind: str = "local") -> int:
        index = len(self.tensors)
        self.tensors.append(Tensor(index, name, TensorSpec(dtype, shape), kind, "" if kind == "local" else name))
        if kind in ("input", "output"):
            (self.inputs if kind == "input" else self.outputs)[name] = index
        return index

    def task(self, op: str, operands: dict[str, Region], writes: set[str], **fields) -> int:
        """`writes` names the operands that are written; `bump`'s is read as well."""
        index = len(self.tasks)
        waits: set[int] = set()
        after: set[int] = set(fields.pop("after", ()))
        touched: dict[int, bool] = {}
        for operand, region in operands.items():
            for row in self._rows(region):
                key = (region.tensor, row)
                if key in self.last_writer:
                    waits.add(self.last_writer[key])
                if operand in writes:
                    after.update(r for r in self.readers.get(key, []) if r != index)
        for operand, region in operands.items():
            for row in self._rows(region):
                key = (region.tensor, row)
                if operand in writes:
                    self.last_writer[key] = index
                    self.readers[key] = []
                else:
                    self.readers.setdefault(key, []).append(index)
            touched[region.tensor] = touched.get(region.tensor, False) or operand in writes
        creates = tuple(fields.pop("creates", ()))
        uses = tuple(t for t in touched if self.tensors[t].is_local and t not in creates)
        self.tasks.append(
            Task(
                index,
                f"{op}_{index}",
                op,
                "AIV",
                operands,
                fields.pop("attrs", {}),
                creates,
                uses,
                tuple(t for t in touched if any(o not in writes or op == "bump" for o, r in operands.items() if r.tensor == t)),
                tuple(t for t, written in touched.items() if written),
                tuple(sorted(waits)),
                tuple(sorted(after - waits)),
                **fields,
            )
        )
        return index

    def alloc(self, *tensors: int) -> int:
        index = len(self.tasks)
        self.tasks.append(Task(index, f"alloc_{index}", None, creates=tensors))
        return index

    def _rows(self, region: Region) -> range:
        shape = self.tensors[region.tensor].spec.shape
        return range(shape[0]) if region.box is None else range(*region.box[0])

    def fill(self, name: str, value: int, shape: tuple[int, ...] = (4, ROW)) -> int:
        made = self.tensor(name, shape)
        self.task("fill", {"y": Region(made)}, {"y"}, creates=(made,), attrs={"value": value})
        return made

    def combine(self, a: int, b: int, y: int | None = None, op: str = "combine") -> int:
        made = self.tensor(f"t{len(self.tensors)}", self.tensors[a].spec.shape) if y is None else y
        operands = {"a": Region(a), "b": Region(b), "y": Region(made)}
        self.task(op, operands, {"y"}, creates=(made,) if y is None else ())
        return made

    def bump(self, a: int, row_a: int, y: int, row_y: int) -> int:
        def row(tensor: int, index: int) -> Region:
            return Region(tensor, ((index, index + 1), (0, self.tensors[tensor].spec.shape[1])), (0,))

        return self.task("bump", {"a": row(a, row_a), "y": row(y, row_y)}, {"y"})

    def count(self, name: str, values: list[int]) -> int:
        made = self.tensor(name, (len(values),), "i32")
        self.task("count", {"n": Region(made)}, {"n"}, creates=(made,), attrs={"values": tuple(values)})
        return made

    def trips(self, counts: int, index: int, bound: int, path: str = "loop") -> Trips:
        writer = self.last_writer[counts, 0]
        return Trips(path, (counts,), (writer,), bound, lambda element: element(counts, (index,)))

    def program(self, name: str = "made") -> Program:
        return Program(name, tuple(self.tensors), tuple(self.tasks), Span("root", name), self.inputs, self.outputs)

    def lower(self, *items: PlacedItem | int) -> Schedule:
        return lower(self.program(), placed(items))


def placed(items) -> tuple[PlacedItem, ...]:
    """Task ids among `items` become `PlacedTask`s."""
    return tuple(PlacedTask(item) if isinstance(item, int) else item for item in items)


def scope(name: str, *items) -> PlacedScope:
    return PlacedScope(name, placed(items))


def loop(trips: Trips, *bodies) -> PlacedLoop:
    return PlacedLoop(trips, tuple(placed(body) for body in bodies))


def read(trips: Trips) -> PlacedRead:
    return PlacedRead(trips)


def random_program(seed: int) -> tuple[Schedule, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A random schedule with nested scopes, region writes and dynamic loops; its inputs and the outputs it must give.

    The expected outputs are computed in numpy while the program is written, without looking at the schedule.
    """
    rng = np.random.default_rng(seed)
    builder = Builder()
    values: dict[int, np.ndarray] = {}
    inputs: dict[str, np.ndarray] = {}
    for i in range(2):
        name = f"in{i}"
        inputs[name] = rng.integers(0, 100, (4, ROW)).astype(np.float32)
        values[builder.tensor(name, kind="input")] = inputs[name]
    out = builder.tensor("out", kind="output")

    def body(depth: int, visible: list[int], size: int, runs: bool) -> list:
        visible, items = list(visible), []
        for _ in range(size):
            kind = rng.choice(["fill", "combine", "bump", "scope", "loop"], p=[0.15, 0.35, 0.25, 0.15, 0.1])
            locals_ = [t for t in visible if builder.tensors[t].is_local]
            if kind == "fill":
                value = int(rng.integers(0, 100))
                visible.append(builder.fill(f"t{len(builder.tensors)}", value))
                values[visible[-1]] = np.full((4, ROW), value, np.float32)
                items.append(len(builder.tasks) - 1)
            elif kind == "combine":
                a, b = (int(rng.choice(visible)) for _ in range(2))
                visible.append(builder.combine(a, b))
                values[visible[-1]] = (values[a] * 3 + values[b]) % 1021
                items.append(len(builder.tasks) - 1)
            elif kind == "bump" and locals_:
                a, y = int(rng.choice(visible)), int(rng.choice(locals_))
                row_a, row_y = (int(rng.integers(0, 4)) for _ in range(2))
                if a == y:
                    continue
                items.append(builder.bump(a, row_a, y, row_y))
                if runs:
                    values[y] = values[y].copy()
                    values[y][row_y] = (values[y][row_y] * 2 + values[a][row_a]) % 1021
            elif kind == "scope" and depth < 5:
                items.append(scope(f"s{len(builder.tasks)}", *body(depth + 1, visible, int(rng.integers(1, 6)), runs)))
            elif kind == "loop" and depth < 5:
                bound = int(rng.integers(1, 4))
                taken = int(rng.integers(0, bound + 1))
                counts = builder.count(f"n{len(builder.tensors)}", [taken])
                items.append(len(builder.tasks) - 1)
                trips = builder.trips(counts, 0, bound)
                bodies = [body(depth + 1, visible, int(rng.integers(1, 5)), runs and k < taken) for k in range(bound)]
                items.append(loop(trips, *bodies))
        return items

    items = body(0, [0, 1], 14, True)
    last = [t for t in values if builder.tensors[t].is_local and t in _created_at_root(items, builder)]
    last = (last or [0])[-1:]
    builder.combine(last[0], 1, out)
    items.append(len(builder.tasks) - 1)
    expected = (values[last[0]] * 3 + values[1]) % 1021
    return builder.lower(*items), inputs, {"out": expected}


def _created_at_root(items: list, builder: Builder) -> set[int]:
    return {t for item in items if isinstance(item, int) for t in builder.tasks[item].creates}


def externals(schedule: Schedule, inputs: dict[str, np.ndarray]) -> dict[int, torch.Tensor]:
    """Torch tensors for a program's inputs and (filled with NaN) outputs."""
    program = schedule.program
    assert program is not None
    given = {index: torch.from_numpy(inputs[name].copy()) for name, index in program.inputs.items()}
    for index in program.outputs.values():
        given[index] = torch.full(program.tensors[index].spec.shape, float("nan"))
    return given
