"""Trip counts of dynamic loops when planning: `--routing bound|uniform|random:SEED|FILE`.

The range of a loop over an expert's rows reads how many of the routed rows the expert receives, which is not known before a run.
A source of routings gives these rows, stage by stage (a stage is one pass over the experts).
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from runner.base.errors import ConfigError
from runner.base.reading import MAX_DIGITS, read_json
from runner.models.deepseek_v4.requests import phase_of
from runner.models.protocols import Element, Settings, TripCounts, Values

COUNTED_BY, ROW_COUNTS = "dispatch", "recv_count"
"""The op that counts the rows of a rank's experts, and what a graph calls the counts where they come from outside."""


def counts_rows(names: Collection[str], ops: Collection[str | None]) -> bool:
    """Whether a loop's range reads how many rows each expert of this rank receives."""
    return COUNTED_BY in ops if ops else ROW_COUNTS in names


@dataclass
class Routing:
    """See `TripCounts`. Calls come in the order of one expansion: a new stage begins when the element that a loop reads was read
    before in this one."""

    source: Callable[[int], Sequence[int]]  # stage -> rows per expert
    tile: int
    """A multiple of which a receive buffer has rows."""
    stage: int = -1
    rows: Sequence[int] = ()
    seen: set[tuple[int, ...]] = field(default_factory=set)

    def __call__(
        self, path: str, elements: tuple[Element, ...], bound: int, count: Callable[[Mapping[Element, int]], int], /
    ) -> int | None:
        if not elements or not all(at for _, at in elements):
            return None
        places = [at for _, at in elements]
        if self.stage < 0 or not self.seen.isdisjoint(places):
            self.stage += 1
            self.rows = self.source(self.stage)
            self.seen.clear()
        self.seen.update(places)
        experts = [at[0] for at in places]
        if max(experts) >= len(self.rows):
            what = f"stage {self.stage} has {len(self.rows)} experts, but '{path}' needs number {max(experts)}"
            raise ConfigError(f"--routing: {what}")
        trips = count({element: self.rows[expert] for element, expert in zip(elements, experts, strict=True)})
        if trips > bound:
            most = max(experts, key=lambda expert: self.rows[expert])
            fit = bisect_right(range(self.rows[most]), bound, key=lambda rows: count(dict.fromkeys(elements, rows))) - 1
            needed = -(-self.rows[most] // self.tile) * self.tile
            raise ConfigError(
                f"--routing: stage {self.stage} sends {self.rows[most]:,} rows to expert {most} of rank 0, "
                f"but it can receive {fit:,} ('{path}')",
                hint=f"--set recv_max={needed}, or --set recv_layout=ragged",
            )
        return trips


def trip_counts(text: str, settings: Settings) -> TripCounts | None:
    """The trip counts that `--routing` asks for, None for the bound. Raises ConfigError."""
    if text == "bound":
        return None
    values = settings.values
    kind, _, argument = text.partition(":")
    tile = int(values["ROW_TILE"])
    if text == "uniform":
        share = -(-int(values["T"]) * int(values["EP"]) * int(values["TOPK"]) // int(values["E_ALL"]))
        return Routing(lambda stage: [share] * int(values["E"]), tile)
    if kind == "random":
        if not argument.isdecimal() or len(argument) > MAX_DIGITS:
            raise ConfigError(f"--routing {text}: expected random:SEED with a non-negative integer")
        return Routing(_random_source(int(argument), values), tile)
    if not Path(text).is_file():
        raise ConfigError(f"--routing {text}: no such file", hint="write bound, uniform, random:SEED or a JSON file")
    stages = _recorded_rows(Path(text), values) if _is_recording(Path(text)) else _read_rows(Path(text))
    return Routing(lambda stage: stages[stage % len(stages)], tile)


def _random_source(seed: int, values: Values) -> Callable[[int], Sequence[int]]:
    """Every token of every rank picks its experts uniformly, none twice; the rows of rank 0's experts are counted."""
    num_tokens, experts, num_picks = int(values["T"]) * int(values["EP"]), range(int(values["E_ALL"])), int(values["TOPK"])

    def source(stage: int) -> Sequence[int]:
        pick = random.Random(f"{seed}/{stage}").sample
        rows = Counter(chain.from_iterable([pick(experts, num_picks) for _ in range(num_tokens)]))
        return [rows[expert] for expert in experts[: int(values["E"])]]

    return source


def _is_recording(path: Path) -> bool:
    """Whether the file is a recording in the format of `runner.models.deepseek_v4.recorded_routing`."""
    try:
        with path.open(encoding="utf-8") as file:
            return '"ringgraph-routing"' in file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--routing {path}: {error}") from None


def _recorded_rows(path: Path, values: Values) -> list[list[int]]:
    """Per layer the most rows that each expert of rank 0 got in any recorded call of the deployment's phase."""
    from runner.models.deepseek_v4.recorded_routing import read_routing

    table = read_routing(path)
    phase = phase_of(values)
    if (table.num_experts, table.num_ranks) != (values["E_ALL"], values["EP"]):
        raise ConfigError(
            f"--routing {path}: recorded with {table.num_experts} experts on {table.num_ranks} ranks, "
            f"the configuration has {values['E_ALL']} on {values['EP']}"
        )
    calls = table.rows(phase)
    if not calls:
        raise ConfigError(f"--routing {path}: no call of phase '{phase}' is recorded")
    return [[max(call[layer][e] for call in calls if layer in call) for e in range(values["E"])] for layer in table.layers]


def _read_rows(path: Path) -> list[list[int]]:
    """`[[rows of expert 0, ...], ...]`, one list per stage, used again from the start when there are more stages."""
    data: Any = read_json(path, ConfigError, f"--routing {path}")
    good = isinstance(data, list) and data and all(isinstance(stage, list) and stage for stage in data)
    if not good or not all(type(rows) is int and rows >= 0 for stage in data for rows in stage):
        raise ConfigError(f"--routing {path}: expected a list of stages, each a list of row counts, one per expert of this rank")
    return data
