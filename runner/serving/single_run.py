"""One run of one graph, for people who write graphs and ops: tensors by name, random values for what is not given, comparison."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from runner.base.errors import RinggraphError, did_you_mean
from runner.base.files import whole_file
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.checkpoint import Fields
from runner.checkpoint.encodings import quantise_rows
from runner.checkpoint.random import RandomModel
from runner.checkpoint.stored import may_be_quantised
from runner.checkpoint.write import file_header
from runner.execution.run import TaskTime
from runner.execution.storage import TORCH_DTYPES
from runner.language.notation import weight_of
from runner.models.names import naming_of
from runner.program.program import Program, Tensor


def tensor_names(program: Program) -> dict[str, int]:
    """Every tensor by a name of its own: `layer_2.moe.x_mixed`, the path where it is created and its name.

    Externals are called by their names, states and weights that share one by what they are called outside (`layers.2.kv`). Where
    that is not unique later ones get `~2`, `~3`, ...
    """
    creator = {tensor: task.path for task in program.tasks for tensor in task.creates}
    names: dict[str, int] = {}
    seen: dict[str, int] = {}
    shared = Counter(tensor.name for tensor in program.tensors if not tensor.is_local)
    for tensor in program.tensors:
        where = creator.get(tensor.id, "").rpartition(".")[0]
        name = f"{where}.{tensor.name}" if where else tensor.name
        if tensor.source and (tensor.kind == "state" or (tensor.kind == "weight" and shared[tensor.name] > 1)):
            name = tensor.source
        seen[name] = seen.get(name, 0) + 1
        names[name if seen[name] == 1 else f"{name}~{seen[name]}"] = tensor.id
    return names


def select(names: Mapping[str, int], patterns: Iterable[str]) -> dict[str, int]:
    """The tensors that `patterns` mean: a full name, a last name (`x_mixed`: in every layer), or a glob (`layer_2.*`).

    Raises RinggraphError that names every pattern without a match.
    """
    found: dict[str, int] = {}
    problems = []
    for pattern in patterns:
        exact = pattern in names
        matched = [n for n in names if n == pattern or (not exact and (_last(n) == pattern or fnmatchcase(n, pattern)))]
        if not matched:
            close = get_close_matches(pattern, [*names, *map(_last, names)], 1)
            problems.append(f"no tensor is called '{pattern}'" + (f"; did you mean '{close[0]}'?" if close else ""))
        found |= {name: names[name] for name in matched}
    if problems:
        raise RinggraphError("\n".join(problems))
    return found


def _last(name: str) -> str:
    return name.rpartition(".")[2].partition("~")[0]


class RandomExternals:
    """Values for tensors that nobody gave, each from the seed and its name alone.

    Weights that the model knows are as `checkpoint init` makes them; other floats are normal, weights divided by the square
    root of their last dimension; integers are zeros, which every table and index allows.
    """

    def __init__(self, config: Fields, seed: int):
        self._model = RandomModel(config, "f32", "f32", seed)
        self._seed = seed

    def value(self, tensor: Tensor, weights: Mapping[str, Tensor]) -> torch.Tensor:
        """A tensor of exactly the declared shape and dtype; `weights` are the program's, by source."""
        dtype = TORCH_DTYPES[tensor.spec.dtype]
        if tensor.kind == "weight":
            scaled = self._scaled(tensor, weights)
            if scaled is not None:
                return self._scale(scaled, tensor.spec)
            value = self._plain(tensor)
            return quantise_rows(value)[0] if tensor.spec.dtype == "i8" else value.to(dtype)
        if not dtype.is_floating_point or tensor.kind != "input":
            return torch.zeros(tensor.spec.shape, dtype=dtype)
        return self._normal(tensor, 1.0).to(dtype)

    def _scaled(self, tensor: Tensor, weights: Mapping[str, Tensor]) -> Tensor | None:
        """The weight that a tensor is the scale of: it came with it, or has its scale's name on disk."""
        if tensor.source.endswith(".scale") and (weight := weights.get(weight_of(tensor.source))) is not None:
            return weight
        names = self._model.layout
        own = names.canonical(_first(tensor))
        for name, is_scale in naming_of(names).weights_of(own):
            if is_scale and name != own and may_be_quantised(name, names):
                return next((weight for weight in weights.values() if names.canonical(_first(weight)) == name), None)
        return None

    def _scale(self, weight: Tensor, spec: TensorSpec) -> torch.Tensor:
        if weight.spec.dtype != "i8":
            return torch.ones(spec.shape)
        return quantise_rows(self._plain(weight))[1].reshape(spec.shape)

    def _plain(self, tensor: Tensor) -> torch.Tensor:
        """A weight before quantisation."""
        shape = tensor.spec.shape
        names = [tensor.source]
        if tensor.stack is not None:
            names = [tensor.source.replace(f"{{{tensor.stack}}}", str(i)) for i in range(shape[0])]
        parts = [part for name in names if (part := self._model.asked(name)) is not None]
        if parts and len(parts) == len(names):
            whole = parts[0] if tensor.stack is None else torch.stack(parts)
            if whole.numel() == tensor.spec.num_elements:
                return whole.reshape(shape)
            if tensor.shard is not None and whole.dim() == len(shape) and whole.shape[tensor.shard] >= shape[tensor.shard]:
                return whole.narrow(tensor.shard, 0, shape[tensor.shard])
        if not TORCH_DTYPES[tensor.spec.dtype].is_floating_point and tensor.spec.dtype != "i8":
            return torch.zeros(shape, dtype=TORCH_DTYPES[tensor.spec.dtype])
        return self._normal(tensor, max(1, shape[-1] if shape else 1) ** -0.5)

    def _normal(self, tensor: Tensor, deviation: float) -> torch.Tensor:
        digest = hashlib.sha256(f"{self._seed}:{tensor.kind}:{tensor.source or tensor.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.empty(tensor.spec.shape).normal_(0, deviation, generator=generator)


def _first(tensor: Tensor) -> str:
    """The name of the first checkpoint tensor of a program's."""
    return tensor.source.replace(f"{{{tensor.stack}}}", "0")


def external_tensors(
    program: Program,
    given: Mapping[str, torch.Tensor],
    weights: Mapping[int, torch.Tensor] | None,
    random: RandomExternals,
    device: torch.device,
) -> dict[int, torch.Tensor]:
    """A torch tensor for every tensor that is not local.

    `given` are tensors by name (see `given_to`), which win over `weights` (of a checkpoint, by tensor id), which win over random
    ones. Raises RinggraphError for given tensors that do not fit, that nothing is called, or that several tensors are called.
    """
    externals = [tensor for tensor in program.tensors if not tensor.is_local]
    by_source = {tensor.source: tensor for tensor in externals if tensor.kind == "weight"}
    values, problems = given_to(externals, given)
    found: dict[int, torch.Tensor] = {}
    for tensor in externals:
        value = values.get(tensor.id)
        if value is None:
            value = weights.get(tensor.id) if weights is not None else None
            found[tensor.id] = (random.value(tensor, by_source) if value is None else value).to(device)
        elif tuple(value.shape) != tensor.spec.shape or value.dtype != TORCH_DTYPES[tensor.spec.dtype]:
            got = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
            problems.append(f"{tensor.kind} '{tensor.name}' is given as {got}, expected {tensor.spec}")
        else:
            found[tensor.id] = value.to(device)
    if problems:
        raise RinggraphError("\n".join(problems))
    return found


def given_to(externals: Sequence[Tensor], given: Mapping[str, torch.Tensor]) -> tuple[dict[int, torch.Tensor], list[str]]:
    """Given tensors by the id of the tensor that each is for, and what is wrong with their names.

    A name is that of one external tensor, or what it is called outside (`layers.3.k_cache`), or a glob over the latter for all
    that match (`layers.*.k_cache`). A full name wins over a glob.
    """
    found: dict[int, torch.Tensor] = {}
    problems, unknown = [], list[str]()
    for name in sorted(given, key=lambda name: "*" in name):  # full names first
        matched = [t for t in externals if t.name == name] or [t for t in externals if t.source == name]
        if len(matched) > 1:
            source = matched[0].source
            every = ".".join("*" if part.isdecimal() else part for part in source.split("."))
            message = f"'{name}' is the name of {len(matched)} tensors, one of which is called '{source}' outside"
            problems.append(f"{message}\nhint: give each by what it is called outside, or all of them by a glob, as in '{every}'")
            continue
        if not matched and "*" in name:
            matched = [t for t in externals if fnmatchcase(t.source, name)]
        if not matched:
            unknown.append(name)
        elif len(matched) == 1 and "*" not in name and matched[0].id in found:
            problems.append(f"'{name}' is given twice, as '{matched[0].name}' and as '{matched[0].source}'")
        for tensor in matched:
            found.setdefault(tensor.id, given[name])
    if unknown:
        more = f", nor {len(unknown) - 1:,} others that are given" if len(unknown) > 1 else ""
        hint = did_you_mean(unknown[0], {name for tensor in externals for name in (tensor.name, tensor.source)})
        if hint is None and "." in unknown[0]:  # as states are called outside
            hint = "a dump goes to graphs that have its states; '--dump NAMES' of its run says which it takes along"
        problems.append(f"no input, weight or state is called '{unknown[0]}'{more}" + (f"\nhint: {hint}" if hint else ""))
    return found, problems


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, or of all such files in a folder; raises RinggraphError."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise RinggraphError(f"'{path}' holds no .safetensors file")
    found: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            found |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise RinggraphError(f"'{file}' cannot be read: {error}") from error
    return found


MADE = "ringgraph.made"
"""In the metadata of a dump: names of tensors that another run does not take back."""


def read_given(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of `read_tensors` that a run takes: of another run's dump without what that made; raises RinggraphError."""
    found = read_tensors(path)
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        with safe_open(file, "pt") as opened:
            described = opened.metadata() or {}
        try:
            made = json.loads(described.get(MADE, "[]"))
        except ValueError:
            made = None
        if not isinstance(made, list) or not all(isinstance(name, str) for name in made):
            raise RinggraphError(f"'{file}' cannot be read: its '{MADE}' is no list of names")
        for name in made:
            found.pop(name, None)
    return found


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], made: Sequence[str] = ()) -> None:
    """Writes a safetensors file, whole or not at all, parents included; raises OSError.

    `made` names those that `read_given` leaves out.
    """
    described = {MADE: json.dumps(sorted(made))} if made else None
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    specs = {name: TensorSpec(ours[value.dtype], tuple(value.shape)) for name, value in sorted(tensors.items())}
    header, begins = file_header(specs, described=described)
    with whole_file(path) as partial, partial.open("wb") as file:  # not by safetensors: that makes files 0600, of devices too
        file.write(header)
        for name in begins:
            file.write(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One named tensor against its golden value. `relative` is the norm of the difference over the golden's norm.

    `first` is the first element (index, got, golden) beyond the tolerance; `problem` says why nothing could be compared.
    """

    name: str
    max_abs: float = 0.0
    max_rel: float = 0.0
    relative: float = 0.0
    num_wrong: int = 0
    first: tuple[tuple[int, ...], float, float] | None = None
    problem: str | None = None

    @property
    def agrees(self) -> bool:
        return self.problem is None and self.num_wrong == 0


def compare(name: str, got: torch.Tensor, golden: torch.Tensor, rtol: float, atol: float) -> Comparison:
    """Elementwise: floats within `atol + rtol * |golden|` (NaN only where the golden value is NaN), everything else equal."""
    if got.shape != golden.shape:
        return Comparison(name, problem=f"shape {list(got.shape)}, golden {list(golden.shape)}")
    if got.dtype.is_floating_point != golden.dtype.is_floating_point:
        return Comparison(name, problem=f"dtype {_dtype(got)}, golden {_dtype(golden)}")
    exact = not golden.dtype.is_floating_point
    a, b = got.detach().cpu().double(), golden.detach().cpu().double()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, 0.0, (a - b).abs())
    wrong = ~same if exact else ~(same | (b.isfinite() & (difference <= atol + rtol * b.abs())))
    relative = torch.where(same, 0.0, difference / b.abs().clamp_min(1e-30))
    first = None
    if wrong.any():
        index = tuple(int(i) for i in wrong.nonzero()[0])
        first = (index, float(a[index]), float(b[index]))
    norm = float(b.nan_to_num().norm())
    return Comparison(
        name,
        float(difference.max()) if a.numel() else 0.0,
        float(relative.max()) if a.numel() else 0.0,
        float(difference.norm()) / norm if norm else float(difference.norm()),
        int(wrong.sum()),
        first,
    )


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def profile_report(graph: str, config: str, deploy: str, times: Sequence[TaskTime]) -> dict[str, Any]:
    """Measured durations as `ringgraph schedule --profile` reads them: microseconds per task and per op."""
    per_op: dict[str, list[float]] = {}
    for time in times:
        per_op.setdefault(time.op, []).append(time.elapsed_ns / 1000)
    ops = {op: {"count": len(us), "mean_us": sum(us) / len(us), "total_us": sum(us)} for op, us in sorted(per_op.items())}
    tasks = [{"path": time.path, "op": time.op, "us": time.elapsed_ns / 1000} for time in times]
    return {"graph": graph, "config": config, "deploy": deploy, "ops": ops, "tasks": tasks}
