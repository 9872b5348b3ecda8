"""Writing safetensors files one tensor at a time, and whole checkpoints whole or not at all.

Source: the safetensors format: 8 bytes of header length, a JSON header, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from runner.base.files import whole_file, write_text
from runner.base.tensor_spec import DTYPE_BYTES, TensorSpec
from runner.checkpoint.headers import INDEX_NAME, STORED_DTYPES
from runner.execution.storage import TORCH_DTYPES

_FILE_DTYPES = {ours: theirs for theirs, ours in STORED_DTYPES.items()}


AsStored = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape that a header gives to tensors which are nothing but bytes (u8[n]) here, by name."""


def write_shard(
    path: Path,
    specs: Mapping[str, TensorSpec],
    pieces: Callable[[str], Iterable[torch.Tensor]],
    as_stored: AsStored | None = None,
) -> None:
    """Write the tensors of `specs` to `path`, each as the pieces (consecutive rows) that `pieces` gives for its name.

    The file appears under its name when whole. Wider dtypes lie first, so that every tensor is aligned; tensors are asked for in
    the order of `specs`.
    """
    header, begins = file_header(specs, as_stored)
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(header)
        for name, spec in specs.items():
            file.seek(begins[name])
            for piece in pieces(name):
                assert piece.dtype == TORCH_DTYPES[spec.dtype], name
                file.write(piece.contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)
            assert file.tell() == begins[name] + spec.size_bytes, name
        file.flush()
        os.fsync(file.fileno())


def file_header(
    specs: Mapping[str, TensorSpec], as_stored: AsStored | None = None, described: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, int]]:
    """The header's bytes and every tensor's first byte in the file, in the order in which they lie; `described` is metadata."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **(described or {})}}
    begins: dict[str, int] = {}
    offset = 0
    for name in sorted(specs, key=lambda name: -DTYPE_BYTES[specs[name].dtype]):
        spec = specs[name]
        ends = [offset, offset + spec.size_bytes]
        dtype, shape = (as_stored or {}).get(name) or (_FILE_DTYPES[spec.dtype], spec.shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": ends}
        begins[name], offset = offset, ends[1]
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    return header, {name: len(header) + begin for name, begin in begins.items()}


def plan_shards(groups: Iterable[Mapping[str, TensorSpec]], max_shard_bytes: int) -> list[dict[str, TensorSpec]]:
    """Groups of tensors that stay together, in order, in shards of at most `max_shard_bytes` (or one group that is larger)."""
    shards: list[dict[str, TensorSpec]] = []
    filled = 0
    for group in groups:
        size = sum(spec.size_bytes for spec in group.values())
        if not shards or filled + size > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1].update(group)
        filled += size
    return shards


def shard_names(count: int) -> list[str]:
    """`model-00001-of-00003.safetensors`, ..."""
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def write_index(folder: Path, shards: Mapping[str, Mapping[str, TensorSpec]]) -> None:
    """The index of shards by file name."""
    specs = [spec for shard in shards.values() for spec in shard.values()]
    metadata = {
        "total_parameters": sum(spec.num_elements for spec in specs),
        "total_size": sum(spec.size_bytes for spec in specs),
    }
    weight_map = {name: file for file, shard in shards.items() for name in shard}
    write_json(folder / INDEX_NAME, {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))})


def write_json(path: Path, value: object) -> None:
    """`value` as a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")
