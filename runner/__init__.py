"""The Python face: what a notebook, a plugin or a test needs, by one name each. docs/python.md shows it.

A name is imported when it is asked for first, so that `import runner` costs nothing. Editors and type checkers read the imports
below instead, which never run; a test holds the two lists against each other.
"""

# ruff: noqa: F401

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.base.errors import (
        CheckpointError,
        ConfigError,
        DeadlockError,
        Diagnostic,
        ExecutionError,
        GraphError,
        RinggraphError,
        ScheduleError,
        StateError,
    )
    from runner.base.tensor_spec import TensorSpec
    from runner.driver.face import Driver
    from runner.driver.planning import MinpeakOptions, PlanResult, TimedOptions
    from runner.models.declared.family import declared_family
    from runner.models.protocols import (
        CheckpointLayout,
        ModelFamily,
        Normalised,
        RequestState,
        Serving,
        TripCounts,
        Vocabulary,
    )
    from runner.program.ops import Call, Cost, OpRegistry
    from runner.program.program import Program
    from runner.rings.lowering.lower import lower
    from runner.rings.placement import (
        PlacedAlloc,
        PlacedLoop,
        PlacedRead,
        PlacedScope,
        PlacedTask,
    )
    from runner.rings.schedule import Schedule
    from runner.serving.state.turns import Turn
    from schedulers.layouts.batching import Layout, place

_NAMES = {
    "runner.driver.face": ("Driver",),
    "runner.driver.planning": ("MinpeakOptions", "PlanResult", "TimedOptions"),
    "runner.program.ops": ("Call", "Cost", "OpRegistry"),
    "runner.base.tensor_spec": ("TensorSpec",),
    "runner.models.declared.family": ("declared_family",),
    "runner.models.protocols": (
        "CheckpointLayout",
        "ModelFamily",
        "Normalised",
        "RequestState",
        "Serving",
        "TripCounts",
        "Vocabulary",
    ),
    "runner.program.program": ("Program",),
    "runner.rings.schedule": ("Schedule",),
    "runner.rings.lowering.lower": ("lower",),
    "runner.rings.placement": ("PlacedTask", "PlacedAlloc", "PlacedRead", "PlacedLoop", "PlacedScope"),
    "runner.serving.state.turns": ("Turn",),
    "schedulers.layouts.batching": ("Layout", "place"),
    "runner.base.errors": (
        "CheckpointError",
        "ConfigError",
        "DeadlockError",
        "Diagnostic",
        "ExecutionError",
        "GraphError",
        "RinggraphError",
        "ScheduleError",
        "StateError",
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(import_module(_MODULES[name]), name)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
