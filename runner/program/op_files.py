"""Ops from Python files that nobody has installed: `--ops FILE.py`, or `Driver(ops=["FILE.py"])`.

A file declares its ops as a module of a package does: in an `OpRegistry` named `ops`, or in a function `register(registry)`.
Kernels may stand in the file itself, or in a file beside it (`OpRegistry(kernels="my_kernels")`), which is read when an op
first runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from runner.base.errors import ConfigError, Diagnostic, Mark, RinggraphError
from runner.base.source_files import module_of_file
from runner.program.ops import Kernel, OpRegistry


def ops_of_files(paths: Iterable[str | Path]) -> OpRegistry:
    """The ops of all files, each file once; raises ConfigError where one has none or cannot be run, or where names clash."""
    found = OpRegistry()
    for path in dict.fromkeys(Path(path).resolve() for path in paths):
        shown = _shown(path)
        declared = _declared(module_of_file(shown), shown)
        try:
            for name in declared:
                definition = declared[name]
                if isinstance(definition.kernel, Kernel):
                    definition = replace(definition, kernel=replace(definition.kernel, beside=str(shown)))
                found.add(definition)
        except RinggraphError as error:
            raise ConfigError(Diagnostic("C107", error.message, Mark(str(shown), 1), hint=error.hint)) from error
    return found


def _shown(path: Path) -> Path:
    """As messages call it: from the folder that commands run in, if it lies there."""
    try:
        return path.relative_to(Path.cwd())
    except (ValueError, OSError):
        return path


def _declared(module: ModuleType, path: Path) -> OpRegistry:
    """What a file declares; raises ConfigError."""
    declared, register = getattr(module, "ops", None), getattr(module, "register", None)
    if not isinstance(declared, OpRegistry) and callable(register):
        declared = OpRegistry()
        try:
            register(declared)
        except Exception as error:  # whatever somebody's function does
            raise ConfigError(Diagnostic("C107", f"'register' failed: {error}", _place(register, path))) from error
    if not isinstance(declared, OpRegistry):
        others = sorted(name for name, value in vars(module).items() if isinstance(value, OpRegistry))
        hint = f"call its table 'ops', not '{others[0]}'" if others else "it should have a table: ops = OpRegistry(...)"
        raise ConfigError(Diagnostic("C107", "the file declares no ops", Mark(str(path), 1), hint=hint))
    if not declared:
        hint = "ops.declare(NAME, SIGNATURE, core=...) or @ops.op(NAME, SIGNATURE, core=...) adds one; docs/ops.md says how"
        raise ConfigError(Diagnostic("C107", "the file declares no ops: its table 'ops' is empty", Mark(str(path), 1), hint=hint))
    return declared


def _place(function: object, path: Path) -> Mark:
    code = getattr(function, "__code__", None)
    return Mark(str(path), code.co_firstlineno if code is not None else 1)
