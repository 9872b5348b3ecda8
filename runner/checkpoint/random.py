"""Random checkpoints in the real layout, for tests, demonstrations and sizing.

A tensor's values depend on the seed and its name only: every flavour and sharding of one seed holds the same model.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import torch

from runner.base.errors import CheckpointError
from runner.base.files import removed_when_ended
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.checkpoint import Fields
from runner.checkpoint.encodings import encode, plain_dtype, stored_tensors, weights_with_scales
from runner.checkpoint.forms.arranging import Arrangement
from runner.checkpoint.forms.reading import value_of
from runner.checkpoint.headers import Stored
from runner.checkpoint.write import plan_shards, shard_names, write_index, write_json, write_shard
from runner.execution.storage import TORCH_DTYPES
from runner.models.names import naming_of

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

    flavour          one of `FLAVOURS`; by default the one that the configuration runs as it is
    dtype            of weights that a quantised flavour leaves plain: f32 or bf16 (default)
    max_shard_bytes  default: a quarter of the whole, between 64 KiB and 1 GiB

    Raises CheckpointError if `out` is in the way or cannot be written.
    """
    values, layout = config.values, config.family.layout
    flavour = flavour or layout.flavour(values)
    plain = plain_dtype(flavour, dtype)
    stored = some_tensors(stored_tensors(layout, values, flavour, dtype), config)
    total = sum(spec.size_bytes for spec in stored.values())
    limit = max_shard_bytes or min(MAX_SHARD_BYTES, max(MIN_SHARD_BYTES, total // 4))
    shards = plan_shards(weights_with_scales(stored, naming_of(layout)), limit)
    model = RandomModel(config, plain, flavour, seed)

    def fill(folder: Path) -> None:
        files = dict(zip(shard_names(len(shards)), shards, strict=True))
        done = 0
        for name, specs in files.items():
            write_shard(folder / name, specs, lambda tensor: [model.stored(tensor)])
            done += sum(spec.size_bytes for spec in specs.values())
            if progress is not None:
                progress(done, total)
        write_index(folder, files)
        if described := layout.config_json(values, plain, flavour, {}):
            write_json(folder / "config.json", described)

    return write_folder(Path(out), fill)


def some_tensors(stored: Mapping[str, TensorSpec], config: Fields) -> Mapping[str, TensorSpec]:
    """The tensors; raises CheckpointError where there are none, as for a configuration of no model."""
    if not stored:
        hint = "name a model with --config, or declare its tensors in a section 'checkpoint' of a layer"
        raise CheckpointError(f"the configuration has no checkpoint: its family is '{config.family.name}'", hint=hint)
    return stored


def write_folder(out: Path, fill: Callable[[Path], None]) -> Path:
    """Make the folder `out` by `fill` in a temporary one beside it that takes its name when done; raises CheckpointError."""
    refuse_existing(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise CheckpointError(f"checkpoint '{out}' cannot be written: {error.strerror}") from error
    try:
        with removed_when_ended(temporary):
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


class RandomModel:
    """The tensors of a random model of a configuration, as a flavour stores them; `dtype` is that of plain weights."""

    def __init__(self, config: Fields, dtype: str, flavour: str, seed: int):
        self.values, self.layout = config.values, config.family.layout
        self.flavour, self.seed = flavour, seed
        self.specs = self.layout.expected(self.values, dtype)
        naming = naming_of(self.layout)
        self._weights = {naming.scale_of(weight): weight for weight in self.specs}
        self._last: tuple[str, torch.Tensor, torch.Tensor | None] | None = None

    def stored(self, name: str) -> torch.Tensor:
        """The tensor of a stored name, a scale's included."""
        weight = name if name in self.specs else self._weights[name]
        if self._last is None or self._last[0] != weight:
            value, scale = encode(self.plain(weight), self.layout.encoding(weight, self.flavour))
            self._last = weight, value, scale
        _, value, scale = self._last
        if name == weight:
            return value
        assert scale is not None
        return scale

    def asked(self, name: str) -> torch.Tensor | None:
        """The unquantised tensor of any name and in any form that a graph may ask for; None for one that the model has not."""
        found = self._arranged.tensor(self.layout.canonical(self.layout.of_graph(name, self.values)))
        return None if found is None else value_of(found, None, self._rows)

    @cached_property
    def _arranged(self) -> Arrangement:
        nowhere = {name: Stored(name, name, Path(), spec, 0, spec.size_bytes, spec.dtype) for name, spec in self.specs.items()}
        return Arrangement(nowhere, self.layout, self.values, self.specs)

    def _rows(self, stored: Stored, rows: tuple[int, int] | None) -> torch.Tensor:
        value = self.plain(stored.name)
        return value if rows is None else value[rows[0] : rows[1]]

    def plain(self, name: str) -> torch.Tensor:
        """The unquantised tensor, in its layout's dtype."""
        generator = torch.Generator().manual_seed(_seed(self.seed, name))
        value = self.layout.random(name, self.specs[name], self.values, generator)
        return value.to(TORCH_DTYPES[self.specs[name].dtype])


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little") >> 1
