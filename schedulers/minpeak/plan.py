"""What the planner is asked and what it answers: options, a plan with its certificate, and the notes that explain it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any, cast

from runner.base.errors import ConfigError, did_you_mean
from runner.rings.replay import RunTimes
from runner.rings.schedule import Schedule
from runner.rings.timed import Timing, default_timing
from runner.writeback.annotations import Annotations, Demands
from schedulers.minpeak.techniques import ALL, Techniques, chosen

OBJECTIVES = ("balanced", "total", "worst", "makespan")

BALANCE_S = 600.0
"""Seconds after which the search for a balanced plan ends at the latest: its effort is limited, and ends it much sooner."""

SLACK = 0.05
"""The part by which a balanced plan's run may be longer than the fastest."""


@dataclass(frozen=True)
class Options:
    """See `schedulers.minpeak.planner`."""

    objective: str = "balanced"
    budget_bytes: int | None = None
    slack: float = SLACK
    share: bool = True
    written: bool | Demands = False
    techniques: Techniques = ALL
    time_limit_s: float = 30.0
    timing: Callable[[Schedule], Timing] = lambda schedule: default_timing()
    report: Callable[[Plan], None] = lambda plan: None
    progress: Callable[[str, float], None] = lambda text, value: None

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Options:
        """Options from a mapping that may hold other strategies' too; raises ConfigError."""
        known = {name: value for name, value in given.items() if name in cls.__dataclass_fields__ and value is not None}
        if known.get("budget_bytes") is not None:
            known.setdefault("objective", "makespan")
        if known.get("written"):
            known.setdefault("objective", "total")
        if known.get("objective", cls.objective) == "balanced":
            known.setdefault("time_limit_s", BALANCE_S)
        if "techniques" in known:
            known["techniques"] = chosen(cast(Mapping[str, bool], known["techniques"]))
        found = cls(**cast(dict[str, Any], known))
        if found.objective not in OBJECTIVES:
            hint = did_you_mean(found.objective, OBJECTIVES)
            raise ConfigError(f"objective '{found.objective}': expected one of {', '.join(OBJECTIVES)}", hint=hint)
        if not 0 <= found.slack < float("inf"):
            raise ConfigError(f"--slack {100 * found.slack:g}: expected a percentage of 0 or more")
        if found.written and found.objective in ("balanced", "makespan"):
            raise ConfigError("graph files say where scopes are, for an objective of bytes: total or worst")
        return found


@dataclass(frozen=True)
class TimeFacts:
    """What is known of a plan's time, in microseconds of the timed model.

    makespan_us       of the plan, in rings of its safe capacities
    shortest_us       of all strategies that were run in theirs
    fastest_us        the shorter of that and of unlimited rings, which are run when this is asked for
    slack             the part by which the plan may be longer than that
    critical_path_us  no run is shorter: tasks that wait for each other, submissions, values read on the host
    work_us           nor than this: the blocks of all tasks over the cores of their type
    """

    makespan_us: float
    shortest_us: float
    slack: float
    critical_path_us: float
    work_us: float
    unlimited: Callable[[], RunTimes] = field(compare=False)

    @cached_property
    def fastest_us(self) -> float:
        return min(self.shortest_us, self.unlimited().makespan_us or inf)


@dataclass(frozen=True)
class Certificate:
    """What is proved about a plan. Sizes in bytes, of the safe capacities; makespans in microseconds.

    `lower_bound` holds for every placement of this order under the objective (without sharing, if the plan is without); `bound`
    says which bound it is: `peak_live`, `largest_tensor` (for the worst ring), `chain` (`scopes.bounds`), or `search` for an
    exhaustive one. `idle_bytes` are those of rings without blocks, which have 1,024 bytes each and count in a total: one arena
    leaves a gap of no more than that.
    """

    objective: str
    value: float
    lower_bound: float
    bound: str
    idle_bytes: int
    total_bytes: int
    peak_live_bytes: int
    time: TimeFacts | None = None
    """Of a balanced plan."""

    @property
    def gap(self) -> float:
        return self.value - self.lower_bound

    @property
    def proved_optimal(self) -> bool:
        """Whether no placement of this order is better under the objective."""
        return self.value <= self.lower_bound


@dataclass(frozen=True)
class Note:
    """What one step of the planner gave: `technique` is a name of `TECHNIQUES`, or `candidate`, or `winner` for the last note.

    `what` says it in words; `before` and `after` are in `unit` (bytes, us, tasks or edges), None where there is nothing to
    compare; `seconds` passed since the note before.
    """

    technique: str
    what: str
    unit: str = ""
    before: float | None = None
    after: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A schedule, its rings' safe capacities and its certificate; `found_by` names the way it was found.

    `explanation` says what each technique gave and why this plan was taken. `annotations` are what to write for a plan of what
    files can say without sharing. `run` and `unlimited` are known times, the one in `heap_bytes`.
    """

    schedule: Schedule
    heap_bytes: tuple[int, ...]
    certificate: Certificate
    found_by: str
    explanation: tuple[Note, ...] = ()
    annotations: Annotations = field(default_factory=Annotations)
    run: RunTimes | None = None
    unlimited: Callable[[], RunTimes] | None = None
