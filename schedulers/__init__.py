"""Placement strategies: a `Program` in, a `Schedule` out.

Ours are listed here and loaded when they are asked for; other packages add theirs by entry points in the group
`ringgraph.schedulers`, each a callable `(program, options) -> Schedule`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from runner.base.errors import RinggraphError, did_you_mean
from runner.rings.placement import Scheduler

GROUP = "ringgraph.schedulers"
BUILTIN = {
    **dict.fromkeys(("annotated", "unscoped", "manual", "auto", "autoscope"), "schedulers.layouts.layouts"),
    "minpeak": "schedulers.minpeak.planner",
}
"""Strategy NAME is the function NAME of this module."""


def scheduler_names() -> list[str]:
    """All strategies, ours first."""
    plugins = sorted({entry.name for entry in entry_points(group=GROUP)} - set(BUILTIN))
    return [*BUILTIN, *plugins]


def get_scheduler(name: str) -> Scheduler:
    """The strategy of that name; raises RinggraphError."""
    if name in BUILTIN:
        return getattr(import_module(BUILTIN[name]), name)
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return _load(entry)
    names = scheduler_names()
    raise RinggraphError(f"unknown scheduler '{name}'", hint=did_you_mean(name, names) or f"one of {', '.join(names)}")


def _load(entry: EntryPoint) -> Scheduler:
    try:
        found = entry.load()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise RinggraphError(f"scheduler '{entry.name}' ({entry.value}) cannot be loaded: {reason}") from error
    if not callable(found):
        raise RinggraphError(f"scheduler '{entry.name}' ({entry.value}) is not callable")
    return cast(Scheduler, found)
