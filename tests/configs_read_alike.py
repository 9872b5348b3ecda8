"""Configurations as another library reads them and as we do: equal, or refused by a name that is known."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.base.errors import ConfigError

NAMED = re.compile(r"'(\w+)(?:\[\d+\])?'|^'(\w+) ")
"""The names that a message puts in quotes."""


@dataclass(frozen=True)
class Readers:
    """What both read from a folder with a `config.json`, what differs, and the `names` by which we may refuse what they take."""

    theirs: Callable[[Path], dict[str, Any]]
    ours: Callable[[Path], dict[str, Any]]
    differing: Callable[[dict[str, Any], dict[str, Any]], list[str]]
    names: set[str]

    def outcome(self, folder: Path, config: dict[str, Any]) -> str:
        """How one configuration is read; fails if neither equal nor refused as it may be."""
        (folder / "config.json").write_text(json.dumps(config))
        reason: Exception | None = None
        expected = None
        try:
            expected = self.theirs(folder)
        except Exception as error:  # whatever they raise is a refusal
            reason = error
        try:
            got = self.ours(folder)
        except ConfigError as error:
            if expected is None:
                return "both refuse"
            for diagnostic in error.diagnostics:
                named = [name or other for name, other in NAMED.findall(diagnostic.message)]
                assert named and named[0] in self.names, f"{diagnostic.message}: a name that is not known\n{config}"
            return "only ours refuses, by a known name"
        assert expected is not None, f"ours takes what theirs refuses: {reason!r}\n{config}"
        assert self.differing(expected, got) == [], config
        return "equal"

    def outcomes(self, folder: Path, configs: Iterable[dict[str, Any]]) -> Counter[str]:
        """How many configurations are read in which way; printed too."""
        counts = Counter(self.outcome(folder, config) for config in configs)
        print(f"\n{counts.total()} configurations: " + "; ".join(f"{name}: {count}" for name, count in sorted(counts.items())))
        return counts
