"""Settings of an editor's workspace: under what its graphs are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from runner.driver.driver import Setup

SECTION = "ringgraph"


@dataclass(frozen=True)
class Settings:
    """The options of `ringgraph lint`; `files` has others for files that a pattern names, from the workspace's folder."""

    config: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    deploy: str | None = None
    ep: int | None = None
    ops: tuple[str, ...] = ()
    ring_heap: str | None = None
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def for_file(self, path: Path, folder: Path) -> Settings:
        """Those of a file: of patterns that name it, the last one wins."""
        found = self
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
        for pattern, given in self.files.items():
            if fnmatch(name, pattern):
                found = read_settings(given, found)[0]
        return replace(found, files={})

    def setup(self, folder: Path) -> Setup:
        """The same for the driver; files are looked for in `folder`."""
        config, ops = (tuple(_found(name, folder) for name in names) for names in (self.config, self.ops))
        return Setup(config, self.sets, self.deploy, self.ep, ops or None)


def _found(name: str, folder: Path) -> str:
    path = folder / name
    return str(path) if path.exists() and not Path(name).is_absolute() else name


def read_settings(given: object, base: Settings | None = None) -> tuple[Settings, list[str]]:
    """The settings in what a client sends, over `base`, and what is wrong with the rest of it."""
    base, problems = base or Settings(), list[str]()
    if not isinstance(given, Mapping):
        return base, [f"'{SECTION}' is no object"] if given is not None else []
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key in ("config", "sets", "ops") and (texts := _texts(value)) is not None:
            found[key] = texts
        elif key in ("deploy", "ringHeap") and (value is None or isinstance(value, str)):
            found["ring_heap" if key == "ringHeap" else key] = value or None
        elif key == "ep" and (value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)):
            found[key] = value
        elif key == "files" and isinstance(value, Mapping) and all(isinstance(each, Mapping) for each in value.values()):
            found[key] = dict(value)
        else:
            problems.append(f"setting '{SECTION}.{key}' is unknown or of the wrong kind")
    return replace(base, **found), problems


def _texts(value: object) -> tuple[str, ...] | None:
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    return tuple(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else None
