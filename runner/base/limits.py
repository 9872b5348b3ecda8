"""How much a small file may ask for before it is refused; the variable RINGGRAPH_LIMITS raises or lowers that (docs/cli.md).

A typing error in a range, or a file from somebody else, must not take the machine down. The largest shipped program, of 1.3
million tasks, keeps within all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from runner.base.errors import ConfigError, did_you_mean

VARIABLE = "RINGGRAPH_LIMITS"


ITEMS_OF_ANY = 100_000
"""Items that a graph may have however short its files are: they are expanded and planned in a few seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may be made of one graph or recorded program.

    items    tasks, scopes, loops, choices and bodies of trips
    trips    trips of loops
    uses     used graphs that are spliced in
    edges    what tasks wait for, inferred and by `after`
    steps    submissions, scopes and trips of a recorded program
    density  items for each byte of the graph's files, beyond the first ITEMS_OF_ANY
    blocks   blocks that tasks run as, for each item that the graph may have, or each of the `steps` of a recorded program
    frontier tasks of a graph that is not installed, or of a recorded program, whose frontier is traced

    and the most `findings` of a graph's file, or of its expansion, before the rest is not looked for.
    """

    items: int = 2_000_000
    trips: int = 250_000
    uses: int = 20_000
    edges: int = 5_000_000
    steps: int = 500_000
    findings: int = 1_000
    density: int = 50
    blocks: int = 10
    frontier: int = 1_100

    @classmethod
    def current(cls, env: Mapping[str, str] = os.environ) -> Limits:
        """The defaults, with what the environment gives (`items=5000000,trips=1000000`); raises ConfigError."""
        given: dict[str, int] = {}
        names = [field.name for field in fields(cls)]
        for part in filter(None, re.split(r"[,\s]+", env.get(VARIABLE, ""))):
            name, _, value = part.partition("=")
            if name not in names:
                hint = did_you_mean(name, names) or f"limits are {', '.join(names)}"
                raise ConfigError(f"environment variable {VARIABLE}: no limit is called '{name}'", hint=hint)
            if not re.fullmatch(r"[0-9]{1,18}", value):
                raise ConfigError(f"environment variable {VARIABLE}: '{part}' gives no number, expected '{name}=N'")
            given[name] = int(value)
        return replace(cls(), **given)


def how_to_raise(name: str) -> str:
    """The hint of a refusal."""
    return f"if it is meant to be so large, set {VARIABLE}={name}=N"
