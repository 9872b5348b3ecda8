"""What lists say of single tensors of a program: the entries that each lies in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runner.expansion.sharing.addresses import addresses, ends_of, made_in
from runner.expansion.sharing.texts import Lists, Stack, Texts, Unit
from runner.language.graph import EVERY
from runner.program.lifetimes import Lives


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a list that a tensor lies in.

    place   where it is written                   takes   entries whose bytes it takes when they are done
    copies  by variable of a loop, or "" of all   gives   entries that take its bytes then
            trips that are made: how many         ring    of a ring, how many of its largest tensors have room in it
    copy    of these, in which one it lies, from  units   of a ring, the first of its units of 1,024 bytes, and the one
            0; of a loop in a loop, by both               behind the last, that the tensor lies in
    """

    name: str
    place: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    copies: Mapping[str, int]
    copy: int
    ring: int
    units: tuple[int, int] | None

    def __str__(self) -> str:
        told = [f"'{self.name}' ({self.place})"]
        if self.units is not None:
            told.append(f"a ring as large as {self.ring} of its largest tensors")
        elif self.copies:
            counts = " x ".join(str(count) for count in self.copies.values())
            whose = ", ".join(f"trips of {name}" if name != EVERY else "all trips" for name in self.copies)
            told.append(f"copy {self.copy + 1} of {counts}, of {whose}")
        for does, names in (("takes the bytes of", self.takes), ("gives them to", self.gives)):
            if names:
                told.append(f"{does} {', '.join(names)}")
        return ", ".join(told)


def entries_of(lives: Lives, texts: Texts, tensors: Iterable[int]) -> dict[int, tuple[Entry, ...]]:
    """Per tensor in a list, of those asked for, its entries: from the outermost list and the groups there inwards."""
    at = addresses(lives, made_in(lives.program, texts), Lists(texts, texts.said()))
    rows = {tensor: row for row, tensor in enumerate(at.tensors.tolist())}
    found: dict[int, tuple[Entry, ...]] = {}
    for tensor in tensors:
        if tensor in rows:
            leaves = [at.leaves[leaf] for leaf in at.leaf[rows[tensor]].tolist() if leaf >= 0]
            found[tensor] = tuple(_entry(stack, at.units[steps[0][0]], steps[0][1]) for stack, steps in leaves)
    return found


def _entry(stack: Stack, unit: Unit, place: int) -> Entry:
    takes = tuple(text.value for text in unit.replaces)
    gives = tuple(other.name for other in stack.units if unit.name in {text.value for text in other.replaces})
    copy, units = (0, ends_of(place)) if unit.ring else (place, None)
    return Entry(unit.name, str(unit.mark), takes, gives, unit.copies, copy, unit.ring, units)
