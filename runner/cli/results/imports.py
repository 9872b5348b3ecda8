"""This module tells which package failed as it was imported: torch may be absent, or broken, and what plans never notices."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb

OURS = frozenset({"runner", "ops", "schedulers", "graphs"})
THEIRS = frozenset({"torch", "numpy", "networkx", "safetensors", "tokenizers", "matplotlib"})
"""What ours is installed with; a file of the user's that cannot be imported is told by who reads it."""


def failed_import(error: BaseException) -> str | None:
    """What to say of an error that a package which is not ours raised while it was imported; None for any other error.

    A broken package raises whatever it meets, an OSError for a shared library for example: what tells is that the body of a
    module of its was running, which one of ours had asked for.
    """
    around = [frame for frame, _ in walk_tb(error.__traceback__)]
    frames = [(frame.f_globals.get("__name__", "").partition(".")[0], frame.f_code.co_name) for frame in around]
    last = max((at for at, (package, _) in enumerate(frames) if package in OURS), default=-1)
    behind = [package for package, code in frames[last + 1 :] if code == "<module>"]
    if not behind and isinstance(error, SyntaxError | OSError):  # its first module could not be read: no body ran
        behind = _package_of(error.filename)
    if not behind:
        behind = _remains_of(error)
    if behind:
        name, problem = behind[0], f"cannot be imported: {type(error).__name__}: {error}"
    elif isinstance(error, ModuleNotFoundError) and error.name:
        name, problem = error.name.partition(".")[0], "is not installed"
    else:
        return None
    if name not in THEIRS:
        return None
    again = "--force-reinstall " if behind else ""
    rest = "; what lints and plans works without" if name == "torch" else ""
    return f"error: {name} {problem}\nhint: pip install {again}{name}{rest}"


def _remains_of(error: BaseException) -> list[str]:
    """The package of which a folder is left without its modules, where what it should have was looked for in vain."""
    name = getattr(error.obj, "__name__", "") if isinstance(error, AttributeError) else getattr(error, "name", None) or ""
    package = sys.modules.get(name) if name in THEIRS else None
    return [name] if package is not None and getattr(package, "__file__", None) is None else []


def _package_of(file: object) -> list[str]:
    """The package among `THEIRS` that a file is of, if it is of any."""
    if not isinstance(file, str):
        return []
    for name in THEIRS:
        with suppress(ImportError, ValueError):
            spec = find_spec(name)
            places = [] if spec is None else spec.submodule_search_locations or [spec.origin or ""]
            if any(place and Path(file).is_relative_to(place) for place in places):
                return [name]
    return []
