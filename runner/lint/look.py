"""Lint rules look at a program beside the graphs that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from runner.base.errors import Mark
from runner.base.tensor_spec import round_up
from runner.expansion.expander import Expanded
from runner.language.graph import Graph, Item, Op
from runner.language.library import GraphLibrary
from runner.language.walk import all_items
from runner.lint.order import Order
from runner.program.ops import OpRegistry
from runner.program.program import Program, Task

_HARMLESS = ("G303", "G305", "G321", "G322", "G323", "G324")
"""Problems that leave the program's tasks, regions and names as they are meant."""


@dataclass
class Look:
    """One expanded graph; `ring_heap` are the bytes of the four rings, None when they are not known.

    `order` knows the tasks that were walked so far.
    """

    graph: Graph
    expanded: Expanded
    library: GraphLibrary
    registry: OpRegistry
    ring_heap: Sequence[int] | None = None
    order: Order = field(default_factory=Order)

    @property
    def program(self) -> Program:
        return self.expanded.program

    @cached_property
    def has_all_operands(self) -> bool:
        """Did the graph expand, so that who reads and writes what is known?"""
        return all(problem.code in _HARMLESS for problem in self.expanded.problems)

    @cached_property
    def _items(self) -> Mapping[tuple[Mark, Mark | None], Item]:
        return {(item.mark, item.mark.via): item for graph in self.library.graphs() for item in all_items(graph.body)}

    def item_at(self, mark: Mark | None) -> Item | None:
        """The item of any graph that stands at a place."""
        return self._items.get((mark, mark.via)) if mark else None

    def item(self, task: Task) -> Item | None:
        """What `task` was made from."""
        return self.item_at(task.mark)

    def block_bytes(self, task: Task) -> int:
        """Bytes that `task` allocates; what lies in an arena is allocated with that."""
        tensors = self.program.tensors
        return sum(round_up(tensors[tensor].spec.size_bytes) for tensor in task.creates if tensor not in self.in_arenas)

    @cached_property
    def in_arenas(self) -> frozenset[int]:
        """The tensors that lie in arenas."""
        return self.program.in_arenas()

    def operand_mark(self, task: Task, tensor: int) -> Mark | None:
        """Where the item of `task` names `tensor`."""
        item = self.item(task)
        if isinstance(item, Op):
            for name, region in task.operands.items():
                if region.tensor == tensor:
                    text = item.outputs.get(name) or item.inputs.get(name)
                    if name in item.outputs and tensor not in task.writes:
                        continue
                    return text.mark if text else task.mark
        return task.mark
