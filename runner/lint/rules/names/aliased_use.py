"""G332 tells a `use` that gives another result than with tensors of its own, since two of its names are bound to one."""

from __future__ import annotations

from collections.abc import Iterator

from runner.base.errors import Mark
from runner.language.expressions import parse
from runner.language.graph import For, Op, Switch
from runner.lint.look import Look
from runner.lint.order import covers
from runner.lint.rule import Description, Rule
from runner.lint.uses import OpenUse, Uses
from runner.program.program import Region, Span, Task
from runner.program.registered import overlap


class AliasedUse(Rule):
    """For each open `use` with names that share a tensor, the rule keeps what was written there through which of them."""

    about = Description(
        "G332",
        "use whose names share a tensor",
        "The used graph takes its inputs and outputs for different tensors. Bound to one, what it writes through one name is "
        "read or overwritten through another, so that it computes something else. An output may be bound to what an input is "
        "bound to if that is not read any more when the output is written.",
    )
    needs_all_operands = True

    def __init__(self, look: Look):
        super().__init__(look)
        self.uses = Uses(look)
        self.told: set[tuple[Mark, Mark | None, str, str]] = set()

    def enter(self, span: Span) -> None:
        self.uses.enter(span)
        item = self.look.item_at(span.mark)
        if span.trips is not None and self.uses.open and isinstance(item, For | Switch):
            text = item.range if isinstance(item, For) else item.value
            for name in parse(text.value, text.mark).names():
                for use, own in self._shared(name):
                    for tensor in set(span.trips.reads) & use.written.keys():
                        self._read(use, own, Region(tensor), text.mark)

    def leave(self, span: Span) -> None:
        self.uses.leave(span)

    def task(self, task: Task) -> None:
        if not any(use.shared for use in self.uses.open):
            return
        item = self.look.item(task)
        if not isinstance(item, Op) or item.op.value not in self.look.registry:
            return
        modes = {operand.name: operand.mode for operand in self.look.registry[item.op.value].operands}
        touched = [
            (use, own, region, modes.get(operand, "in"), self._mark(item, operand))
            for operand, name, region in self.uses.operand_names(item, task)
            for use, own in self._shared(name)
        ]
        for use, own, region, mode, mark in touched:
            if mode != "out":
                self._read(use, own, region, mark)
        for use, own, region, mode, _ in touched:
            if mode != "in":
                for other_use, other, read, other_mode, mark in touched:
                    is_shared = other_use is use and other != own and other_mode != "out" and read.tensor == region.tensor
                    if is_shared and overlap(region, read):
                        self._tell(use, own, other, "is written while", "is read", mark)
        for use, own, region, mode, mark in touched:
            if mode != "in":
                self._write(use, own, region, mark)

    def _shared(self, name: str) -> Iterator[tuple[OpenUse, str]]:
        return ((use, own) for use, own in self.uses.names(name) if own in use.shared)

    def _mark(self, item: Op, operand: str) -> Mark:
        given = item.inputs.get(operand) or item.outputs[operand]
        return given.mark

    def _read(self, use: OpenUse, name: str, region: Region, mark: Mark) -> None:
        for other, written in use.written.get(region.tensor, ()):
            if other != name and overlap(region, written):
                self._tell(use, other, name, "is written before", "is read", mark)

    def _write(self, use: OpenUse, name: str, region: Region, mark: Mark) -> None:
        before = use.written.setdefault(region.tensor, [])
        for other, written in before:
            if other != name and other in use.graph.outputs and overlap(region, written):
                self._tell(use, name, other, "is written over", "", mark)
        before[:] = [(other, written) for other, written in before if not covers(region, written)]
        before.append((name, region))

    def _tell(self, use: OpenUse, written: str, other: str, what: str, then: str, mark: Mark) -> None:
        key = use.item.mark, use.item.mark.via, written, other
        if key in self.told:
            return
        self.told.add(key)
        verb = f"'{written}' {what} '{other}' {then}".rstrip()
        message = f"use '{use.item.graph}': '{written}' and '{other}' are both '{use.bound[written]}', and {verb}"
        self.tell(message, use.mark(written), "bind them to different tensors", (mark,), f"{written} {other}")
