"""The Python face: what a notebook, a plugin or a test needs, by one name each. docs/python.md shows it.

A name is imported when it is asked for first, so that `import runner` costs nothing.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "runner.driver.face": ("Driver",),
    "runner.driver.planning": ("MinpeakOptions", "PlanResult", "TimedOptions"),
    "runner.program.ops": ("Call", "Cost", "OpRegistry"),
    "runner.base.tensor_spec": ("TensorSpec",),
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
    "runner.rings.placement": ("lower", "PlacedTask", "PlacedAlloc", "PlacedRead", "PlacedLoop", "PlacedScope"),
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


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
