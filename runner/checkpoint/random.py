"""Random checkpoints in the real layout, for tests, demonstrations and sizing.

A tensor's values depend on the seed and its name only: every flavour and sharding of one seed holds the same model.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from runner.base.errors import CheckpointError
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.checkpoint import Fields
from runner.checkpoint.encodings import encode
from runner.checkpoint.write import plan_shards, shard_names, write_index, write_json, write_shard
from runner.execution.storage import TORCH_DTYPES
from runner.models.deepseek_v4.hf_config import config_json
from runner.models.deepseek_v4.tensors import encoding, expected_tensors, plain_dtype, scale_name, stored_tensors

MAX_SHARD_BYTES = 2**30
MIN_SHARD_BYTES = 2**16

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def init_checkpoint(
    config: Fields,
    out: str | Path,
    *,
    seed: int = 0,
    flavour: str | None = None,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a random checkpoint of the model of `config` to the new folder `out`: whole or not at all.

    flavour          one of `FLAVOURS`; by default w8a8 where the configuration's precision says so, else its dtype
    dtype            of weights that a quantised flavour leaves plain: f32 or bf16 (default)
    max_shard_bytes  default: a quarter of the whole, between 64 KiB and 1 GiB

    Raises CheckpointError if `out` is in the way or cannot be written.
    """
    values = config.values
    flavour = flavour or ("w8a8" if values["precision"] == "w8a8" else str(values["dtype"]))
    plain = plain_dtype(flavour, dtype)
    stored = stored_tensors(values, flavour, dtype)
    total = sum(spec.size_bytes for spec in stored.values())
    limit = max_shard_bytes or min(MAX_SHARD_BYTES, max(MIN_SHARD_BYTES, total // 4))
    shards = plan_shards(weights_with_scales(stored), limit)
    model = RandomModel(values, plain, flavour, seed)

    def fill(folder: Path) -> None:
        files = dict(zip(shard_names(len(shards)), shards, strict=True))
        done = 0
        for name, specs in files.items():
            write_shard(folder / name, specs, lambda tensor: [model.stored(tensor)])
            done += sum(spec.size_bytes for spec in specs.values())
            if progress is not None:
                progress(done, total)
        write_index(folder, files)
        write_json(folder / "config.json", config_json(values, plain, quantisation_config(flavour)))

    return write_folder(Path(out), fill)


def write_folder(out: Path, fill: Callable[[Path], None]) -> Path:
    """Make the folder `out` by `fill` in a temporary one beside it that takes its name when done; raises CheckpointError."""
    refuse_existing(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise CheckpointError(f"checkpoint '{out}' cannot be written: {error.strerror}") from error
    try:
        temporary.chmod(0o755)
        fill(temporary)
        temporary.replace(out)
    except OSError as error:
        raise CheckpointError(f"checkpoint '{out}' cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def refuse_existing(out: Path) -> None:
    """Raises CheckpointError unless `out` is free, or an empty folder."""
    if out.is_symlink() or out.exists():
        if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
            return
        raise CheckpointError(f"'{out}' exists already", hint="remove it, or choose another place")


def quantisation_config(flavour: str) -> dict[str, Any] | None:
    """What `config.json` says about quantised weights."""
    if flavour in ("f32", "bf16"):
        return None
    if flavour == "w8a8":
        return {"quant_method": "w8a8", "weights": "int8 per output channel", "activations": "int8 per token"}
    scales = "ue8m0" if flavour in ("fp8-e8m0", "fp4") else "float32"
    result = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "scale_fmt": scales}
    return result | ({"expert_dtype": "fp4"} if flavour == "fp4" else {})


def weights_with_scales(stored: Mapping[str, TensorSpec]) -> Iterator[dict[str, TensorSpec]]:
    """Every weight together with its scale."""
    for name, spec in stored.items():
        if name.endswith(".scale"):
            continue
        scale = scale_name(name)
        yield {name: spec, scale: stored[scale]} if scale in stored and name.endswith(".weight") else {name: spec}


class RandomModel:
    """The tensors of a random model, as a flavour stores them."""

    def __init__(self, values: Mapping[str, Any], dtype: str, flavour: str, seed: int):
        self.values, self.flavour, self.seed = values, flavour, seed
        self.specs = expected_tensors(values, dtype)
        self._last: tuple[str, torch.Tensor, torch.Tensor | None] | None = None

    def stored(self, name: str) -> torch.Tensor:
        """The tensor of a stored name, a scale's included."""
        weight = name if name in self.specs else name.removesuffix("scale") + "weight"
        if self._last is None or self._last[0] != weight:
            value, scale = encode(self.plain(weight), encoding(weight, self.flavour))
            self._last = weight, value, scale
        _, value, scale = self._last
        if name == weight:
            return value
        assert scale is not None
        return scale

    def plain(self, name: str) -> torch.Tensor:
        """The unquantised tensor, in its layout's dtype."""
        spec = self.specs[name]
        generator = torch.Generator().manual_seed(_seed(self.seed, name))
        if name.endswith(".tid2eid"):
            return _distinct(spec.shape, self.values["n_routed_experts"], generator)
        mean, deviation = _statistics(name, spec.shape)
        value = torch.empty(spec.shape).normal_(mean, deviation, generator=generator)
        return value.to(TORCH_DTYPES[spec.dtype])


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little") >> 1


def _statistics(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation that keep every stage's rows near unit variance, and logits apart."""
    if name.endswith("norm.weight"):
        return 1.0, 0.1
    if name.endswith(("_base", ".ape", ".attn_sink")):
        return 0.0, 0.5
    if name.endswith("_scale"):
        return 0.7, 0.1
    if name.endswith(".gate.bias"):
        return 0.0, 0.05
    if name == "embed.weight":
        return 0.0, 1.0
    return 0.0, (2.0 if name == "head.weight" else 1.0) * shape[-1] ** -0.5


def _distinct(shape: tuple[int, ...], experts: int, generator: torch.Generator) -> torch.Tensor:
    """i64 rows of distinct experts, each row a random choice without order."""
    rows, topk = shape
    parts = [torch.rand(min(4096, rows - at), experts, generator=generator).topk(topk).indices for at in range(0, rows, 4096)]
    return torch.cat(parts)
