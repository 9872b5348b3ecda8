"""The weights of a program, out of a checkpoint of any flavour: one rank's part, in the dtypes that the program declares.

A weight declared i8 gets INT8 codes and its scale: as stored in a W8A8 checkpoint, else quantised here. A weight
declared as a float is decoded, and a scale declared beside it is ones. What fits as it is stays a view of the mapped file.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch

from runner.base.errors import CheckpointError, Diagnostic
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.checkpoint import FLOATS, INTEGERS, Checkpoint, Fields
from runner.checkpoint.encodings import quantise_rows
from runner.checkpoint.stored import may_be_quantised
from runner.execution.layouts import Weight
from runner.execution.storage import TORCH_DTYPES
from runner.language.notation import scale_of
from runner.models.names import naming_of
from runner.program.program import Program, Tensor
from runner.program.spans import host_reads

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""
Loaded = tuple[Weight, torch.Tensor | None]
"""A weight, and its scale if it is quantised."""
Read = tuple[torch.Tensor, torch.Tensor | None]
"""The same as it was read."""
Keep = Callable[[Tensor, torch.Tensor], Weight]
"""What is kept of a weight: its value, or a layout of it."""


def load_weights(
    program: Program,
    checkpoint: Checkpoint,
    config: Fields,
    device: str | torch.device = "cpu",
    *,
    rank: int = 0,
    size: int = 1,
    progress: Progress | None = None,
    loaded: MutableMapping[object, Loaded] | None = None,
    keep: Keep = lambda tensor, value: value,
    is_laid_out: Callable[[Tensor], bool] = lambda tensor: False,
) -> dict[int, Weight]:
    """Tensor id to torch tensor, of every weight that a task of `program` touches; rank `rank` of `size` reads its part only.

    `loaded` keeps what was read: programs that share it share the weights that they declare alike; `keep` says in which form,
    and `is_laid_out` of which it keeps no value: no page of their files stays in memory.
    Raises CheckpointError that names every weight which is missing, misshapen or mistyped.
    """
    tensors, checkpoint = weights_read(program), checkpoint.of(config)
    shared = {} if loaded is None else loaded
    loader = _Loader(program, checkpoint, config, torch.device(device), rank, size, shared, keep, is_laid_out)
    loader.checkpoint = checkpoint.with_forms({name: None for tensor in tensors for name in loader.names(tensor)})
    problems = [problem for tensor in tensors for problem in loader.misfits(tensor)]
    if not problems and not checkpoint.problems:
        problems = checkpoint.unusable(config, {name: None for tensor in tensors for name in loader.names(tensor)})
    if problems or checkpoint.problems:
        raise CheckpointError([*checkpoint.problems, *dict.fromkeys(problems)])
    total, done = sum(tensor.spec.size_bytes for tensor in tensors), 0
    result: dict[int, Weight] = {}
    for tensor in tensors:
        result[tensor.id] = loader.load(tensor)
        done += tensor.spec.size_bytes
        if progress is not None:
            progress(done, total)
    return result


def weights_read(program: Program) -> list[Tensor]:
    """Weights that some task, or a trip count, reads: a graph may declare more than one layer uses."""
    touched = {tensor for task in program.tasks for tensor in (*task.reads, *task.writes)}
    touched |= {tensor for _, trips in host_reads(program.body) for tensor in trips.reads}
    return [tensor for tensor in program.tensors if tensor.kind == "weight" and tensor.id in touched]


@dataclass
class _Loader:
    program: Program
    checkpoint: Checkpoint
    config: Fields
    device: torch.device
    rank: int
    size: int
    loaded: MutableMapping[object, Loaded]
    keep: Keep
    is_laid_out: Callable[[Tensor], bool]
    is_mapped: bool = True
    """Whether tensors are read as views of files."""

    @cached_property
    def _unmapped(self) -> Checkpoint:
        """The checkpoint, whose tensors are read into memory of their own."""
        return replace(self.checkpoint, mapped=False)

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        """The program's weights that have scales in the program, by the source of the scale.

        A scale comes with a weight of a dtype parameter, or is declared by its name on disk.
        """
        weights = [tensor for tensor in self.program.tensors if tensor.kind == "weight"]
        known = {tensor.source: tensor for tensor in weights}
        naming, names = naming_of(self.checkpoint.names), self.checkpoint.names
        on_disk = {self._first(tensor): tensor.source for tensor in weights}
        found: dict[str, Tensor] = {}
        for weight in weights:
            scale = known.get(scale_of(weight.source))
            if scale is not None and (weight.source.endswith(".weight") or scale.name == f"{weight.name}_scale"):
                found[scale.source] = weight
            name = self._first(weight)
            source = on_disk.get(naming.scale_of(name))
            if source is not None and source != weight.source and may_be_quantised(name, names):
                found[source] = weight
        return found

    def _first(self, tensor: Tensor) -> str:
        """The first checkpoint tensor of a program's, by its canonical name."""
        return self.checkpoint.named(tensor.source.replace(f"{{{tensor.stack}}}", "0"))

    def load(self, tensor: Tensor) -> Weight:
        """The value of a weight, or of a scale."""
        weight = self._weights.get(tensor.source)
        if weight is None:
            return self._pair(tensor)[0]
        if weight.spec.dtype != "i8":
            return torch.ones(tensor.spec.shape, device=self.device)
        scale = self._pair(weight)[1]
        assert scale is not None
        return scale

    def _pair(self, tensor: Tensor) -> Loaded:
        """A weight and its scale, read once for all that decides their values: source, spec, stack, shard, rank, device."""
        key = tensor.source, tensor.spec, tensor.stack, tensor.shard, self.rank, self.size, str(self.device)
        if key not in self.loaded:
            self.is_mapped = tensor.stack is None and not self.is_laid_out(tensor)
            value, scale = self._read(tensor)
            kept = self.keep(tensor, value.to(self.device))
            self.loaded[key] = kept, None if scale is None else scale.to(self.device)
        return self.loaded[key]

    def _read(self, tensor: Tensor) -> Read:
        shape = tensor.spec.shape
        if tensor.stack is None:
            value, scale = self._part(tensor)
            return value.reshape(shape), None if scale is None else scale.reshape(shape[:-1])
        values = torch.empty(shape, dtype=TORCH_DTYPES[tensor.spec.dtype])
        scales = torch.empty(shape[:-1]) if tensor.spec.dtype == "i8" else None
        for place, name in enumerate(self.names(tensor)):
            value, scale = self._one(name, tensor.spec.dtype, None)
            values[place] = value.reshape(shape[1:])
            if scales is not None and scale is not None:
                scales[place] = scale.reshape(shape[1:-1])
        return values, scales

    def _part(self, tensor: Tensor) -> Read:
        """A tensor by itself, or this rank's part of it; rows behind the last one are zeros."""
        name, dtype = self.names(tensor)[0], tensor.spec.dtype
        if tensor.shard is None:
            return self._one(name, dtype, None)
        held = tensor.spec.shape[tensor.shard]
        total = self._model_spec(name).shape[tensor.shard]
        lo, hi = (min(rank * held, total) for rank in (self.rank, self.rank + 1))
        if tensor.shard:
            value, scale = self._one(name, dtype, None)
            value = value.narrow(tensor.shard, lo, hi - lo)
        else:
            value, scale = self._one(name, dtype, (lo, hi))
        if hi - lo < held:
            value = _padded(value, tensor.shard, held)
            scale = None if scale is None or tensor.shard else _padded(scale, 0, held)
        return value, scale

    def _one(self, name: str, dtype: str, rows: tuple[int, int] | None) -> Read:
        """A checkpoint tensor, or its rows, as a program declares it."""
        checkpoint = self.checkpoint if self.is_mapped and self.checkpoint.how(name) == "plain" else self._unmapped
        if self._as_it_lies(name, dtype):
            return checkpoint.raw(name, rows), None
        if dtype != "i8":
            value = checkpoint.weight(name, rows)
            if problem := self.config.family.layout.unusable(name, value, self.config.values):
                raise CheckpointError(Diagnostic("K110", f"tensor '{name}' {problem}"))
            return value.to(TORCH_DTYPES[dtype]), None
        if checkpoint.how(name) == "w8a8":
            codes, scale = checkpoint.codes(name, rows)
            return codes, scale.float()
        return quantise_rows(checkpoint.weight(name, rows))

    def _as_it_lies(self, name: str, dtype: str) -> bool:
        """Whether a tensor that no model knows has the declared dtype, and no scale: its bytes are taken whatever they are."""
        checkpoint, stored = self.checkpoint, self.checkpoint.tensors[name]
        no_scale = naming_of(checkpoint.names).scale_of(name) not in checkpoint.tensors
        return name not in checkpoint.model and stored.spec.dtype == dtype and no_scale

    def names(self, tensor: Tensor) -> list[str]:
        """The checkpoint tensors that make up a program's tensor, each called as on disk or by its canonical name."""
        if tensor.stack is None:
            return [self.checkpoint.named(tensor.source)]
        held = tensor.spec.shape[0]
        first = self.rank * held
        names = (tensor.source.replace(f"{{{tensor.stack}}}", str(place)) for place in range(first, first + held))
        return [self.checkpoint.named(name) for name in names]

    def _model_spec(self, name: str) -> TensorSpec:
        """What the model has under a name; for what it does not know, what the checkpoint has."""
        return self.checkpoint.model.get(name) or self.checkpoint.tensors[name].spec

    def misfits(self, tensor: Tensor) -> list[Diagnostic]:
        """What keeps a weight from being loaded; scales are judged with their weights."""
        if tensor.source in self._weights:
            return []
        problems: list[Diagnostic] = []
        for name in self.names(tensor):
            if name not in self.checkpoint.tensors:
                spec = self.checkpoint.model.get(name) or _one_of(tensor)
                problems.append(Diagnostic("K101", f"tensor '{name}' {spec} is missing"))
                continue
            misfits = [] if self._as_it_lies(name, tensor.spec.dtype) else self.checkpoint.misfit(name, self._model_spec(name))
            problems += misfits or self._undeclared(tensor, name)
        return problems

    def _undeclared(self, tensor: Tensor, name: str) -> list[Diagnostic]:
        """Whether a graph declares a weight otherwise than the model has it."""
        spec = self._model_spec(name)
        wanted = tensor.spec.shape if tensor.stack is None else tensor.spec.shape[1:]
        have = list(spec.shape)
        if tensor.shard is not None and tensor.shard < len(have):
            have[tensor.shard] = -(-have[tensor.shard] // self.size)
        kinds = INTEGERS if spec.dtype in INTEGERS else (*FLOATS, "i8", spec.dtype)
        if prod(have) == prod(wanted) and have[-1:] == list(wanted[-1:]) and tensor.spec.dtype in kinds:
            return []
        part = f", of which rank {self.rank} of {self.size} holds {have}" if tensor.shard is not None else ""
        message = f"weight '{tensor.name}' is declared {tensor.spec}, but tensor '{name}' is {spec}{part}"
        return [Diagnostic("K109", message, tensor.mark)]


def _one_of(tensor: Tensor) -> TensorSpec:
    """The spec of one checkpoint tensor of a program's."""
    return tensor.spec if tensor.stack is None else TensorSpec(tensor.spec.dtype, tensor.spec.shape[1:])


def _padded(value: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    """`value` with zeros behind, to `size` along `dim`."""
    shape = list(value.shape)
    shape[dim] = size - shape[dim]
    return torch.cat((value, value.new_zeros(shape)), dim)
