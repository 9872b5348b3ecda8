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
from runner.checkpoint.encodings import FP8_BLOCK, decode, encoded, offset_of
from runner.checkpoint.headers import PACKED, STORED_DTYPES, Stored, named, read_headers
from runner.checkpoint.names import names_in
from runner.checkpoint.stored import POWERS, flavour_of, how_stored, may_be_quantised
from runner.execution.storage import TORCH_DTYPES
from runner.language.notation import scale_of
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
    """

    folder: Path
    names: TensorNames
    tensors: Mapping[str, Stored]
    shards: tuple[Path, ...]
    problems: tuple[Diagnostic, ...]
    mapped: bool = True
    description: Description | None = None
    model: Mapping[str, TensorSpec] = field(default_factory=dict)
    _files: dict[Path, Any] = field(default_factory=dict, repr=False)

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
        return replace(found, model=layout.expected(config.values))

    @cached_property
    def _on_disk(self) -> dict[str, str]:
        return {tensor.stored_name: name for name, tensor in self.tensors.items()}

    def named(self, name: str) -> str:
        """The canonical name of a tensor that is called `name` on disk; of one that is not, `name` itself."""
        return self._on_disk.get(name, name)

    @cached_property
    def size_bytes(self) -> int:
        return sum(tensor.end - tensor.begin for tensor in self.tensors.values())

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
        return how_stored(name, self.tensors, self.model)

    def check(self, config: Fields) -> list[Diagnostic]:
        """Everything that keeps this checkpoint from being the model of `config`: missing, extra, misshapen, mistyped tensors,
        truncated or corrupt shards, another description than the tensors', values that cannot be used."""
        return self.of(config)._check(config)

    def notes(self, config: Fields) -> list[str]:
        """What of this checkpoint the model of `config` leaves, as sentences."""
        layers = config.family.layout.further_layers(self.tensors, config.values)
        if not layers:
            return []
        left = "1 layer" if len(layers) == 1 else f"{len(layers):,} layers"
        unused = f", and {self.names.unused}" if any(map(self.names.is_unused, self.tensors)) else ""
        return [f"'{self.folder}' has {left} behind the last one of the configuration, left out{unused}"]

    def _check(self, config: Fields) -> list[Diagnostic]:
        expected, problems = self.model, list(self.problems)
        told = named(self.problems)
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
            problems += self.unusable(config, [name for name, found in misfits.items() if not found])
        return problems

    def _unread(self) -> dict[str, list[str]]:
        """Weights of the model whose values cannot be read: each with those of it, its scale and its offset that cannot."""
        found = {}
        for name in self.model:
            parts = (name, scale_of(name), offset_of(name)) if may_be_quantised(name, self.names) else (name,)
            wrong = [part for part in parts if part in self.tensors and not self.tensors[part].is_supported]
            if wrong and name in self.tensors:
                found[name] = wrong
        return found

    def _extra(self, known: Collection[str]) -> list[Diagnostic]:
        """Tensors that are neither `known` nor unused, nor belong to a weight that is: each, but those of one tool together."""
        weights = [name for name in known if name in self.tensors and self.how(name) != "plain"]
        weights += [name for name in known if name in self.tensors and not self.tensors[name].is_supported]
        parts = {part for name in weights for part in (scale_of(name), offset_of(name))}
        extra = [name for name in self.tensors if name not in known and name not in parts and not self.names.is_unused(name)]
        static = [name for name in extra if name.endswith(STATIC)]
        problems = [
            Diagnostic("K102", f"tensor '{name}' {self.tensors[name].spec} is not part of the model")
            for name in extra
            if name not in static
        ]
        if static:
            message = f"{told_together(static)}: activations with scales fixed in advance are not supported"
            problems.append(Diagnostic("K102", message))
        return problems

    def unusable(self, config: Fields, weights: Iterable[str]) -> list[Diagnostic]:
        """Values that cannot be used: zero points that are not zero, tables of integers that a family refuses."""
        problems: list[Diagnostic] = []
        shifted = [name for name in weights if name in self.tensors and self._is_shifted(name)]
        if shifted:
            stored = told_together(map(offset_of, shifted))
            message = f"{stored}: values that are not zero; asymmetric INT8 is not supported"
            problems.append(Diagnostic("K110", message, hint="quantise symmetrically, or give the unquantised checkpoint"))
        for name in weights:
            spec = self.model.get(name)
            if spec is not None and spec.dtype in INTEGERS and name in self.tensors:
                reason = config.family.layout.unusable(name, self.raw(name), config.values)
                problems += [Diagnostic("K110", f"tensor '{name}' {reason}")] if reason else []
        return problems

    def _is_shifted(self, name: str) -> bool:
        return offset_of(name) in self.tensors and self.how(name) == "w8a8" and bool(self.raw(offset_of(name)).float().any())

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
        stored = self.tensors.get(scale_of(name))
        if stored is None:
            problems.append(Diagnostic("K101", f"tensor '{scale_of(name)}' {scale} is missing: '{name}' is {got}"))
            return problems
        problems += _part_misfit(stored, scale, (*FLOATS, *(POWERS if how != "w8a8" else POWERS[:1])))
        offset = self.tensors.get(offset_of(name))
        if offset is not None:
            problems += _part_misfit(offset, scale, (*FLOATS, "i8", *INTEGERS) if how == "w8a8" else ())
        return problems

    def raw(self, name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
        """The stored tensor, or its rows `[lo, hi)`: a view of the mapped file, if it is mapped.

        Of dtypes that torch or safetensors cannot slice, the bytes: u8[rows, bytes of a row].
        """
        stored = self.tensors[name]
        try:
            if not self.mapped or stored.spec.dtype not in TORCH_DTYPES:
                return _read_rows(stored, rows or (0, stored.spec.shape[0]))
            if stored.shard not in self._files:
                self._files[stored.shard] = safe_open(str(stored.shard), framework="pt")
            file = self._files[stored.shard]
            if rows is None:
                return file.get_tensor(stored.stored_name)
            return file.get_slice(stored.stored_name)[rows[0] : rows[1]]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"tensor '{name}' cannot be read from shard '{stored.shard}': {error}") from error

    def weight(self, name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
        """A weight, or its rows, decoded: f32 where it is stored quantised, as stored where it is plain."""
        how = self.how(name)
        if how == "plain":
            return self.raw(name, rows)
        return decode(*self.codes(name, rows), how, rows[0] if rows else 0)

    def codes(self, name: str, rows: tuple[int, int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """A quantised weight, or its rows, as stored, and the scales of these rows without trailing dimensions of 1.

        Scales that are powers of two come as F8_E8M0, also where they are stored as u8.
        """
        how, codes = self.how(name), self.raw(name, rows)
        lo, hi = rows or (0, codes.shape[0])
        scale = self.raw(scale_of(name), (lo // FP8_BLOCK, -(-hi // FP8_BLOCK)) if how.startswith("fp8") else (lo, hi))
        scale = scale.view(torch.float8_e8m0fnu) if scale.dtype == torch.uint8 else scale
        return codes, scale.reshape(-1) if how == "w8a8" else scale.reshape(scale.shape[:2])


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
    lo, hi = (min(row, stored.spec.shape[0]) for row in rows)
    shape, dtype = (hi - lo, *stored.spec.shape[1:]), TORCH_DTYPES.get(stored.spec.dtype)
    row_bytes = (stored.end - stored.begin) // max(1, stored.spec.shape[0])
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
    if got.dtype not in kinds:
        problems.append(Diagnostic("K104", f"tensor '{name}' is {got}, expected {' or '.join(kinds)}"))
    return problems
