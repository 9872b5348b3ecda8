"""Families of models, found by name: folders here, and what installed packages bring by entry points. `protocols` is the door."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules

from runner.base.errors import RinggraphError, did_you_mean
from runner.models.protocols import ModelFamily

GROUP = "ringgraph.models"
"""Entry points that name a `ModelFamily`: an object, or a class or function without arguments that gives one."""


_NO_FAMILY = {"declared"}
"""The folder that reads what families declare as data."""


def _ours() -> set[str]:
    return {info.name for info in iter_modules(__path__) if info.ispkg} - _NO_FAMILY


def family_names() -> list[str]:
    """Every family there is, ours first, then those of installed packages."""
    ours = _ours()
    return [*sorted(ours), *sorted({entry.name for entry in entry_points(group=GROUP)} - ours)]


@cache
def family(name: str) -> ModelFamily:
    """The family of that name: `FAMILY` of the folder `name` here, else an entry point's; raises RinggraphError."""
    if name in _ours():
        return import_module(f"{__name__}.{name}").FAMILY
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return _loaded(entry)
    names = family_names()
    hint = did_you_mean(name, names) or f"families are {', '.join(names)}"
    raise RinggraphError(f"unknown model family '{name}'", hint=hint)


def _loaded(entry: EntryPoint) -> ModelFamily:
    """What an entry point names; raises RinggraphError."""
    package = entry.dist.name if entry.dist else entry.module
    what, hint = f"model family '{entry.name}' of package '{package}' ({entry.value})", f"mend or uninstall '{package}'"
    try:
        found = entry.load()
        found = found if hasattr(found, "model_types") and not isinstance(found, type) else found()
        name = found.name
    except Exception as error:  # whatever somebody else's module does when it is imported
        raise RinggraphError(f"{what} cannot be loaded: {error}", hint=hint) from error
    if name != entry.name:
        raise RinggraphError(f"{what} calls itself '{name}'", hint=hint)
    return found


def family_of_type(model_type: object) -> ModelFamily | None:
    """The family that takes a `config.json` of that `model_type`; None if none does. Raises RinggraphError."""
    return next((found for name in family_names() if model_type in (found := family(name)).model_types), None)


def model_types() -> list[str]:
    """Every `model_type` that some family takes; raises RinggraphError."""
    return sorted({model_type for name in family_names() for model_type in family(name).model_types})
