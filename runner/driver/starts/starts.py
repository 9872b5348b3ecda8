"""Commented starts of a graph, an op and a family: texts beside this module in which NAME stands for the name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from runner.base.errors import ConfigError
from runner.base.files import write_text

STARTS: Mapping[str, Mapping[str, str]] = {
    "graph": {"NAME.yaml": "graph.yaml"},
    "op": {"NAME.py": "op.txt"},
    "family": {
        "NAME/family.yaml": "family/family.yaml",
        "NAME/NAME_step.yaml": "family/step.yaml",
        "NAME/NAME_prefill.yaml": "family/prefill.yaml",
        "NAME/NAME_decode.yaml": "family/decode.yaml",
    },
}
"""Per kind the files that are written, and the texts that they are made of."""


def write_start(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the files of a start into `folder`, and return them.

    Raises ConfigError for a name that cannot be, or whose files are there, and OSError.
    """
    if kind not in STARTS:
        raise ConfigError(f"'{kind}' has no start", hint=f"one of {', '.join(STARTS)}")
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ConfigError(f"'{name}' cannot be a name", hint="letters, digits and _, a letter first")
    made = {folder / file.replace("NAME", name): text for file, text in STARTS[kind].items()}
    for path in made:
        if path.exists():
            raise ConfigError(f"'{path}' is there already", hint="choose another name, or remove it")
    own = files("runner.driver.starts")
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, (own / text).read_text("utf-8").replace("NAME", name))
    return list(made)
