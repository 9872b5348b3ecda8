"""A checkpoint on disk: which tensors lie where, whether that fits a configuration, and reading parts of them.

    checkpoint = Checkpoint.open("DIR")
    checkpoint.require(config)                      # raises CheckpointError naming everything that is wrong
    checkpoint.weight("X.weight", rows=(0, 128))    # f32, whatever it is stored as

Opening reads headers only. Data are memory-mapped, and decoded when asked for. Tensors have the canonical names of a family of
models: of the one that the folder's `config.json` is of, or that of a configuration which the checkpoint is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from runner.base.errors import CheckpointError, Diagnostic
from runner.base.tensor_spec import DTYPE_BYTES, TensorSpec
from runner.checkpoint.encodings import FLAVOURS, FP8_BLOCK, decode, encoded
from runner.checkpoint.headers import Stored, named, read_headers
from runner.checkpoint.names import names_in
from runner.execution.storage import TORCH_DTYPES
from runner.language.notation import scale_of
from runner.models.protocols import ModelFamily, TensorNames

FLOATS = ("f16", "bf16", "f32", "f64")
INTEGERS = ("i32", "i64")


class Fields(Protocol):
    """What a checkpoint needs of a `Config`."""

    @property
    def values(self) -> Mapping[str, Any]: ...
    @property
    def family(self) -> ModelFamily: ...


@dataclass
class Checkpoint:
    """The tensors of a checkpoint by canonical name, of which `names` knows; `problems` are those of the files themselves."""

    folder: Path
    names: TensorNames
    tensors: Mapping[str, Stored]
    shards: tuple[Path, ...]
    problems: tuple[Diagnostic, ...]
    mapped: bool = True
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
        return cls(folder, names, tensors, shards, tuple(problems), mapped)

    def of(self, config: Fields) -> Checkpoint:
        """This checkpoint with the names of a configuration's family: read again if they were other ones."""
        layout = config.family.layout
        return self if self.names is layout else Checkpoint.open(self.folder, layout, mapped=self.mapped)

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
        """The flavour that the stored dtypes say: one of `FLAVOURS`, or `mixed`."""
        kinds = {self.how(name) for name in self.tensors if self._may_be_quantised(name)} - {"plain"}
        if "fp4" in kinds:
            return "fp4"
        if not kinds:
            kinds = {self.tensors[name].spec.dtype for name in self.names.plain or self.tensors if name in self.tensors}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    def _may_be_quantised(self, name: str) -> bool:
        """Whether some flavour quantises a tensor."""
        return any(self.names.encoding(name, flavour) != "plain" for flavour in reversed(FLAVOURS))

    def how(self, name: str) -> str:
        """How a weight is stored: `plain`, `w8a8`, `fp8`, `fp8-e8m0` or `fp4`, told by its dtype and its scale's."""
        spec, scale = self.tensors[name].spec, self.tensors.get(scale_of(name))
        if spec.dtype == "f8e4m3":
            return "fp8-e8m0" if scale is not None and scale.spec.dtype == "f8e8m0" else "fp8"
        if spec.dtype in ("i8", "u8") and name.endswith(".weight"):
            return "fp4" if scale is not None and scale.spec.dtype == "f8e8m0" else "w8a8"
        return "plain"

    def check(self, config: Fields) -> list[Diagnostic]:
        """Everything that keeps this checkpoint from being the model of `config`: missing, extra, misshapen, mistyped tensors,
        truncated or corrupt shards."""
        return self.of(config)._check(config.family.layout.expected(config.values))

    def _check(self, expected: Mapping[str, TensorSpec]) -> list[Diagnostic]:
        problems = list(self.problems)
        told = named(self.problems)
        problems += [
            Diagnostic("K101", f"tensor '{name}' {spec} is missing")
            for name, spec in expected.items()
            if name not in self.tensors and name not in told
        ]
        for name, spec in expected.items():
            if name in self.tensors:
                problems += self.misfit(name, spec)
        known = expected.keys() | {scale_of(name) for name in expected.keys() & self.tensors.keys() if self.how(name) != "plain"}
        extra = [name for name in self.tensors if name not in known and not self.names.is_unused(name)]
        problems += [Diagnostic("K102", f"tensor '{name}' {self.tensors[name].spec} is not part of the model") for name in extra]
        return problems

    def require(self, config: Fields) -> None:
        """Raises CheckpointError with everything that `check` finds."""
        problems = self.check(config)
        if problems:
            raise CheckpointError(problems)

    def misfit(self, name: str, expected: TensorSpec) -> list[Diagnostic]:
        """What is wrong with one tensor and its scale, whose unquantised spec is `expected`."""
        got, how = self.tensors[name].spec, self.how(name)
        if how == "plain":
            return _plain_misfit(name, got, expected)
        if not self._may_be_quantised(name):
            return [Diagnostic("K104", f"tensor '{name}' is {got}, expected {expected}: this one is never quantised")]
        weight, scale = encoded(expected, how)
        assert scale is not None
        problems = []
        if got.shape != weight.shape:
            problems.append(Diagnostic("K103", f"tensor '{name}' is {got}, expected {weight} (stored as {how})"))
        stored = self.tensors.get(scale_of(name))
        if stored is None:
            problems.append(Diagnostic("K101", f"tensor '{scale_of(name)}' {scale} is missing: '{name}' is {got}"))
        elif stored.spec.shape not in (scale.shape, (*scale.shape, 1)):
            problems.append(Diagnostic("K103", f"tensor '{scale_of(name)}' is {stored.spec}, expected {scale}"))
        elif stored.spec.dtype not in (*FLOATS, "f8e8m0"):
            problems.append(Diagnostic("K104", f"tensor '{scale_of(name)}' is {stored.spec}, expected {scale}"))
        return problems

    def raw(self, name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
        """The stored tensor, or its rows `[lo, hi)`: a view of the mapped file, if it is mapped."""
        stored = self.tensors[name]
        try:
            if not self.mapped:
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
        codes = self.raw(name, rows)
        if how == "plain":
            return codes
        lo, hi = rows or (0, codes.shape[0])
        scale_rows = (lo // FP8_BLOCK, -(-hi // FP8_BLOCK)) if how.startswith("fp8") else (lo, hi)
        return decode(codes, self.raw(scale_of(name), scale_rows), how, lo)


def _read_rows(stored: Stored, rows: tuple[int, int]) -> torch.Tensor:
    """Rows of a stored tensor, in memory of their own."""
    lo, hi = (min(row, stored.spec.shape[0]) for row in rows)
    shape = (hi - lo, *stored.spec.shape[1:])
    row_bytes = prod(shape[1:]) * DTYPE_BYTES[stored.spec.dtype]
    data = torch.empty((hi - lo) * row_bytes, dtype=torch.uint8)
    with stored.shard.open("rb") as file:
        file.seek(stored.begin + lo * row_bytes)
        if file.readinto(data.numpy().data) != len(data):
            raise OSError("the shard has become shorter")
    return data.view(TORCH_DTYPES[stored.spec.dtype]).reshape(shape)


def _plain_misfit(name: str, got: TensorSpec, expected: TensorSpec) -> list[Diagnostic]:
    problems = []
    if got.shape != expected.shape:
        problems.append(Diagnostic("K103", f"tensor '{name}' is {got}, expected {expected}"))
    kinds = INTEGERS if expected.dtype in INTEGERS else FLOATS
    if got.dtype not in kinds:
        problems.append(Diagnostic("K104", f"tensor '{name}' is {got}, expected {' or '.join(kinds)}"))
    return problems
