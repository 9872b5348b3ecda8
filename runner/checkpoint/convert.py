"""Checkpoints from one flavour to another, tensor by tensor, so that memory stays small whatever the model's size.

Finished shards are kept in `OUT.partial` with the errors of their tensors; an interrupted conversion that is started again
goes on behind them. The folder takes the name `OUT` when everything is there.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from runner.base.errors import CheckpointError, Diagnostic
from runner.base.files import remove_leftovers
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.checkpoint import Checkpoint, Fields
from runner.checkpoint.description import PATTERN as DESCRIPTIONS
from runner.checkpoint.encodings import decode, encode, plain_dtype, stored_tensors, weights_with_scales
from runner.checkpoint.headers import INDEX_SUFFIX, UNFINISHED_NAME
from runner.checkpoint.random import refuse_existing, some_tensors
from runner.checkpoint.write import plan_shards, shard_names, write_index, write_json, write_shard
from runner.execution.storage import TORCH_DTYPES
from runner.language.given import GENERATION
from runner.models.names import naming_of

MAX_SHARD_BYTES = 2**30
REPORT_NAME = "conversion_report.json"
LOCK_NAME = "conversion.lock"
PIECE_BYTES = 2**22
KEPT_SUFFIXES = (".json", ".txt", ".model", ".jinja")
"""Tokenizer and the like, copied beside the converted weights."""

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True, slots=True)
class TensorError:
    """How far a converted tensor is from the one read: norm of the difference over the norm, and the largest difference."""

    name: str
    stored_from: str
    stored_as: str
    relative: float
    largest: float


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written: the shards made now, those found finished, every tensor's error, and what was left out, as sentences."""

    folder: Path
    flavour: str
    shards_written: int
    shards_kept: int
    errors: tuple[TensorError, ...]
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[TensorError, ...]:
        """The tensors that differ from what was read, the worst first."""
        return tuple(sorted((e for e in self.errors if e.relative > 0), key=lambda e: -e.relative))


