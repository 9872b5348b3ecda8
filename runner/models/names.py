"""Names of tensors as data: patterns with placeholders, and what a weight's scale and offset are called.

Pattern("layers.{layer}.wq.weight").match("layers.3.wq.weight")     # {"layer": "3"}
Naming().scale_of("layers.3.wq.weight")                             # "layers.3.wq.scale"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
ANYTHING, NUMBER = ".*", "0|[1-9][0-9]{0,8}"
MOST_PLACEHOLDERS = 6
"""In one pattern: each takes any text, and ways to match multiply."""


@dataclass(frozen=True)
class Pattern:
    """A name with placeholders `{a}`; `kinds` are regular expressions of what they stand for, any text without one.

    Raises ValueError with what is wrong with the text.
    """

    text: str
    kinds: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        literal = PLACEHOLDER.sub("", self.text)
        if "{" in literal or "}" in literal:
            raise ValueError("has a brace that is not closed, or not opened")
        bad = [name for name in self.placeholders if not name.isidentifier()]
        if bad:
            raise ValueError(f"has {{{bad[0]}}}, expected a name in braces")
        if len(set(self.placeholders)) < len(self.placeholders):
            raise ValueError("has a placeholder twice")
        if len(self.placeholders) > MOST_PLACEHOLDERS:
            raise ValueError(f"has {len(self.placeholders)} placeholders, at most {MOST_PLACEHOLDERS} are allowed")
        parts = PLACEHOLDER.split(self.text)
        found = (f"(?P<{part}>{self.kinds.get(part, ANYTHING)})" if at % 2 else re.escape(part) for at, part in enumerate(parts))
        object.__setattr__(self, "_regex", re.compile("".join(found), re.DOTALL))
        object.__setattr__(self, "_parts", parts)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """In the order in which they stand."""
        return tuple(PLACEHOLDER.findall(self.text))

    def match(self, name: str) -> dict[str, str] | None:
        """What the placeholders stand for in `name`; None if it is another one."""
        found = self._regex.fullmatch(name)  # type: ignore[attr-defined]
        return None if found is None else found.groupdict()

    def fill(self, values: Mapping[str, Any]) -> str:
        """The name in which every placeholder has its value."""
        parts = self._parts  # type: ignore[attr-defined]
        return "".join([str(values[part]) if at % 2 else part for at, part in enumerate(parts)])


@dataclass(frozen=True)
class Naming:
    """What belongs to a weight on disk. Each pattern has the one placeholder `name`; the first of several is the family's own."""

    weight: Pattern = Pattern("{name}.weight")
    scales: tuple[Pattern, ...] = (Pattern("{name}.scale"),)
    offsets: tuple[Pattern, ...] = (Pattern("{name}.weight_offset"),)

    def is_weight(self, name: str) -> bool:
        """Whether a tensor is called as weights are."""
        return self.weight.match(name) is not None

    def scale_of(self, weight: str) -> str:
        """Where a quantised weight's scale is."""
        return self.scales[0].fill(self._bare(weight))

    def offset_of(self, weight: str) -> str:
        """Where a quantised weight's zero points are."""
        return self.offsets[0].fill(self._bare(weight))

    def _bare(self, weight: str) -> Mapping[str, str]:
        return self.weight.match(weight) or {"name": weight}

    def weights_of(self, part: str) -> Iterator[tuple[str, bool]]:
        """The weights that a tensor can be a part of, in any spelling, and whether as the scale (else as the offset)."""
        for patterns, is_scale in ((self.scales, True), (self.offsets, False)):
            for found in (pattern.match(part) for pattern in patterns):
                if found is not None:
                    yield self.weight.fill(found), is_scale
                    yield found["name"], is_scale

    def own(self, part: str) -> str:
        """A scale or an offset in any spelling as the family calls it; other names stay."""
        for patterns in (self.scales, self.offsets):
            for found in (pattern.match(part) for pattern in (*patterns[1:], patterns[0])):  # the first is the shortest, often
                if found is not None:
                    return patterns[0].fill(found)
        return part


NAMING = Naming()
"""What a family has that says nothing else."""


def naming_of(names: Any) -> Naming:
    """The naming of a layout, which need not have one."""
    return getattr(names, "naming", NAMING)
