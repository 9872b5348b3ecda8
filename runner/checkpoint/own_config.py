"""The configuration that a checkpoint brings: its `config.json`, and what only its tensors say. Plans need it: no torch here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runner.base.errors import CheckpointError, ConfigError, Diagnostic, RinggraphError
from runner.checkpoint.headers import read_headers, refuse_parts
from runner.checkpoint.names import names_in
from runner.checkpoint.stored import flavour_of
from runner.config.config import Config, load_config
from runner.config.sources import Source, read_source
from runner.language.given import FLAVOUR, Given


def own_config(folder: Path, problems: list[Diagnostic]) -> Config | None:
    """The configuration that a checkpoint's `config.json` describes; None without one, or with one that has problems."""
    if not (folder / "config.json").is_file():
        return None
    try:
        return require_own_config(folder)
    except ConfigError as error:
        problems += error.diagnostics
        return None


def require_own_config(folder: str | Path) -> Config:
    """The configuration of a checkpoint's `config.json`. Raises CheckpointError without one, ConfigError if it has problems."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        refuse_parts(path.parent, sorted(shard.name for shard in path.parent.glob("*.safetensors")))
        hint = "name the model with --config, or put its config.json there"
        raise CheckpointError(f"checkpoint '{folder}' has no config.json", hint=hint)
    return load_config([with_flavour(path)])


def with_flavour(layer: str | Path) -> str | Path | Source:
    """A layer as it is; the `config.json` of a checkpoint with the flavour of its tensors, which the file need not say."""
    path = Path(layer)
    folder = path if path.is_dir() else path.parent
    if not (path.is_dir() or path.name == "config.json") or not (folder / "config.json").is_file():
        return layer
    try:
        names = names_in(folder)
        flavour = flavour_of(read_headers(folder, names.canonical)[0], names, {})
        source, _ = read_source(layer)
    except RinggraphError:  # whoever reads the tensors, or the configuration, tells what is wrong with them
        return layer
    return replace(source, given={**source.given, FLAVOUR: Given(flavour, option=f"tensors of '{folder}'")})
