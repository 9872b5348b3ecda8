"""What a checkpoint holds and whether it fits a configuration, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.base.errors import CheckpointError, ConfigError, Diagnostic
from runner.checkpoint.checkpoint import Checkpoint
from runner.config.config import Config, load_config


@dataclass(frozen=True, slots=True)
class Amount:
    """How many tensors of a kind there are, and their bytes."""

    tensors: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect_checkpoint` finds; `config` is None where there was none to compare with."""

    folder: str
    flavour: str
    total: Amount
    shards: dict[str, Amount]
    dtypes: dict[str, Amount]
    unused_tensors: int
    unused: str
    config: str | None
    problems: tuple[Diagnostic, ...]

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
            "tensors": self.total.tensors,
            "bytes": self.total.size_bytes,
            "shards": amounts(self.shards),
            "dtypes": amounts(self.dtypes),
            "unused_tensors": self.unused_tensors,
            "config": self.config,
            "fits": self.fits,
            "problems": [{"code": problem.code, "message": problem.message} for problem in self.problems],
        }

    def __str__(self) -> str:
        lines = [
            f"checkpoint  {self.folder}",
            f"flavour     {self.flavour}",
            f"tensors     {self.total.tensors:,} ({self.total.size_bytes:,} bytes) in {len(self.shards)} shards",
        ]
        lines += [f"  {name:<8}  {item.tensors:>7,} tensors  {item.size_bytes:>15,} bytes" for name, item in self.dtypes.items()]
        if self.unused_tensors:
            lines.append(f"unused      {self.unused_tensors:,} tensors of {self.unused}")
        if self.config is None:
            lines.append("fits        not checked: no configuration")
        elif self.fits:
            lines.append(f"fits        {self.config}")
        else:
            lines.append(f"fits        {self.config}: no, {len(self.problems)} problems")
        return "\n".join((*lines, *map(str, self.problems)))


def inspect_checkpoint(folder: str | Path, config: Config | None = None) -> Inspection:
    """Look at a checkpoint, against `config` or its own `config.json`. Raises CheckpointError where there is none."""
    folder = Path(folder)
    problems: list[Diagnostic] = []
    checkpoint = Checkpoint.open(folder, None if config is None else config.family.layout)
    if config is None:
        config = own_config(folder, problems)
    problems += checkpoint.problems if config is None else checkpoint.check(config)
    return Inspection(
        folder=str(folder),
        flavour=checkpoint.flavour,
        total=Amount(len(checkpoint.tensors), checkpoint.size_bytes),
        shards=_amounts((item.shard.name, item.end - item.begin) for item in checkpoint.tensors.values()),
        dtypes=_amounts((item.spec.dtype, item.end - item.begin) for item in checkpoint.tensors.values()),
        unused_tensors=sum(map(checkpoint.names.is_unused, checkpoint.tensors)),
        unused=checkpoint.names.unused,
        config=None if config is None else config.name,
        problems=tuple(problems),
    )


def own_config(folder: Path, problems: list[Diagnostic]) -> Config | None:
    """The configuration that a checkpoint's `config.json` describes; None without one, or with one that has problems."""
    if not (folder / "config.json").is_file():
        return None
    try:
        return load_config([folder / "config.json"])
    except ConfigError as error:
        problems += error.diagnostics
        return None


def require_own_config(folder: str | Path) -> Config:
    """The configuration of a checkpoint's `config.json`. Raises CheckpointError without one, ConfigError if it has problems."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        hint = "name the model with --config, or put its config.json there"
        raise CheckpointError(f"checkpoint '{folder}' has no config.json", hint=hint)
    return load_config([path])


def _amounts(items: Any) -> dict[str, Amount]:
    counts: dict[str, list[int]] = {}
    for name, size in items:
        counts.setdefault(name, []).append(size)
    return {name: Amount(len(sizes), sum(sizes)) for name, sizes in sorted(counts.items())}
