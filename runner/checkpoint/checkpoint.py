"""A checkpoint on disk: which tensors lie where, whether that fits a configuration, and reading parts of them.

    checkpoint = Checkpoint.open("DIR")
    checkpoint.require(config)                                   # raises CheckpointError naming everything that is wrong
    checkpoint.weight("X.weight", rows=(0, 128))     # f32, whatever it is stored as

Opening reads headers only. Data are memory-mapped, and decoded when asked for. Tensors have the canonical names of a family of
models: of the one that the folder's `config.json` is of, or that of a configuration which the checkpoint is compared with.
"""

from __future__ import annotations

import json
import re
import stat
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import torch
from safetensors import SafetensorError, safe_open

from runner.base.errors import CheckpointError, Diagnostic
from runner.base.tensor_spec import DTYPE_BYTES, TensorSpec
from runner.checkpoint.encodings import FLAVOURS, FP8_BLOCK, decode, encoded
from runner.checkpoint.names import names_in
from runner.execution.storage import TORCH_DTYPES
from runner.language.notation import scale_of
from runner.models.protocols import ModelFamily, TensorNames

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
UNFINISHED_NAME = "conversion.json"
"""Lies in the folder of a conversion that has not come to its end."""
MAX_HEADER_BYTES = 100_000_000
MAX_SIZE = 2**63 - 1
STORED_DTYPES = {
    "BOOL": "bool",
    "I8": "i8",
    "U8": "u8",
    "I16": "i16",
    "I32": "i32",
    "I64": "i64",
    "F8_E4M3": "f8e4m3",
    "F8_E8M0": "f8e8m0",
    "F16": "f16",
    "BF16": "bf16",
    "F32": "f32",
    "F64": "f64",
}
"""safetensors' dtype names to ours."""
FLOATS = ("f16", "bf16", "f32", "f64")
INTEGERS = ("i32", "i64")


class Fields(Protocol):
    """What a checkpoint needs of a `Config`."""

    @property
    def values(self) -> Mapping[str, Any]: ...
    @property
    def family(self) -> ModelFamily: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as it lies in a shard; `begin` and `end` are bytes of the file."""

    name: str
    stored_name: str
    shard: Path
    spec: TensorSpec
    begin: int
    end: int


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
        return replace(_open(folder, names or names_in(folder)), mapped=mapped)

    def of(self, config: Fields) -> Checkpoint:
        """This checkpoint with the names of a configuration's family: read again if they were other ones."""
        layout = config.family.layout
        return self if self.names is layout else Checkpoint.open(self.folder, layout, mapped=self.mapped)

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
        names = config.family.layout
        if self.names is not names:
            return self.of(config).check(config)
        expected = names.expected(config.values)
        problems = list(self.problems)
        named = _named(self.problems)
        problems += [
            Diagnostic("K101", f"tensor '{name}' {spec} is missing")
            for name, spec in expected.items()
            if name not in self.tensors and name not in named
        ]
        for name, spec in expected.items():
            if name in self.tensors:
                problems += self.misfit(name, spec)
        known = expected.keys() | {scale_of(name) for name in expected.keys() & self.tensors.keys() if self.how(name) != "plain"}
        extra = [name for name in self.tensors if name not in known and not names.is_unused(name)]
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


# Opening: index and headers


Canonical = Callable[[str], str]
"""A tensor's canonical name, of its stored one."""


class _UnusableShardError(Exception):
    """A shard whose header says nothing."""


class _CorruptEntryError(Exception):
    """A tensor's entry in a header that says nothing, or two things."""


def _open(folder: Path, names: TensorNames) -> Checkpoint:
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint '{folder}': no such folder")
    if (folder / UNFINISHED_NAME).is_file():
        hint = "the same 'checkpoint convert' goes on with it"
        raise CheckpointError(f"checkpoint '{folder}' is an unfinished conversion", hint=hint)
    problems: list[Diagnostic] = []
    canonical = names.canonical
    index = _read_index(folder, canonical, problems)
    shards = sorted(set(index.values())) if index is not None else _shards_without_index(folder)
    if not shards:
        hint = "a checkpoint is a folder with model.safetensors, or shards and their index"
        raise CheckpointError([*problems, Diagnostic("K108", f"checkpoint '{folder}' has no safetensors files", hint=hint)])
    found: dict[str, Stored] = {}
    for name in shards:
        listed = [key for key, shard in (index or {}).items() if shard == name]
        for stored in _read_shard(folder / name, listed, canonical, problems):
            _place(stored, found, index, problems)
    if index is not None:
        problems += _index_gaps(index, found, canonical, problems)
    return Checkpoint(folder, names, found, tuple(folder / name for name in shards), tuple(problems))


def _read_index(folder: Path, canonical: Canonical, problems: list[Diagnostic]) -> dict[str, str] | None:
    """Stored names to shards; None without an index."""
    path = folder / INDEX_NAME
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(Diagnostic("K107", f"index '{path}' cannot be read: {error.strerror}")) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(Diagnostic("K107", f"index '{path}' cannot be read: it is not JSON")) from error
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict):
        raise CheckpointError(Diagnostic("K107", f"index '{path}' cannot be read: it has no object 'weight_map'"))
    usable = {}
    for name, shard in weight_map.items():
        if isinstance(shard, str) and shard not in ("", ".", "..") and Path(shard).name == shard:
            usable[name] = shard
        else:
            message = f"tensor '{canonical(name)}' lies in {shard!r} according to the index, expected a file name"
            problems.append(Diagnostic("K107", message))
    return usable