def convert(
    source: str | Path,
    out: str | Path,
    config: Fields,
    *,
    to: str = "w8a8",
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> Conversion:
    """Write the checkpoint `source` of the model of `config` as flavour `to` into the new folder `out`.

    `dtype` is that of weights which `to` leaves plain: f32 or bf16; by default as the plain weights are stored. Raises
    CheckpointError for a checkpoint that does not fit, weights that are not finite, and an `out` or `out.partial` in the way.
    """
    checkpoint, out = Checkpoint.open(source, config.family.layout, mapped=False).of(config), Path(out)
    plain_dtype(to, dtype)
    some_tensors(checkpoint.model, config)
    checkpoint.require(config)
    refuse_existing(out)
    work = _Work(checkpoint, config, to, dtype, max_shard_bytes)
    partial = out.with_name(out.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with _alone(partial):
            _start(partial, work.identity())
            remove_leftovers(partial)
            errors, written = _write_shards(work, partial, progress)
            _refuse_unusable(errors)
            _finish(work, partial, config, errors)
        partial.replace(out)
    except OSError as error:
        raise CheckpointError(f"checkpoint '{out}' cannot be written: {error.strerror or error}") from error
    return Conversion(out, to, written, len(work.shards) - written, tuple(errors), work.notes)


class _Work:
    """What is to be written, and from what."""

    def __init__(self, checkpoint: Checkpoint, config: Fields, to: str, dtype: str | None, max_shard_bytes: int):
        self.checkpoint, self.to, self.layout = checkpoint, to, config.family.layout
        self.notes = tuple(checkpoint.notes(config))
        stored = {checkpoint.tensors[name].spec.dtype for name in self.layout.plain[:1] if name in checkpoint.tensors}
        self.dtype = plain_dtype(to, dtype or ("f32" if stored == {"f32"} else "bf16"))
        self.values = checkpoint.values_of(config)
        targets = stored_tensors(self.layout, self.values, to, self.dtype)
        self.as_stored: dict[str, tuple[str, tuple[int, ...]]] = {}
        if not self.notes:
            targets |= self._unused()
        shards = plan_shards(weights_with_scales(targets, naming_of(self.layout)), max_shard_bytes)
        self.shards = dict(zip(shard_names(len(shards)), shards, strict=True))

    def _unused(self) -> dict[str, TensorSpec]:
        """The unused tensors as they are stored: bytes where the dtype is none of ours."""
        found: dict[str, TensorSpec] = {}
        for name, item in self.checkpoint.tensors.items():
            if not self.checkpoint.is_unused(name):
                continue
            if item.spec.dtype in TORCH_DTYPES:
                found[name] = item.spec
            else:
                found[name] = TensorSpec("u8", (item.end - item.begin,))
                self.as_stored[name] = item.header_dtype, item.spec.shape
        return found

    def identity(self) -> dict[str, Any]:
        """What tells this conversion from another one."""
        files = [(path, path.stat()) for path in self.checkpoint.shards]
        return {
            "source": str(self.checkpoint.folder.resolve()),
            "files": {path.name: [stat.st_size, stat.st_mtime_ns] for path, stat in files},
            "to": self.to,
            "dtype": self.dtype,
            "shards": {name: {key: str(spec) for key, spec in shard.items()} for name, shard in self.shards.items()},
        }

    def write(self, path: Path, shard: Mapping[str, TensorSpec]) -> list[TensorError]:
        """Write one shard; returns the errors of its weights."""
        errors: list[TensorError] = []
        scales: dict[str, list[torch.Tensor]] = {}

        def pieces(name: str) -> Iterator[torch.Tensor]:
            if name in scales:
                yield from scales.pop(name)
            elif name in self.checkpoint.model:
                yield from self._weight(name, shard[name], scales, errors)
            else:
                yield self.checkpoint.raw(name)

        write_shard(path, shard, pieces, self.as_stored)
        return errors

    def _weight(
        self, name: str, spec: TensorSpec, scales: dict[str, list[torch.Tensor]], errors: list[TensorError]
    ) -> Iterator[torch.Tensor]:
        """A weight's stored pieces; its scales and its error are left in `scales` and `errors`."""
        how, stored = self.layout.encoding(name, self.to), self.checkpoint.tensors[name].spec
        read_as = stored.dtype if self.checkpoint.how(name) == "plain" else self.checkpoint.how(name)
        error = _Error()
        for rows in _row_ranges(spec):
            before = self.checkpoint.weight(name, rows)
            if not before.is_floating_point():
                yield before.to(TORCH_DTYPES[spec.dtype])
                continue
            codes, scale = self._encode(name, rows, before, spec)
            error.add(before, codes if codes.dtype == before.dtype else decode(codes, scale, how))
            if scale is not None:
                scales.setdefault(naming_of(self.layout).scale_of(name), []).append(scale)
            yield codes
        errors.append(TensorError(name, read_as, spec.dtype if how == "plain" else how, *error.result()))

    def _encode(
        self, name: str, rows: tuple[int, int], before: torch.Tensor, spec: TensorSpec
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Rows of a weight as the flavour stores them: as they are where they are stored so already."""
        how = self.layout.encoding(name, self.to)
        if how == "plain":
            return before.to(TORCH_DTYPES[spec.dtype]), None
        if self.checkpoint.how(name) == how:
            codes, scale = self.checkpoint.codes(name, rows)
            if how != "fp4" or scale.dtype == torch.float8_e8m0fnu:
                return codes.view(TORCH_DTYPES[spec.dtype]), scale if how in ("fp4", "fp8-e8m0") else scale.float()
        return encode(before.float(), how)


class _Error:
    """Relative and largest difference of a tensor that comes in pieces."""

    def __init__(self) -> None:
        self.difference = self.norm = self.largest = 0.0

    def add(self, before: torch.Tensor, after: torch.Tensor) -> None:
        if after is before:
            finite = bool(before.isfinite().all())
            self.largest = self.largest if finite else float("nan")
            return
        before = before.float()
        step = after.float() - before
        largest = max(-step.min().item(), step.max().item())
        self.difference += torch.linalg.vector_norm(step).item() ** 2
        self.norm += torch.linalg.vector_norm(before).item() ** 2
        self.largest = max(self.largest, largest) if isfinite(largest) and isfinite(self.largest) else float("nan")

    def result(self) -> tuple[float, float]:
        return (self.difference / self.norm) ** 0.5 if self.norm else 0.0, self.largest


def _row_ranges(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """Row ranges of a few MiB (what a cache holds), at multiples of 128, so that block scales fall into one of them."""
    rows = spec.shape[0]
    row_bytes = max(1, spec.num_elements // rows * 4)
    step = max(128, PIECE_BYTES // row_bytes // 128 * 128)
    return ((lo, min(lo + step, rows)) for lo in range(0, rows, step))


def _write_shards(work: _Work, partial: Path, progress: Progress | None) -> tuple[list[TensorError], int]:
    """Write the shards that are not finished; returns all tensors' errors and how many shards were written."""
    sizes = {name: sum(spec.size_bytes for spec in shard.values()) for name, shard in work.shards.items()}
    errors: list[TensorError] = []
    done = written = 0
    for name, shard in work.shards.items():
        record = partial / f"{name}.errors.json"
        if record.is_file() and (partial / name).is_file():
            found = [TensorError(**entry) for entry in json.loads(record.read_text(encoding="utf-8"))]
        else:
            found = work.write(partial / name, shard)
            write_json(record, [asdict(error) for error in found])
            written += 1
        errors += found
        done += sizes[name]
        if progress is not None:
            progress(done, sum(sizes.values()))
    return errors, written


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Refuses a second conversion to the same place at the same time; the lock ends with the process."""
    with (partial / LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"'{partial}' is in use: another conversion to it is running") from None
        yield


def _start(partial: Path, identity: dict[str, Any]) -> None:
    """Begin a conversion, or go on with the one that was begun here, if it is the same."""
    plan = partial / UNFINISHED_NAME
    if not plan.is_file():
        write_json(plan, identity)
    try:
        same = json.loads(plan.read_text(encoding="utf-8")) == identity
    except ValueError:
        same = False
    if not same:
        message = f"'{partial}' holds an unfinished conversion of another checkpoint, or to another flavour"
        raise CheckpointError(message, hint="remove it to start afresh")


def _refuse_unusable(errors: list[TensorError]) -> None:
    unusable = [error.name for error in errors if error.largest != error.largest]
    if unusable:
        raise CheckpointError([Diagnostic("K110", f"tensor '{name}' has values that are not finite") for name in unusable])


def _write_generation(source: Path, partial: Path, fields: Mapping[str, Any]) -> None:
    """What lies in the source's generation_config.json, its fields of the model those that config.json has now."""
    path = source / GENERATION
    if path.is_file():
        held = json.loads(path.read_text(encoding="utf-8"))
        write_json(partial / GENERATION, {key: fields.get(key, value) for key, value in held.items()})


def _is_of_tensors(path: Path) -> bool:
    """Whether a file says something of the tensors beside it, which is not true of those that are written."""
    return path.name.endswith(INDEX_SUFFIX) or path.match(DESCRIPTIONS)


def _finish(work: _Work, partial: Path, config: Fields, errors: list[TensorError]) -> None:
    """Index, configuration, report, and what else lies beside the weights; the records of progress go."""
    write_index(partial, work.shards)
    source = work.checkpoint.folder
    own = source / "config.json"
    described = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    values = work.values if work.notes else config.values
    written = work.layout.config_json(values, work.dtype, work.to, described)
    if written:
        write_json(partial / "config.json", written)
    _write_generation(source, partial, {key: value for key, value in written.items() if key in config.values})
    write_json(partial / REPORT_NAME, [asdict(error) for error in errors])
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in KEPT_SUFFIXES and not (partial / path.name).exists() and not _is_of_tensors(path):
            shutil.copyfile(path, partial / path.name)
    for name in (*(f"{shard}.errors.json" for shard in work.shards), UNFINISHED_NAME, LOCK_NAME):
        (partial / name).unlink()
