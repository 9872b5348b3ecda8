"""Ops by family: what every op needs and costs, and in `ops.kernels` what runs it. See `docs/ops.md`.

A module of this package declares its ops in an `OpRegistry` named `ops`, or adds them in a function `register(registry)`;
`register_all` finds both, and those of other installed packages by entry point. Kernels lie apart, as they import torch, which
planning does without: `ops/kernels` has a module for each one here.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import walk_packages

from runner.base.errors import RinggraphError
from runner.program.ops import OpRegistry

GROUP = "ringgraph.ops"
"""Entry points that name an `OpRegistry`, or a function that takes the registry and adds to it."""


def register_all(registry: OpRegistry) -> None:
    """Add our ops, then third parties', to `registry`.

    Raises RinggraphError, naming the entry point and its package, where one cannot be loaded or takes a name that is taken.
    """
    for module in declaring_modules():
        found = import_module(module)
        if isinstance(declared := getattr(found, "ops", getattr(found, "register", None)), OpRegistry) or callable(declared):
            _add(registry, declared)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            _add(registry, entry.load())
        except Exception as error:  # whatever somebody else's module does when it is imported
            package = entry.dist.name if entry.dist else entry.module
            raise RinggraphError(
                f"entry point '{entry.name}' of package '{package}' ({entry.value}) cannot be used: {error}",
                hint=f"mend or uninstall '{package}'",
            ) from error


def declaring_modules() -> list[str]:
    """Our modules that may declare ops: all but the kernels."""
    found = walk_packages(__path__, f"{__name__}.")
    return sorted(info.name for info in found if not info.ispkg and not info.name.startswith(f"{__name__}.kernels."))


def _add(registry: OpRegistry, found: object) -> None:
    """Add what `found` declares: an OpRegistry's ops, or whatever a function adds."""
    if isinstance(found, OpRegistry):
        for name in found:
            registry.add(found[name])
        registry.fusions += found.fusions
    elif callable(found):
        found(registry)
    else:
        raise TypeError(f"it is of type '{type(found).__name__}', expected an OpRegistry or a function")
