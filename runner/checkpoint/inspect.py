"""What a checkpoint holds and whether it fits a configuration, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.base.errors import Diagnostic
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.own_config import own_config
from runner.config.config import Config


@dataclass(frozen=True, slots=True)
class Amount:
    """How many tensors of a kind there are, and their bytes."""

    tensors: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect_checkpoint` finds; `config` is None where there was none to compare with.

    flavour_source  what says the flavour
    runs_as         the flavour that the configuration computes in; None without one
    notes           what of the checkpoint the model of the configuration leaves
    """

    folder: str
    flavour: str
    flavour_source: str
    runs_as: str | None
    total: Amount
    shards: dict[str, Amount]
    dtypes: dict[str, Amount]
    unused_tensors: int
    unused: str
    config: str | None
    problems: tuple[Diagnostic, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the files are sound and hold the model of the configuration."""
        return self.config is not None and not self.problems

    def as_json(self) -> dict[str, Any]:
        """Plain data, for `--json`."""

        def amounts(items: dict[str, Amount]) -> dict[str, dict[str, int]]:
            return {name: {"tensors": item.tensors, "bytes": item.size_bytes} for name, item in items.items()}

        return {
            "folder": self.folder,
            "flavour": self.flavour,
            "flavour_source": self.flavour_source,
            "runs_as": self.runs_as,
            "tensors": self.total.tensors,
            "bytes": self.total.size_bytes,
            "shards": amounts(self.shards),
            "dtypes": amounts(self.dtypes),
            "unused_tensors": self.unused_tensors,
            "config": self.config,
            "fits": self.fits,
            "notes": list(self.notes),
            "problems": [{"code": problem.code, "message": problem.message} for problem in self.problems],
        }

    def __str__(self) -> str:
        lines = [
            f"checkpoint  {self.folder}",
            f"flavour     {self.flavour}, by {self.flavour_source}",
            f"tensors     {self.total.tensors:,} ({self.total.size_bytes:,} bytes) in {len(self.shards)} shards",
        ]
        lines += [f"  {name:<8}  {item.tensors:>7,} tensors  {item.size_bytes:>15,} bytes" for name, item in self.dtypes.items()]
        if self.unused_tensors:
            lines.append(f"unused      {self.unused_tensors:,} tensors of {self.unused}")
        if self.runs_as is not None:
            lines.append(f"runs as     {self.runs_as}")
        if self.config is None:
            lines.append("fits        not checked: no configuration")
        elif self.fits:
            lines.append(f"fits        {self.config}")
        else:
            number = "one problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
            lines.append(f"fits        {self.config}: no, {number}")
        return "\n".join((*lines, *(f"note: {note}" for note in self.notes), *map(str, self.problems)))


def inspect_checkpoint(folder: str | Path, config: Config | None = None) -> Inspection:
    """Look at a checkpoint, against `config` or its own `config.json`. Raises CheckpointError where there is none."""
    folder = Path(folder)
    problems: list[Diagnostic] = []
    checkpoint = Checkpoint.open(folder, None if config is None else config.family.layout)
    if config is None:
        config = own_config(folder, problems)
    checkpoint = checkpoint if config is None else checkpoint.of(config)
    config = config if checkpoint.model else None  # without tensors in it, there is nothing to compare with
    problems += checkpoint.problems if config is None else checkpoint.check(config)
    return Inspection(
        folder=str(folder),
        flavour=checkpoint.flavour,
        flavour_source=checkpoint.flavour_source,
        runs_as=None if config is None else config.family.layout.flavour(config.values),
        total=Amount(len(checkpoint.on_disk), checkpoint.size_bytes),
        shards=_amounts((item.shard.name, item.end - item.begin) for item in checkpoint.on_disk.values()),
        dtypes=_amounts((item.spec.dtype, item.end - item.begin) for item in checkpoint.on_disk.values()),
        unused_tensors=sum(map(checkpoint.is_unused, checkpoint.on_disk)),
        unused=checkpoint.names.unused,
        config=None if config is None else config.name,
        problems=tuple(problems),
        notes=() if config is None else tuple(checkpoint.notes(config)),
    )


def _amounts(items: Any) -> dict[str, Amount]:
    counts: dict[str, list[int]] = {}
    for name, size in items:
        counts.setdefault(name, []).append(size)
    return {name: Amount(len(sizes), sum(sizes)) for name, sizes in sorted(counts.items())}
