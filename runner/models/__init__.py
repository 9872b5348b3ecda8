"""Families of models, found by name: folders here, layers `graphs/NAME/family.yaml`, and what installed packages bring by entry
points. `protocols` is the door."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from importlib.resources import files
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from runner.base.errors import RinggraphError, did_you_mean
from runner.models.protocols import ModelFamily

GROUP = "ringgraph.models"
"""Entry points that name a `ModelFamily`: an object, a class or function without arguments that gives one, or a package in whose
folder a file `family.yaml` declares it."""


BASE_LAYER = "family.yaml"
"""A file of this name in a folder of graphs declares the family of the folder's name."""
DECLARED = "declared"
"""The folder here that holds no family, but what a family that is data is made of."""


def _in_folders() -> set[str]:
    return {info.name for info in iter_modules(__path__) if info.ispkg and info.name != DECLARED}


@cache
def _in_layers() -> dict[str, Path]:
    """Our families that are data: name to base layer."""
    folders = (Path(str(entry)) for entry in files("graphs").iterdir())
    return {folder.name: folder / BASE_LAYER for folder in folders if (folder / BASE_LAYER).is_file()}


def _ours() -> set[str]:
    return _in_folders() | {*_in_layers()}


def family_names() -> list[str]:
    """Every family there is, ours first, then those of installed packages."""
    ours = _ours()
    return [*sorted(ours), *sorted({entry.name for entry in _installed(tuple(sys.path))} - ours)]


@cache
def _installed(path: tuple[str, ...]) -> EntryPoints:
    """What packages in these folders bring, looked for once: that reads of every package there is."""
    return entry_points(group=GROUP)


@cache
def family(name: str) -> ModelFamily:
    """The family of that name: `FAMILY` of the folder `name` here, a layer's, else an entry point's; raises RinggraphError."""
    if name in _in_folders():
        return import_module(f"{__name__}.{name}").FAMILY
    if name in _in_layers():
        return _declared(_in_layers()[name])
    for entry in _installed(tuple(sys.path)):
        if entry.name == name:
            return _loaded(entry)
    names = family_names()
    hint = did_you_mean(name, names) or f"families are {', '.join(names)}"
    raise RinggraphError(f"unknown model family '{name}'", hint=hint)


def _declared(base_layer: Path) -> ModelFamily:
    """The family that a layer declares; imported here, as what it is made of needs the protocols."""
    return import_module(f"{__name__}.{DECLARED}.family").family_of_file(base_layer)


def _loaded(entry: EntryPoint) -> ModelFamily:
    """What an entry point names; raises RinggraphError."""
    package = entry.dist.name if entry.dist else entry.module
    what, hint = f"model family '{entry.name}' of package '{package}' ({entry.value})", f"mend or uninstall '{package}'"
    try:
        found: Any = entry.load()
        if isinstance(found, ModuleType):
            found = _declared(Path(str(files(found) / BASE_LAYER)))
        made = found if hasattr(found, "model_types") and not isinstance(found, type) else found()
        name = made.name
    except Exception as error:  # whatever somebody else's module does when it is imported
        raise RinggraphError(f"{what} cannot be loaded: {error}", hint=hint) from error
    if name != entry.name:
        raise RinggraphError(f"{what} calls itself '{name}'", hint=hint)
    return made


def family_of_type(model_type: object) -> ModelFamily | None:
    """The family that takes a `config.json` of that `model_type`; None if none does. Raises RinggraphError."""
    return next((found for name in family_names() if model_type in (found := family(name)).model_types), None)


def model_types() -> list[str]:
    """Every `model_type` that some family takes; raises RinggraphError."""
    return sorted({model_type for name in family_names() for model_type in family(name).model_types})
