"""The tensors of a checkpoint as a model has them: parts of fused or stacked tensors, tensors joined of parts, tied tensors.

    arranged = Arrangement(stored, layout, values, model)
    arranged.tensors           # by the model's names; what lies in another form is made of what is stored
    arranged.tensor(name)      # any form that the layout knows of, as a graph may ask for it

A tensor that is made is a `Stored` with pieces: no bytes are read here. The scale and the offset of a quantised weight are taken
apart and joined as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from runner.base.errors import Diagnostic
from runner.base.tensor_spec import DTYPE_BYTES, TensorSpec
from runner.checkpoint.headers import Piece, Stored
from runner.checkpoint.stored import FP4_COLUMNS, FP8_BLOCK
from runner.models.names import Naming, naming_of
from runner.models.protocols import Joined, Values

UNITS = (1, 2, FP4_COLUMNS, FP8_BLOCK)
"""Places of a weight that can share one on disk: of codes, of packed codes, of scales of columns and of blocks."""
Model = Mapping[str, TensorSpec]
Rename = Callable[[str], str]
"""From a weight's name to its own, its scale's or its offset's."""


@dataclass
class Arrangement:
    """What of a checkpoint is which tensor of a model.

    problems  tensors that do not fit what they are to be made of, and those that are there in two forms
    used      names on disk that are there in another form
    lost      names that a problem is told about already
    """

    stored: Mapping[str, Stored]
    layout: Any
    values: Values
    model: Model
    problems: list[Diagnostic] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    _made: dict[str, Stored] = field(default_factory=dict)
    _told: set[Diagnostic] = field(default_factory=set)
    _open: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.naming: Naming = naming_of(self.layout)
        self.tied: Mapping[str, str] = getattr(self.layout, "tied", _nothing)(self.values)
        found = {name: tensor for name in self.model if (tensor := self.tensor(name)) is not None}
        found |= self._beyond(found)
        for name in [name for name in found if name not in self.stored]:
            found |= self.with_parts(name)
        self._doubled(found)
        self.tensors: dict[str, Stored] = {name: tensor for name, tensor in self.stored.items() if name not in self.used} | found

    def tensor(self, name: str) -> Stored | None:
        """The tensor of that name, as it is stored or made; None where there is none."""
        if name in self.stored:
            return self.stored[name]
        if name in self._made:
            return self._made[name]
        if name in self._open:  # forms of each other
            return None
        self._open.add(name)
        made = self._make(name)
        self._open.remove(name)
        if made is not None:
            self._made[name] = made
        return made

    def with_parts(self, name: str) -> dict[str, Stored]:
        """A tensor with its scale and its offset, those of them that there are."""
        names = name, self.naming.scale_of(name), self.naming.offset_of(name)
        return {part: tensor for part in names if (tensor := self.tensor(part)) is not None}

    def spec(self, name: str) -> TensorSpec | None:
        """What a model has under a name that may be another form of its tensors, or be tied."""
        if name in self.model:
            return self.model[name]
        if name in self.tied:
            return self.spec(self.tied[name])
        for joined in self._joined(name):
            if name == joined.whole:
                parts = [self.model.get(part) for part in joined.parts]
                found = [part for part in parts if part is not None]
                if found and len(found) == len(parts):
                    return _whole_spec(found, joined)
            elif (whole := self.model.get(joined.whole)) is not None:
                return _part_spec(whole, joined, joined.parts.index(name))
        return None

    # --- how one is made ---

    def _make(self, name: str) -> Stored | None:
        other = self.tied.get(name) or next((tied for tied, to in self.tied.items() if to == name and tied in self.stored), None)
        if other is not None and (tensor := self.tensor(other)) is not None:
            return _copy(name, tensor)
        for joined, rename in self._ways(name):
            made = self._join(name, joined, rename) if name == rename(joined.whole) else self._take(name, joined, rename)
            if made is not None:
                self._use(*(piece.stored.name for piece in made.pieces))
                return made
        return None

    def _joined(self, name: str) -> Sequence[Joined]:
        return getattr(self.layout, "joined", _none)(name, self.values)

    def _ways(self, name: str) -> Iterator[tuple[Joined, Rename]]:
        """The joints that a tensor takes part in, or the weight that it is the scale or the offset of."""
        for joined in self._joined(name):
            yield joined, str
        for weight, is_scale in self.naming.weights_of(name):
            rename = self.naming.scale_of if is_scale else self.naming.offset_of
            if rename(weight) == name:
                for joined in self._joined(weight):
                    yield joined, rename

    def _take(self, name: str, joined: Joined, rename: Rename) -> Stored | None:
        """A part of a tensor that holds it."""
        whole = self.tensor(rename(joined.whole))
        if whole is None:
            return None
        if rename is str and not self._fits(whole.spec, joined):
            return self._misshapen(whole, joined, rename, sum(joined.sizes))
        at = [rename(part) for part in joined.parts].index(name)
        shape, dim = whole.spec.shape, joined.dim
        if joined.is_stack:
            if not shape or shape[0] != len(joined.parts):
                return self._misshapen(whole, joined, rename, len(joined.parts))
            return _made(name, [Piece(whole, at, at + 1)], 0, TensorSpec(whole.spec.dtype, shape[1:]), "take")
        if dim >= len(shape) or (rename is not str and shape[dim] == 1):
            return _copy(name, whole)
        sizes = _scaled(joined, shape[dim])
        if sizes is None:
            return self._misshapen(whole, joined, rename, sum(joined.sizes))
        step, begin = sum(sizes), sum(sizes[:at])
        pieces = [Piece(whole, group * step + begin, group * step + begin + sizes[at]) for group in range(joined.groups)]
        spec = TensorSpec(whole.spec.dtype, (*shape[:dim], sizes[at] * joined.groups, *shape[dim + 1 :]))
        return _made(name, pieces, dim, spec, "join")

    def _fits(self, whole: TensorSpec, joined: Joined) -> bool:
        """Whether a tensor that holds others has their shape beside what is joined; codes may share bytes of the last dim."""
        expected = self.spec(joined.whole)
        if expected is None or len(whole.shape) != len(expected.shape):
            return expected is None
        sizes = [
            (have, want) for at, (have, want) in enumerate(zip(whole.shape, expected.shape, strict=True)) if at != joined.dim
        ]
        last = len(whole.shape) - 1 != joined.dim and whole.dtype in ("i8", "u8")
        return all(have == want or (last and at == len(sizes) - 1 and 2 * have == want) for at, (have, want) in enumerate(sizes))

    def _join(self, name: str, joined: Joined, rename: Rename) -> Stored | None:
        """A tensor of all that it holds."""
        parts = [self.tensor(rename(part)) for part in joined.parts]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            self._incomplete(
                name, [rename(part) for part, tensor in zip(joined.parts, parts, strict=True) if tensor is None], found
            )
            return None
        spec, dim = found[0].spec, joined.dim
        if joined.is_stack:
            if any(part.spec != spec for part in found):
                return self._unlike(name, found)
            pieces = [Piece(part, 0, part.spec.shape[0]) for part in found]
            return _made(name, pieces, 0, TensorSpec(spec.dtype, (len(found), *spec.shape)), "stack")
        fits = dim < len(spec.shape) and all(_beside(part.spec, spec, dim) for part in found)
        if not fits or any(part.spec.shape[dim] % joined.groups for part in found):
            return self._unlike(name, found)
        sizes = [part.spec.shape[dim] // joined.groups for part in found]
        total = sum(sizes) * joined.groups
        scaled = _scaled(joined, total)
        if scaled is None or list(scaled) != sizes:
            return self._unlike(name, found)
        pieces = [
            Piece(part, group * size, (group + 1) * size)
            for group in range(joined.groups)
            for part, size in zip(found, sizes, strict=True)
        ]
        return _made(name, pieces, dim, TensorSpec(spec.dtype, (*spec.shape[:dim], total, *spec.shape[dim + 1 :])), "join")

    # --- what is wrong ---

    def _tell(self, code: str, message: str, *names: str) -> None:
        self.lost |= set(names)
        problem = Diagnostic(code, message)
        if problem not in self._told:
            self._told.add(problem)
            self.problems.append(problem)

    def _misshapen(self, whole: Stored, joined: Joined, rename: Rename, expected: int) -> None:
        spec = self.spec(joined.whole) if rename is str else None
        wanted = str(spec) if spec is not None else f"{expected:,} in dim {joined.dim}"
        self._tell("K103", f"tensor '{whole.name}' is {whole.spec}, expected {wanted}", whole.name, *map(rename, joined.parts))
        self._use(whole.name)

    def _use(self, *names: str) -> None:
        """Weights of the files, and what belongs to them, are there in another form."""
        for name in names:
            self.used |= {part for part in (name, self.naming.scale_of(name), self.naming.offset_of(name)) if part in self.stored}

    def _unlike(self, name: str, parts: Sequence[Stored]) -> None:
        told = ", ".join(f"'{part.name}' {part.spec}" for part in parts[:4]) + (", ..." if len(parts) > 4 else "")
        self._tell("K103", f"tensor '{name}' cannot be joined of {told}", name)
        self._use(*(part.name for part in parts))

    def _incomplete(self, name: str, missing: Sequence[str], found: Sequence[Stored]) -> None:
        """Some of the parts are there, and it is not: each of the others is missing."""
        if found and name in self.model:
            for part in missing:
                self._tell("K101", f"tensor '{part}' is missing: it is a part of '{name}'", name)
            self._use(*(part.name for part in found))

    def _beyond(self, found: Mapping[str, Stored]) -> dict[str, Stored]:
        """Parts of stored tensors that hold others which a larger model has: of layers behind the last one, say."""
        more: dict[str, Stored] = {}
        for name in [name for name in self.stored if name not in found and name not in self.used]:
            for joined in self._joined(name):
                parts = joined.parts if name == joined.whole else (joined.whole,)
                if not any(part in self.stored or part in found for part in parts):
                    made = {part: self.tensor(part) for part in parts if self.layout.declares(part)}
                    more |= {part: tensor for part, tensor in made.items() if tensor is not None}
        return more

    def _doubled(self, found: Mapping[str, Stored]) -> None:
        """Tensors that are there by themselves and as a part of another one, or in parts."""
        for name in [name for name in self.stored if name not in self.model]:
            for joined in self._joined(name):
                others = joined.parts if name == joined.whole else (joined.whole,)
                for other in [other for other in others if other in self.stored and other in found]:
                    here, there = self.stored[other], self.stored[name]
                    both = f"'{here.stored_name}' in '{here.shard.name}' and in '{there.stored_name}' in '{there.shard.name}'"
                    self._tell("K107", f"tensor '{other}' is there twice: {both}")
                    self._use(name)


def _nothing(values: Values) -> Mapping[str, str]:
    return {}


def _none(name: str, values: Values) -> Sequence[Joined]:
    return ()


def _scaled(joined: Joined, stored: int) -> tuple[int, ...] | None:
    """The parts' sizes in one group where `stored` of a dimension lie on disk: fewer for codes that share a byte or a scale.

    None where that cannot be, or where parts would share one.
    """
    if stored % joined.groups or any(size % joined.groups for size in joined.sizes):
        return None
    here, sizes = stored // joined.groups, [size // joined.groups for size in joined.sizes]
    for unit in UNITS:
        scaled = tuple(-(-size // unit) for size in sizes)
        if -(-sum(sizes) // unit) == here and not any(size % unit for size in sizes[:-1]):
            return scaled
    return None


def _beside(one: TensorSpec, other: TensorSpec, dim: int) -> bool:
    """Whether tensors can lie side by side along a dim."""
    if one.dtype != other.dtype or len(one.shape) != len(other.shape):
        return False
    return all(a == b for at, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)) if at != dim)


def _whole_spec(parts: Sequence[TensorSpec], joined: Joined) -> TensorSpec:
    shape = parts[0].shape
    if joined.is_stack:
        return TensorSpec(parts[0].dtype, (len(parts), *shape))
    return TensorSpec(parts[0].dtype, (*shape[: joined.dim], sum(joined.sizes), *shape[joined.dim + 1 :]))


def _part_spec(whole: TensorSpec, joined: Joined, at: int) -> TensorSpec:
    shape = whole.shape
    if joined.is_stack:
        return TensorSpec(whole.dtype, shape[1:])
    return TensorSpec(whole.dtype, (*shape[: joined.dim], joined.sizes[at], *shape[joined.dim + 1 :]))


def _copy(name: str, stored: Stored) -> Stored:
    rows = stored.spec.shape[0] if stored.spec.shape else 1
    return _made(name, [Piece(stored, 0, rows)], 0, stored.spec, "join")


def _made(name: str, pieces: Sequence[Piece], dim: int, spec: TensorSpec, form: str) -> Stored:
    first = pieces[0].stored
    size = prod(spec.shape) * DTYPE_BYTES.get(spec.dtype, 1)
    return Stored(name, name, first.shard, spec, 0, size, first.header_dtype, tuple(pieces), dim, form)