def _shards_without_index(folder: Path) -> list[str]:
    if (folder / SINGLE_NAME).is_file():
        return [SINGLE_NAME]
    return sorted(path.name for path in folder.glob("*.safetensors"))


def _read_shard(path: Path, listed: Iterable[str], canonical: Canonical, problems: list[Diagnostic]) -> list[Stored]:
    """The tensors of a shard; what cannot be read is told for every tensor that the index puts there."""
    try:
        size, header_end, header = _read_header(path)
    except _UnusableShardError as error:
        lost = [canonical(name) for name in listed]
        problems.append(Diagnostic("K106", f"shard '{path}' {error}"))
        problems += [
            Diagnostic("K105", f"tensor '{name}' cannot be read: it lies in shard '{path.name}'") for name in sorted(lost)
        ]
        return []
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    usable = []
    for name, entry in entries.items():
        try:
            usable.append(_stored(name, canonical(name), entry, path, header_end))
        except _CorruptEntryError as error:
            message = f"tensor '{canonical(name)}' has a corrupt entry in the header of shard '{path.name}': {error}"
            problems.append(Diagnostic("K106", message))
    for item in (item for item in usable if item.end > size):
        message = f"tensor '{item.name}' is truncated: it ends at byte {item.end:,} of shard '{path.name}', which has {size:,}"
        problems.append(Diagnostic("K105", message))
    if len(usable) == len(entries):
        problems += _uneven(usable, path, header_end, size)
    return [item for item in usable if item.end <= size]


def _uneven(stored: list[Stored], path: Path, header_end: int, size: int) -> list[Diagnostic]:
    """Whether tensors overlap, leave gaps, or end before the file does."""
    at = header_end
    for item in sorted(stored, key=lambda item: (item.begin, item.end)):
        if item.begin != at:
            message = f"tensor '{item.name}' begins at byte {item.begin:,} of shard '{path.name}', expected {at:,}"
            return [Diagnostic("K106", message)]
        at = item.end
    if at < size:
        return [Diagnostic("K106", f"shard '{path}' has {size - at:,} bytes behind its last tensor")]
    return []


def _read_header(path: Path) -> tuple[int, int, dict[str, Any]]:
    """File size, first byte behind the header, and the header."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise _UnusableShardError("is not a file")
        size = found.st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise _UnusableShardError(f"is truncated: it has {size:,} bytes, its header needs more")
            (length,) = struct.unpack("<Q", start)
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise _UnusableShardError(f"has a corrupt or truncated header: {length:,} bytes of {size:,}")
            header = json.loads(file.read(length).decode("utf-8"))
    except FileNotFoundError:
        raise _UnusableShardError("is missing") from None
    except OSError as error:
        raise _UnusableShardError(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _UnusableShardError("has a corrupt header: it is not JSON") from error
    if not isinstance(header, dict):
        raise _UnusableShardError("has a corrupt header: it is not a JSON object")
    return size, 8 + length, header


def _stored(stored_name: str, name: str, entry: Any, path: Path, header_end: int) -> Stored:
    """One header entry; raises _CorruptEntryError where it says nothing or contradicts itself."""
    fields = entry if isinstance(entry, dict) else {}
    dtype = STORED_DTYPES.get(str(fields.get("dtype")))
    if dtype is None:
        raise _CorruptEntryError(f"dtype {fields.get('dtype')!r}, which is not known")
    shape, offsets = fields.get("shape"), fields.get("data_offsets")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise _CorruptEntryError("expected 'shape' and two 'data_offsets' as numbers from 0")
    spec, (begin, end) = TensorSpec(dtype, tuple(shape)), offsets
    if end - begin != prod(shape) * DTYPE_BYTES[dtype]:
        raise _CorruptEntryError(f"{spec} takes {prod(shape) * DTYPE_BYTES[dtype]:,} bytes, but its offsets hold {end - begin:,}")
    return Stored(name, stored_name, path, spec, header_end + begin, header_end + end)


def _sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= MAX_SIZE for size in value)


def _place(stored: Stored, found: dict[str, Stored], index: Mapping[str, str] | None, problems: list[Diagnostic]) -> None:
    """Enters a tensor, unless the index or another shard says otherwise."""
    shard = stored.shard.name
    if index is not None and index.get(stored.stored_name) != shard:
        where = index.get(stored.stored_name)
        says = f"the index says '{where}'" if where else "the index does not list it"
        problems.append(Diagnostic("K107", f"tensor '{stored.name}' lies in shard '{shard}', but {says}"))
    elif stored.name in found:
        other = found[stored.name]
        both = f"'{other.stored_name}' in '{other.shard.name}' and '{stored.stored_name}' in '{shard}'"
        problems.append(Diagnostic("K107", f"tensor '{stored.name}' is there twice: {both}"))
    else:
        found[stored.name] = stored


def _index_gaps(
    index: Mapping[str, str], found: Mapping[str, Stored], canonical: Canonical, problems: list[Diagnostic]
) -> list[Diagnostic]:
    """Tensors that the index lists and no shard has, unless something was said about them."""
    said = _named(problems)
    gaps = [(canonical(name), shard) for name, shard in index.items() if canonical(name) not in found]
    return [
        Diagnostic("K107", f"tensor '{name}' is listed in shard '{shard}', but is not there")
        for name, shard in sorted(gaps)
        if name not in said
    ]


def _named(problems: Iterable[Diagnostic]) -> set[str]:
    """The tensors that problems of the files are about."""
    return {name for problem in problems for name in re.findall(r"^tensor '([^']+)'", problem.message)}
