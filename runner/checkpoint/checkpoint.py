"""A checkpoint on disk: which tensors lie where, whether that fits a configuration, and reading parts of them.

    checkpoint = Checkpoint.open("DIR")
    checkpoint.require(config)                      # raises CheckpointError naming everything that is wrong
    checkpoint.weight("X.weight", rows=(0, 128))    # f32, whatever it is stored as

Opening reads headers, and what a quantisation tool says beside them. Data are memory-mapped, and decoded when asked for. Tensors
have the canonical names of a family of models: of the one that the folder's `config.json` is of, or that of a configuration which
the checkpoint is compared with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from runner.base.errors import CheckpointError, Diagnostic
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.description import STATIC, Description, read_description, told_together
from runner.checkpoint.encodings import FP8_BLOCK, decode, encoded
from runner.checkpoint.forms.arranging import Arrangement
from runner.checkpoint.forms.reading import value_of
from runner.checkpoint.headers import PACKED, STORED_DTYPES, Stored, named, read_headers
from runner.checkpoint.names import names_in
from runner.checkpoint.stored import POWERS, flavour_of, how_stored, may_be_quantised
from runner.execution.storage import TORCH_DTYPES
from runner.models.names import naming_of
from runner.models.protocols import ModelFamily, TensorNames

FLOATS = ("f16", "bf16", "f32", "f64")
INTEGERS = ("i32", "i64")
_READABLE = f"dtypes that are read are {', '.join((*STORED_DTYPES, 'F4'))}"


class Fields(Protocol):
    """What a checkpoint needs of a `Config`."""

    @property
    def values(self) -> Mapping[str, Any]: ...
    @property
    def family(self) -> ModelFamily: ...


@dataclass
class Checkpoint:
    """The tensors of a checkpoint by canonical name, of which `names` knows; `problems` are those of the files themselves.

    description  what a quantisation tool says beside the tensors
    model        the unquantised tensors of the model that it is held against; empty until that is known (`of`)
    on_disk      the tensors as the files have them; `tensors` are as the model has them, once it is known
    """

    folder: Path
    names: TensorNames
    tensors: Mapping[str, Stored]
    shards: tuple[Path, ...]
    problems: tuple[Diagnostic, ...]
    mapped: bool = True
    description: Description | None = None
    model: Mapping[str, TensorSpec] = field(default_factory=dict)
    on_disk: Mapping[str, Stored] = field(default_factory=dict)
    _arranged: Arrangement | None = field(default=None, repr=False)
    _files: dict[Path, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.on_disk = self.on_disk or self.tensors
        self.naming = naming_of(self.names)

    @classmethod
    def open(cls, folder: str | Path, names: TensorNames | None = None, *, mapped: bool = True) -> Checkpoint:
        """Read the index and every shard's header. Raises CheckpointError where there is no checkpoint at all.

        `names` are the layout of a family; by default that of the folder's `config.json`, and without one names stay as stored.
        Not `mapped`, tensors are read into memory of their own: whoever reads all of them once keeps no file's pages.
        """
        folder = Path(folder)
        names = names or names_in(folder)
        tensors, shards, problems = read_headers(folder, names.canonical)
        described = read_description(folder, names.canonical)
        return cls(folder, names, tensors, shards, tuple(problems), mapped, described)

    def of(self, config: Fields) -> Checkpoint:
        """This checkpoint as the model of a configuration, with the names of its family: read again if they were other ones."""
        layout = config.family.layout
        found = self if self.names is layout else Checkpoint.open(self.folder, layout, mapped=self.mapped)
        values = found.values_of(config)
        model = layout.expected(values)
        arranged = Arrangement(found.on_disk, layout, values, model)
        return replace(found, tensors=arranged.tensors, model=model, _arranged=arranged)

    def values_of(self, config: Fields) -> Mapping[str, Any]:
        """The values of the model that is here: without `is_unused` tensors where there are none, or layers before them are left
        out."""
        layout, values = config.family.layout, config.values
        is_there = any(map(layout.is_unused, self.on_disk)) and not layout.further_layers(self.on_disk, values)
        return values if is_there else layout.without_unused(values)

    def is_unused(self, name: str) -> bool:
        """Whether a tensor, by canonical name, is of a part that the model does not have."""
        weights = (name, *(weight for weight, _ in self.naming.weights_of(name)))
        return self.names.is_unused(name) and not any(weight in self.model for weight in weights)

    def with_forms(self, names: Iterable[str]) -> Checkpoint:
        """This one with tensors as a graph asks for them: parts of the model's, several of them as one, or tied ones."""
        if self._arranged is None:
            return self
        tensors, model = dict(self.tensors), dict(self.model)
        for name in names:
            if name not in tensors:
                tensors |= self._arranged.with_parts(name)
            if name not in model and (spec := self._arranged.spec(name)) is not None:
                model[name] = spec
        return replace(self, tensors=tensors, model=model)

    @cached_property
    def _names_on_disk(self) -> dict[str, str]:
        return {tensor.stored_name: name for name, tensor in self.on_disk.items()}

    def named(self, name: str) -> str:
        """The canonical name of a tensor that is called `name` on disk, or would be; of one that nobody knows, `name` itself."""
        name = self._of_graph(name)
        found = self._names_on_disk.get(name) or self.names.canonical(name)
        known = found in self.on_disk or (self._arranged is not None and self._arranged.spec(found) is not None)
        return found if known else name

    def _of_graph(self, name: str) -> str:
        """What a tensor is called here that a graph calls `name`."""
        if self._arranged is None:
            return name
        renamed = getattr(self._arranged.layout, "of_graph", None)
        return name if renamed is None else renamed(name, self._arranged.values)

    @cached_property
    def size_bytes(self) -> int:
        return sum(tensor.end - tensor.begin for tensor in self.on_disk.values())

    @cached_property
    def flavour(self) -> str:
        """The flavour that the stored tensors say: one of `FLAVOURS`, or `mixed`."""
        return flavour_of(self.tensors, self.names, self.model)

    @property
    def flavour_source(self) -> str:
        """What tells the flavour, in words."""
        return "its tensors" if self.description is None else f"{self.description.file} and its tensors"

    def how(self, name: str) -> str:
        """How a weight is stored: see `how_stored`."""
        return how_stored(name, self.tensors, self.model, self.names)

    def check(self, config: Fields) -> list[Diagnostic]:
        """Everything that keeps this checkpoint from being the model of `config`: missing, extra, misshapen, mistyped tensors,
        truncated or corrupt shards, another description than the tensors', values that cannot be used.

        Of a configuration that declares no tensors, what is wrong with the files alone."""
        held = self.of(config)
        return held._check(config) if held.model else list(held.problems)

    def notes(self, config: Fields) -> list[str]:
        """What of this checkpoint the model of `config` leaves, as sentences."""
        layers = config.family.layout.further_layers(self.tensors, config.values)
        if not layers:
            return []
        left = "1 layer" if len(layers) == 1 else f"{len(layers):,} layers"
        also = f", and {self.names.unused}" if any(map(self.names.is_unused, self.tensors)) else ""
        return [f"'{self.folder}' has {left} behind the last one of the configuration, left out{also}"]

    def _check(self, config: Fields) -> list[Diagnostic]:
        expected, problems = self.model, [*self.problems, *(self._arranged.problems if self._arranged else ())]
        told = named(self.problems) | (self._arranged.lost if self._arranged else set())
        problems += [
            Diagnostic("K101", f"tensor '{name}' {spec} is missing")
            for name, spec in expected.items()
            if name not in self.tensors and name not in told
        ]
        unread = self._unread()
        problems += unsupported(self.tensors[name] for names in unread.values() for name in names)
        there = [name for name in expected if name in self.tensors]
        misfits = {name: self.misfit(name, expected[name]) for name in there if name not in unread}
        problems += [problem for found in misfits.values() for problem in found]
        beyond = config.family.layout.further_layers(self.tensors, config.values)
        problems += self._extra({*there, *unread}.union(*beyond))
        if self.description is not None:
            problems += self.description.conflicts({name: self.how(name) for name in misfits})
        if not self.problems:
            problems += self._untied()
            problems += self.unusable(config, [name for name, found in misfits.items() if not found])
        return problems

    def _unread(self) -> dict[str, list[str]]:
        """Weights of the model whose values cannot be read: each with those of it, its scale and its offset that cannot."""
        found = {}
        for name in self.model:
            parts = (name, *self._parts(name)) if may_be_quantised(name, self.names) else (name,)
            wrong = [part for part in parts if part in self.tensors and not self.tensors[part].is_supported]
            if wrong and name in self.tensors:
                found[name] = wrong
        return found

    def _parts(self, name: str) -> tuple[str, str]:
        """The names of what can belong to a weight: its scale and its offset."""
        return self.naming.scale_of(name), self.naming.offset_of(name)

    def _extra(self, known: Collection[str]) -> list[Diagnostic]:
        """Tensors that are neither `known` nor unused, nor belong to a weight that is: each, but those of one tool together."""
        weights = [name for name in known if name in self.tensors and self.how(name) != "plain"]
        weights += [name for name in known if name in self.tensors and not self.tensors[name].is_supported]
        parts = {part for name in weights for part in self._parts(name)}
        tied = self._arranged.tied if self._arranged else {}
        parts |= {part for name in tied for part in (name, *self._parts(name))}
        extra = [name for name in self.tensors if name not in known and name not in parts and not self.names.is_unused(name)]
        floats = [name for name in known if name in self.tensors and name not in weights and may_be_quantised(name, self.names)]
        left = {part for name in floats for part in self._parts(name)}
        together = {
            "activations with scales fixed in advance are not supported": [name for name in extra if name.endswith(STATIC)],
            "scales or offsets of weights that are stored as floats; nothing tells whether they have been applied": [
                name for name in extra if name in left
            ],
        }
        told = {name for names in together.values() for name in names}
        problems = [
            Diagnostic("K102", f"tensor '{name}' {self.tensors[name].spec} is not part of the model")
            for name in extra
            if name not in told
        ]
        return problems + [Diagnostic("K102", f"{told_together(names)}: {why}") for why, names in together.items() if names]

    def unusable(self, config: Fields, weights: Iterable[str]) -> list[Diagnostic]:
        """Values that cannot be used: zero points that are not zero, tables of integers that a family refuses."""
        problems: list[Diagnostic] = []
        shifted = [name for name in weights if name in self.tensors and self._is_shifted(name)]
        if shifted:
            stored = told_together(map(self.naming.offset_of, shifted))
            message = f"{stored}: values that are not zero; asymmetric INT8 is not supported"
            problems.append(Diagnostic("K110", message, hint="quantise symmetrically, or give the unquantised checkpoint"))
        for name in weights:
            spec = self.model.get(name)
            if spec is not None and spec.dtype in INTEGERS and name in self.tensors:
                reason = config.family.layout.unusable(name, self.raw(name), config.values)
                problems += [Diagnostic("K110", f"tensor '{name}' {reason}")] if reason else []
        return problems

    def _untied(self) -> list[Diagnostic]:
        """Tensors that are to be others, and are stored with other values."""
        found = []
        for name, other in (self._arranged.tied if self._arranged else {}).items():
            if name not in self.on_disk or other not in self.tensors:
                continue
            if (problem := self.misfit(name, self.model[other])) or not torch.equal(self.weight(name), self.weight(other)):
                message = f"tensor '{name}' is not equal to '{other}', which it is tied to"
                found += problem or [Diagnostic("K110", message, hint="untie them in the configuration, or remove it")]
        return found

    def _is_shifted(self, name: str) -> bool:
        return (
            self.naming.offset_of(name) in self.tensors
            and self.how(name) == "w8a8"
            and bool(self.raw(self.naming.offset_of(name)).float().any())
        )

    def require(self, config: Fields) -> None:
        """Raises CheckpointError with everything that `check` finds."""
        problems = self.check(config)
        if problems:
            raise CheckpointError(problems)

    def misfit(self, name: str, expected: TensorSpec) -> list[Diagnostic]:
        """What is wrong with one tensor, its scale and its offset, whose unquantised spec is `expected`."""
        got, how = self.tensors[name].spec, self.how(name)
        if not self.tensors[name].is_supported:
            return unsupported([self.tensors[name]])
        if how == "plain":
            return _plain_misfit(name, got, expected)
        if not may_be_quantised(name, self.names):
            return [Diagnostic("K104", f"tensor '{name}' is {got}, expected {expected}: this one is never quantised")]
        weight, scale = encoded(expected, how)
        assert scale is not None
        problems = []
        if got.shape != (expected if got.dtype == PACKED else weight).shape:
            problems.append(Diagnostic("K103", f"tensor '{name}' is {got}, expected {weight} (stored as {how})"))
        if how == "w8a8" and got.dtype != weight.dtype:
            problems.append(Diagnostic("K104", f"tensor '{name}' is {got}, expected {weight}: 8-bit codes have a sign"))
        stored = self.tensors.get(self.naming.scale_of(name))
        if stored is None:
            problems.append(Diagnostic("K101", f"tensor '{self.naming.scale_of(name)}' {scale} is missing: '{name}' is {got}"))
            return problems
        problems += _part_misfit(stored, scale, (*FLOATS, *(POWERS if how != "w8a8" else POWERS[:1])))
        offset = self.tensors.get(self.naming.offset_of(name))
        if offset is not None:
            problems += _part_misfit(offset, scale, (*FLOATS, "i8", *INTEGERS) if how == "w8a8" else ())
        return problems

    def raw(self, name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
        """The stored tensor, or its rows `[lo, hi)`: a view of the mapped file, if it is mapped.

        Of dtypes that torch or safetensors cannot slice, the bytes: u8[rows, bytes of a row].
        """
        return value_of(self.tensors[name], rows, self._read)

    def _read(self, stored: Stored, rows: tuple[int, int] | None) -> torch.Tensor:
        """A tensor of a file, or its rows."""
        try:
            if not self.mapped or stored.spec.dtype not in TORCH_DTYPES:
                return _read_rows(stored, rows or (0, stored.spec.shape[0] if stored.spec.shape else 1))
            if stored.shard not in self._files:
                self._files[stored.shard] = safe_open(str(stored.shard), framework="pt")
            file = self._files[stored.shard]
            if rows is None:
                return file.get_tensor(stored.stored_name)
            return file.get_slice(stored.stored_name)[rows[0] : rows[1]]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"tensor '{stored.name}' cannot be read from shard '{stored.shard}': {error}") from error

    def weight(self, name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
        """A weight, or its rows, decoded: f32 where it is stored quantised, as stored where it is plain."""
        how = self.how(name)
        if how == "plain":
            return self.raw(name, rows)
        return decode(*self.codes(name, rows), how, rows[0] if rows else 0)

    def codes(self, name: str, rows: tuple[int, int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """A quantised weight, or its rows, as stored, and the scales of these rows without a further dimension of 1.

        Scales that are powers of two come as F8_E8M0, also where they are stored as u8.
        """
        how, codes = self.how(name), self.raw(name, rows)
        lo, hi = rows or (0, codes.shape[0])
        scale = self.raw(
            self.naming.scale_of(name), (lo // FP8_BLOCK, -(-hi // FP8_BLOCK)) if how.startswith("fp8") else (lo, hi)
        )
        scale = scale.view(torch.float8_e8m0fnu) if scale.dtype == torch.uint8 else scale
        return codes, scale.reshape(scale.shape[: codes.dim() - (how == "w8a8")])


def unsupported(tensors: Iterable[Stored]) -> list[Diagnostic]:
    """One finding for each dtype that cannot be read."""
    found: dict[str, list[str]] = {}
    for stored in tensors:
        found.setdefault(stored.header_dtype, []).append(stored.name)
    return [
        Diagnostic("K104", f"{told_together(names)}: dtype {dtype} is not supported", hint=_READABLE)
        for dtype, names in found.items()
    ]


def _read_rows(stored: Stored, rows: tuple[int, int]) -> torch.Tensor:
    """Rows of a stored tensor, in memory of their own."""
    height = stored.spec.shape[0] if stored.spec.shape else 1
    lo, hi = (min(row, height) for row in rows)
    shape, dtype = (hi - lo, *stored.spec.shape[1:]) if stored.spec.shape else (), TORCH_DTYPES.get(stored.spec.dtype)
    row_bytes = (stored.end - stored.begin) // max(1, height)
    data = torch.empty((hi - lo) * row_bytes, dtype=torch.uint8)
    with stored.shard.open("rb") as file:
        file.seek(stored.begin + lo * row_bytes)
        if file.readinto(data.numpy().data) != len(data):
            raise OSError("the shard has become shorter")
    return data.reshape(hi - lo, row_bytes) if dtype is None else data.view(dtype).reshape(shape)


def _part_misfit(part: Stored, scale: TensorSpec, dtypes: Sequence[str]) -> list[Diagnostic]:
    """What is wrong with a scale, or an offset of its shape; without `dtypes`, there should be none."""
    if not dtypes:
        return [Diagnostic("K102", f"tensor '{part.name}' {part.spec} is not part of the model")]
    if part.spec.shape not in (scale.shape, (*scale.shape, 1)):
        return [Diagnostic("K103", f"tensor '{part.name}' is {part.spec}, expected {scale}")]
    if part.spec.dtype not in dtypes:
        return [Diagnostic("K104", f"tensor '{part.name}' is {part.spec}, expected {scale}")]
    return []


def _plain_misfit(name: str, got: TensorSpec, expected: TensorSpec) -> list[Diagnostic]:
    problems = []
    if got.shape != expected.shape:
        problems.append(Diagnostic("K103", f"tensor '{name}' is {got}, expected {expected}"))
    kinds = INTEGERS if expected.dtype in INTEGERS else FLOATS
    if got.dtype not in (*kinds, expected.dtype):
        problems.append(Diagnostic("K104", f"tensor '{name}' is {got}, expected {' or '.join(kinds)}"))
    return problems
