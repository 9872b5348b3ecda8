"""Index and shard headers of a checkpoint: where which tensor lies, and everything that is wrong with the files.

Source: the safetensors format: 8 bytes of header length, a JSON header, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import re
import stat
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from runner.base.errors import CheckpointError, Diagnostic
from runner.base.reading import parse_json
from runner.base.tensor_spec import DTYPE_BYTES, TensorSpec

INDEX_NAME = "model.safetensors.index.json"
INDEX_SUFFIX = ".safetensors.index.json"
"""How the index of any tool ends."""
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
PACKED = "f4"
"""Two E2M1 codes a byte: the last dimension counts codes, and safetensors' slices do not take it."""
OTHER_BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E5M2": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "U16": 16,
    "U32": 32,
    "U64": 64,
    "C64": 64,
}
"""Bits of an element of safetensors' other dtypes; but for F4 none is read, and each is named here as it is there."""
_RANK_PART = re.compile(r"model\d+-mp(?!1\.)\d+\.safetensors|model-rank-\d+-part-\d+\.safetensors")
"""Files that hold one rank's part of every tensor, as the official inference code and vLLM's sharded state write them."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Places `[lo, hi)` of a tensor along a dimension."""

    stored: Stored
    lo: int
    hi: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as it lies in a shard; `begin` and `end` are bytes of the file, `header_dtype` is what its header calls the dtype.

    The dtype of `spec` is the header's own where it is none of ours, and `PACKED` for F4.

    With `pieces` it is made of other tensors: side by side along `dim` (form `join`), one behind the other along a new first
    dimension (`stack`), or one place of a first dimension that it has not itself (`take`).
    """

    name: str
    stored_name: str
    shard: Path
    spec: TensorSpec
    begin: int
    end: int
    header_dtype: str
    pieces: tuple[Piece, ...] = ()
    dim: int = 0
    form: str = ""

    @property
    def is_supported(self) -> bool:
        """Whether the dtype is one that values can be read of."""
        return self.spec.dtype in DTYPE_BYTES or (self.spec.dtype == PACKED and self.form in ("", "join") and not self.dim)


Canonical = Callable[[str], str]
"""A tensor's canonical name, of its stored one."""


class _UnusableShardError(Exception):
    """A shard whose header says nothing."""


class _CorruptEntryError(Exception):
    """A tensor's entry in a header that says nothing, or two things."""


def read_headers(folder: Path, canonical: Canonical) -> tuple[dict[str, Stored], tuple[Path, ...], list[Diagnostic]]:
    """The tensors of a checkpoint by canonical name, its shards, and what is wrong with the files.

    Raises CheckpointError where there is no checkpoint at all.
    """
    if folder.is_file():
        return _read_file(folder, canonical)
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint '{folder}': no such folder")
    if (folder / UNFINISHED_NAME).is_file():
        hint = "the same 'checkpoint convert' goes on with it"
        raise CheckpointError(f"checkpoint '{folder}' is an unfinished conversion", hint=hint)
    problems: list[Diagnostic] = []
    index = _read_index(folder, canonical, problems)
    shards = sorted(set(index.values())) if index is not None else _shards_without_index(folder)
    refuse_parts(folder, shards)
    if index:
        _refuse_absent(folder, shards)
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
    return found, tuple(folder / name for name in shards), problems


def _read_file(path: Path, canonical: Canonical) -> tuple[dict[str, Stored], tuple[Path, ...], list[Diagnostic]]:
    """The tensors of one safetensors file."""
    problems: list[Diagnostic] = []
    found: dict[str, Stored] = {}
    for stored in _read_shard(path, (), canonical, problems):
        _place(stored, found, None, problems)
    return found, (path,), problems


def refuse_parts(folder: Path, shards: Iterable[str]) -> None:
    """Raises CheckpointError for shards that were split over ranks."""
    parts = [name for name in shards if _RANK_PART.fullmatch(name)]
    if parts:
        message = f"checkpoint '{folder}' is split over ranks: '{parts[0]}' holds one rank's part of each tensor"
        hint = "give the checkpoint that it was split from; each rank reads its part of whole tensors"
        raise CheckpointError(Diagnostic("K111", message, hint=hint))


def _refuse_absent(folder: Path, shards: list[str]) -> None:
    """Raises CheckpointError where the index lists shards none of which is there: one finding for all of their tensors."""
    if any((folder / name).exists() for name in shards):
        return
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    message = f"checkpoint '{folder}' has none of the {len(shards):,} shards that its index lists, such as '{shards[0]}'"
    hint = f"'{there[0]}' is there; if it is a shard of this checkpoint, the index is of another one" if there else None
    raise CheckpointError(Diagnostic("K106", message, hint=hint))


def _index_of(folder: Path) -> Path | None:
    """The index: the one of the usual name, or the only one. Raises CheckpointError where there are several others."""
    usual = folder / INDEX_NAME
    others = sorted(path for path in folder.glob(f"*{INDEX_SUFFIX}") if path.is_file())
    if usual.is_file() or not others:
        return usual if usual.is_file() else None
    if len(others) > 1:
        names = ", ".join(f"'{path.name}'" for path in others)
        raise CheckpointError(Diagnostic("K107", f"checkpoint '{folder}' has several indexes: {names}, expected one"))
    return others[0]


def _read_index(folder: Path, canonical: Canonical, problems: list[Diagnostic]) -> dict[str, str] | None:
    """Stored names to shards; None without an index."""
    path = _index_of(folder)
    if path is None:
        return None
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(Diagnostic("K107", f"index '{path}' cannot be read: {error.strerror}")) from error
    except ValueError as error:
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
            header = json.loads(file.read(length).decode("utf-8"))  # each entry's numbers are judged by themselves
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
    theirs = str(fields.get("dtype"))
    ours = STORED_DTYPES.get(theirs)
    if ours is None and theirs not in OTHER_BITS:
        raise _CorruptEntryError(f"dtype {fields.get('dtype')!r}, which is not known")
    shape, offsets = fields.get("shape"), fields.get("data_offsets")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise _CorruptEntryError("expected 'shape' and two 'data_offsets' as numbers from 0")
    dtype = ours or (PACKED if theirs == "F4" else theirs)
    spec, (begin, end) = TensorSpec(dtype, tuple(shape)), offsets
    bits = prod(shape) * (OTHER_BITS[theirs] if ours is None else DTYPE_BYTES[ours] * 8)
    if dtype == PACKED and shape[-1:] and shape[-1] % 2:
        raise _CorruptEntryError(f"{spec} has an odd number of columns, of which two lie in a byte")
    if (end - begin) * 8 != bits:
        raise _CorruptEntryError(f"{spec} takes {-(-bits // 8):,} bytes, but its offsets hold {end - begin:,}")
    return Stored(name, stored_name, path, spec, header_end + begin, header_end + end, theirs)


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
    said = named(problems)
    gaps = [(canonical(name), shard) for name, shard in index.items() if canonical(name) not in found]
    return [
        Diagnostic("K107", f"tensor '{name}' is listed in shard '{shard}', but is not there")
        for name, shard in sorted(gaps)
        if name not in said
    ]


def named(problems: Iterable[Diagnostic]) -> set[str]:
    """The tensors that problems of the files are about."""
    return {name for problem in problems for name in re.findall(r"^tensor '([^']+)'", problem.message)}
